"""The encoder's model thread: jobs share batches without changing each other's results."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoder_worker.encoder import decode_jpeg
from encoder_worker.scheduler import Encodings, Scheduler, Wish
from llava_mini.model import LlavaMini
from tests.submitting import draw_pictures
from tests.waiting import wait_until
from tests.watched import WatchedModel

TEXTS = ((4, 20, 21), (22, 5), (4, 20, 22, 23))
BATCH = 16


@pytest.fixture(scope="module")
def pixels(model: LlavaMini) -> Tensor:
    return model.preprocess(np.stack([decode_jpeg(picture, "") for picture in draw_pictures(64)]))


@pytest.fixture(scope="module")
def alone(model: LlavaMini, pixels: Tensor) -> Callable[[int], tuple[Tensor, list[Tensor]]]:
    """The tokens of a frame and each of TEXTS fused with it, computed alone."""
    made = {}

    def find(frame: int) -> tuple[Tensor, list[Tensor]]:
        if frame not in made:
            encoded = model.encode(pixels[frame : frame + 1], TEXTS)
            made[frame] = encoded.tokens[0], [text[0] for text in encoded.fused]
        return made[frame]

    return find


@pytest.fixture
def scheduler(watched: WatchedModel) -> Scheduler:
    return Scheduler(cast(LlavaMini, watched), BATCH)


class Crowd:
    """Jobs that hand in work from their own threads, one after the other."""

    def __init__(self, scheduler: Scheduler, watched: WatchedModel, pixels: Tensor) -> None:
        self._scheduler, self._watched, self._pixels = scheduler, watched, pixels
        self._threads = ThreadPoolExecutor(16)

    def plug(self) -> None:
        """Keeps the model busy with one frame until it is released, so that new work waits together."""
        self._watched.hold()
        self.ask([63], [(TEXTS[0], [0])])
        wait_until(lambda: self._watched.calls, within_s=10, step_s=0.001)

    def ask(
        self, frames: Sequence[int], wishes: Sequence[Wish], *, urgent: bool = False, broken: bool = False
    ) -> Future[Encodings]:
        waiting, calls = self._scheduler._new.qsize(), len(self._watched.calls)

        def give(first: int, stop: int) -> Tensor:
            if broken:
                raise ValueError("a picture that cannot be prepared")
            return self._pixels[list(frames[first:stop])]

        def has_arrived() -> bool:
            return self._scheduler._new.qsize() > waiting or len(self._watched.calls) > calls or future.done()

        future = self._threads.submit(self._scheduler.encode, len(frames), give, wishes, urgent=urgent)
        wait_until(has_arrived, within_s=10, step_s=0.001)
        return future


@pytest.fixture
def crowd(scheduler: Scheduler, watched: WatchedModel, pixels: Tensor) -> Crowd:
    return Crowd(scheduler, watched, pixels)


def close(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    return np.allclose(found, wanted, atol=1e-4, rtol=1e-4)


def test_batches_across_jobs_equal_one_by_one(
    crowd: Crowd, watched: WatchedModel, alone: Callable[[int], tuple[Tensor, list[Tensor]]]
) -> None:
    crowd.plug()
    frames = [list(range(10)), list(range(10, 17)), list(range(17, 40))]
    futures = [crowd.ask(each, [(TEXTS[0], range(len(each)))]) for each in frames]
    watched.released.set()
    for each, future in zip(frames, futures, strict=True):
        encoded = future.result(60)
        assert close(encoded.tokens, np.stack([alone(frame)[0].numpy() for frame in each]))
        assert close(encoded.means[0], np.mean([alone(frame)[1][0].numpy() for frame in each], axis=0))
    assert [count for count, _ in watched.calls] == [1, 16, 16, 8]  # 40 frames of three jobs: full batches


def test_fusions_of_differing_texts_do_not_mix(
    crowd: Crowd, watched: WatchedModel, alone: Callable[[int], tuple[Tensor, list[Tensor]]]
) -> None:
    """Each wish gets the mean of its own text over its own frames, in the order of the wishes."""
    wishes: list[Wish] = [
        (TEXTS[1], [17, 18, 19]),  # in the second batch alone
        (TEXTS[0], [0]),
        (TEXTS[2], range(20)),
        (TEXTS[0], [1, 19]),
        (TEXTS[1], [3]),
    ]
    others: list[Wish] = [(TEXTS[0], [0]), (TEXTS[1], [0]), (TEXTS[2], [0])]  # the same texts, in another order
    crowd.plug()
    first = crowd.ask(range(20), wishes)
    second = crowd.ask([40], others)
    third = crowd.ask(range(20, 40), wishes)  # shares batches with the first
    watched.released.set()

    def wanted(wish: Wish, offset: int) -> NDArray[Any]:
        text = TEXTS.index(wish[0])
        mean: NDArray[Any] = np.mean([alone(offset + place)[1][text].numpy() for place in wish[1]], axis=0)
        return mean

    for future, offset in ((first, 0), (third, 20)):
        means = future.result(60).means
        assert [close(mean, wanted(wish, offset)) for wish, mean in zip(wishes, means, strict=True)] == [True] * 5
        same_text = [(1, 3), (0, 4)]
        assert not any(close(means[one], means[other]) for one, other in same_text)  # so a wrong order would be noticed
    assert [close(m, wanted(w, 40)) for w, m in zip(others, second.result(60).means, strict=True)] == [True] * 3
    assert not close(wanted(wishes[0], 0), wanted(wishes[0], 20))


def test_urgent_work_goes_first_between_two_batches(crowd: Crowd, watched: WatchedModel) -> None:
    watched.hold()
    long = crowd.ask(range(48), [(TEXTS[0], range(48))])
    wait_until(lambda: watched.calls, within_s=10)
    waiting = crowd.ask(range(5), [(TEXTS[2], range(5))])
    question = crowd.ask(range(7), [(TEXTS[1], range(7))], urgent=True)
    watched.released.set()
    for future in (long, waiting, question):
        future.result(60)
    assert [count for count, _ in watched.calls] == [16, 7, 16, 16, 5]


def test_an_error_reaches_only_the_job_at_fault_and_the_thread_survives(
    crowd: Crowd, watched: WatchedModel, alone: Callable[[int], tuple[Tensor, list[Tensor]]]
) -> None:
    crowd.plug()
    good = crowd.ask([0, 1], [(TEXTS[0], [0, 1])])
    bad = crowd.ask([2], [(TEXTS[0], [0])], broken=True)  # in one batch with the good ones
    late = crowd.ask([3], [(TEXTS[0], [0])])
    watched.released.set()
    with pytest.raises(ValueError, match="cannot be prepared"):
        bad.result(60)
    assert close(good.result(60).tokens, np.stack([alone(0)[0].numpy(), alone(1)[0].numpy()]))
    assert close(late.result(60).means[0], alone(3)[1][0].numpy())
    assert close(crowd.ask([4], [(TEXTS[1], [0])]).result(60).means[0], alone(4)[1][1].numpy())


def test_running_out_of_memory_once_fails_no_job(crowd: Crowd, watched: WatchedModel) -> None:
    def run_out(call: int) -> None:
        if call == 1:
            raise torch.OutOfMemoryError("as CUDA says it")

    watched.before = run_out
    assert len(crowd.ask(range(3), [(TEXTS[0], range(3))]).result(60).tokens) == 3
    assert watched.calls == [(3, 1), (3, 1)]


def test_sums_are_made_in_float32(crowd: Crowd, model: LlavaMini, pixels: Tensor) -> None:
    """In 16 bits the mean of 64 frames would be off by a thousandth."""
    fused = model.encode(pixels, [TEXTS[0]], batch_frames=BATCH).fused[0].double().mean(0).numpy()
    mean = crowd.ask(range(64), [(TEXTS[0], range(64))]).result(60).means[0]
    assert mean.dtype == np.float32
    assert np.abs(mean - fused).max() < 1e-5 * np.abs(fused).max()
