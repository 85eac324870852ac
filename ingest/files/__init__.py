"""Turns an address or a file into sampled frames. Knows nothing of the archive, Redis or jobs."""
