"""Waits for a condition instead of a time."""

import threading
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], *, within_s: float = 60.0, step_s: float = 0.05) -> None:
    """Returns once `condition()` is true; fails the test after `within_s`."""
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not true within {within_s} s: {condition}"
        pause.wait(step_s)
