"""One thread owns the model. It works for the job threads in turns, so that several questions advance together."""

import queue
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

TURN_POSITIONS = 512  # positions of a prefix, or of packed questions, per turn

Result = TypeVar("Result")


class ModelThread:
    """Runs turns one after the other. Callers split a long computation into many short turns."""

    def __init__(self) -> None:
        self._turns: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="model", daemon=True).start()

    def run(self, turn: Callable[[], Result]) -> Result:
        """Runs `turn` on the model thread; returns what it returns and raises what it raises."""
        future: Future[Result] = Future()
        self._turns.put((turn, future))
        try:
            return future.result()
        finally:
            del future  # breaks the cycle of error, traceback and this frame, which would keep caches alive

    def _run(self) -> None:
        while True:
            turn, future = self._turns.get()
            try:
                future.set_result(turn())
            except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
                traceback.clear_frames(error.__traceback__)  # frees what the turn made before the next try
                future.set_exception(error)
            del turn, future  # an idle thread holds no caches
