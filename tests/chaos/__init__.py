"""The whole service under all disturbances at once: `python -m tests.chaos --minutes N --seed S`."""
