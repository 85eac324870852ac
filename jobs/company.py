"""Lets a job that may have killed its worker run alone in its process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Seat:
    """The place of a job that has joined."""

    alone: bool


class Company:
    """A lock that many jobs share or one holds alone. While a job waits to be alone, no other can join."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._present = 0
        self._alone_wanted = 0
        self._alone = False

    @contextmanager
    def join(self, *, alone: bool, wait_s: float) -> Iterator[Seat | None]:
        """Joins the others, or waits to be alone; yields None if the others did not finish within `wait_s`."""
        seat = self._enter_alone(wait_s) if alone else self._enter()
        try:
            yield seat
        finally:
            if seat is not None:
                self._leave(seat)

    def admit_others(self, seat: Seat) -> None:
        """Lets others join a job that was alone."""
        with self._changed:
            if seat.alone:
                seat.alone, self._alone = False, False
                self._present += 1
                self._changed.notify_all()

    def _enter(self) -> Seat:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._alone_wanted)
            self._present += 1
        return Seat(alone=False)

    def _enter_alone(self, wait_s: float) -> Seat | None:
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
        return Seat(alone=True) if free else None

    def _leave(self, seat: Seat) -> None:
        with self._changed:
            if seat.alone:
                self._alone = False
            else:
                self._present -= 1
            self._changed.notify_all()
