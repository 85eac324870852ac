"""The HTTP service and the command line. Never loads torch."""
