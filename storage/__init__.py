"""What is kept and passed on: archive, hot copy, queues, answers. The only code that knows a key, a path or a queue."""
