"""Turns a source into sampled frames in the archive. Never loads torch."""
