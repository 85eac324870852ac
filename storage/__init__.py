"""Archive, state and cache. Only this package knows the archive's paths and the Redis keys of stored data."""
