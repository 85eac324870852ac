"""One thread owns the model: what job threads want of it is done in turns, so that several questions go on together."""

import queue
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class ModelThread:
    """Runs what it is handed, one after the other. A long computation is handed in as many short turns."""

    def __init__(self) -> None:
        self._turns: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="model", daemon=True).start()

    def run(self, turn: Callable[[], Result]) -> Result:
        """What `turn` returns or raises on the model's thread."""
        future: Future[Result] = Future()
        self._turns.put((turn, future))
        try:
            return future.result()
        finally:
            del future  # an error, its traceback and this frame would hold each other, and all caches below

    def _run(self) -> None:
        while True:
            turn, future = self._turns.get()
            try:
                future.set_result(turn())
            except BaseException as error:  # noqa: BLE001 - it is the caller's, and raised there
                traceback.clear_frames(error.__traceback__)  # what the turn had made is freed before another is tried
                future.set_exception(error)
            del turn, future  # an idle thread holds no caches
