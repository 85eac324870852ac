"""The model's thread keeps nothing of a turn that failed or ended."""

import time
import weakref

import pytest
import torch

from reasoner.scheduler import ModelThread


def test_what_a_failed_turn_had_made_is_freed_while_its_error_is_handled() -> None:
    thread = ModelThread()
    made: list[weakref.ref[torch.Tensor]] = []

    def turn() -> None:
        activations = torch.zeros(1000)
        made.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    try:
        thread.run(turn)
    except torch.OutOfMemoryError:
        assert made[0]() is None
    else:
        pytest.fail("nothing was raised")


def test_an_idle_thread_holds_neither_a_turn_nor_its_result() -> None:
    thread = ModelThread()
    result = weakref.ref(thread.run(lambda: torch.zeros(1000)))
    thread.run(lambda: None)
    assert result() is None
    cache = torch.zeros(1000)
    alive = weakref.ref(cache)
    thread.run(lambda cache=cache: float(cache.sum()))
    del cache
    deadline = time.monotonic() + 5
    while alive() is not None and time.monotonic() < deadline:
        time.sleep(0.01)  # it lets go just after the result is there
    assert alive() is None
