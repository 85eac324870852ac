"""Frames of different jobs go through the model together."""

import threading

import numpy as np
import pytest

from configs.loading import load_settings
from encoder_worker.__main__ import load_encoder
from encoder_worker.encoder import Encoder
from encoder_worker.scheduler import Encodings, Work
from tests.waiting import wait_until

SIDE_PX = 336


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(load_settings("tiny"))


def test_an_image_and_frames_of_a_video_share_a_batch(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    frames = list(rng.integers(0, 256, (3, SIDE_PX, SIDE_PX, 3), np.uint8))
    image = rng.integers(0, 256, (200, 300, 3), np.uint8)
    wishes = [(encoder.system_text, [0])]
    alone = [encoder.encode_frames(frames, wishes), encoder.encode_image(image, wishes)]

    scheduler = encoder._scheduler
    run_batch, both_wait, sizes = scheduler._run_batch, threading.Event(), list[int]()

    def run(batch: list[tuple[Work, int, int]]) -> None:
        both_wait.wait(20)
        sizes.append(len(batch))
        run_batch(batch)

    monkeypatch.setattr(scheduler, "_run_batch", run)
    found: dict[str, Encodings] = {}
    jobs = [
        threading.Thread(target=lambda: encoder.encode_frames(frames[:1], wishes)),  # the model is busy with it
        threading.Thread(target=lambda: found.update(frames=encoder.encode_frames(frames, wishes))),
        threading.Thread(target=lambda: found.update(image=encoder.encode_image(image, wishes))),
    ]
    jobs[0].start()
    wait_until(lambda: scheduler._pending, within_s=20)
    for job in jobs[1:]:
        job.start()
    wait_until(lambda: scheduler._new.qsize() == 2, within_s=20)
    both_wait.set()
    for job in jobs:
        job.join(60)

    assert sizes == [1, 2]
    for one, other in zip(alone, (found["frames"], found["image"]), strict=True):
        np.testing.assert_allclose(other.tokens, one.tokens, atol=1e-4)
        np.testing.assert_allclose(other.means[0], one.means[0], atol=1e-4)
