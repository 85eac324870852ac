"""The model's thread keeps nothing of a turn that failed or ended."""

import weakref
from functools import partial

import pytest
import torch

from reasoner.scheduler import ModelThread
from tests.waiting import wait_until


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
    thread.run(partial(torch.sum, cache))
    del cache
    wait_until(lambda: alive() is None, within_s=5)  # it lets go just after the result is there
