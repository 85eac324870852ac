"""Background work: queues, workers, attempt counts, and the reconciler that brings back lost jobs."""
