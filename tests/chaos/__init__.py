"""The whole service under every disturbance at once: `python -m tests.chaos --minutes N --seed S`."""
