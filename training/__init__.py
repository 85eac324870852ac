"""Makes the shipped small checkpoint: a generated world, questions about it, the training stages, the evaluation."""
