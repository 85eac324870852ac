"""The `longwatch` command line: talks HTTP to a running service, starts one on this machine, and checks it."""
