"""The HTTP service. Never loads torch."""
