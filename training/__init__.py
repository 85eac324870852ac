"""How the shipped small checkpoint is made: a generated world, its questions, the training stages, the evaluation."""
