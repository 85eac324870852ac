"""What is kept: archive, state and cache. The only code that knows an archive path, or a Redis key of what is kept."""
