"""From an address or a file to sampled frames. Knows nothing of the archive, Redis or jobs."""
