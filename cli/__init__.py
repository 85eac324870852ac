"""The command line, `longwatch`: speaks HTTP to a running service, starts one on this machine, and examines it."""
