"""What is to be done: queues, workers, attempts, and the reconciler that cures every lost job."""
