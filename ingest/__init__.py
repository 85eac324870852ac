"""From a source to sampled frames in the archive. Never loads torch."""
