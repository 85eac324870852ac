"""Captures live cameras: one child process per camera, and the supervisor that looks after them."""
