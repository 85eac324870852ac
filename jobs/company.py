"""Lets a job that may have killed its worker run alone in its process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Company:
    """A lock that many jobs share or one holds alone. While a job waits to be alone, no other can join."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._present = 0
        self._alone_wanted = 0
        self._alone = False

    @contextmanager
    def join(self, *, alone: bool, wait_s: float) -> Iterator[bool]:
        """Joins the others, or waits to be alone; yields False if the others did not finish within `wait_s`."""
        joined = self._enter_alone(wait_s) if alone else self._enter()
        try:
            yield joined
        finally:
            if joined:
                self._leave(alone=alone)

    def _enter(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._alone_wanted)
            self._present += 1
        return True

    def _enter_alone(self, wait_s: float) -> bool:
        deadline = time.monotonic() + wait_s
        with self._changed:
            self._alone_wanted += 1
            try:
                free = self._changed.wait_for(
                    lambda: not self._alone and not self._present, timeout=deadline - time.monotonic()
                )
                self._alone = self._alone or free
            finally:
                self._alone_wanted -= 1
                self._changed.notify_all()
        return free

    def _leave(self, *, alone: bool) -> None:
        with self._changed:
            if alone:
                self._alone = False
            else:
                self._present -= 1
            self._changed.notify_all()
