"""What a question needs of its video: gathered, waited for, or missed with a reason."""

import numpy as np
import pytest

from configs.settings import ReasonerSettings, Settings
from encoder_worker.encoder import Encoder
from encoder_worker.jobs import EncoderJobs
from reasoner.engine import Engine
from reasoner.jobs import ReasonerJobs
from storage.models import Video
from storage.queues import ENCODE, FUSE
from storage.records import Record
from storage.store import Store
from tests.reasoner.asking import FRAMES, ask, gatherer
from tests.storage.test_archive import new_video


def test_a_video_still_being_encoded_is_answered_as_far_as_it_is(
    jobs: ReasonerJobs, store: Store, encoding: EncoderJobs, encoder: Encoder, pictures: list[bytes]
) -> None:
    store.hot.announce_model(encoder.fingerprint)
    video = new_video(status="sampling", frames_expected=200)
    store.add_video(video)
    store.put_frames(video.id, 0, pictures[:64], [k + 0.5 for k in range(64)])
    store.put_frames(video.id, 64, pictures[64:80], [64 + k + 0.5 for k in range(16)])
    encoding.encode_segment(video.id, 0)
    asked = ask(jobs, store, video)
    assert asked.answer is not None
    assert (asked.answer.frames, asked.answer.encoded_until_s, asked.answer.video_complete) == (64, 64.0, False)


@pytest.mark.parametrize("loss", ["damaged", "gone", "foreign"])
def test_a_lost_record_is_made_again_while_the_question_waits(
    loss: str, jobs: ReasonerJobs, store: Store, video: Video
) -> None:
    wanted = ask(jobs, store, video, fusion="sampled")
    path = f"{video.id}/000001/tokens.safetensors"
    if loss == "gone":
        store.archive.files.delete(path)
    elif loss == "damaged":
        store.archive.files.write(path, b"garbage")
    else:
        store.archive.put_record(video.id, 1, Record("another", (0.5,), np.zeros((1, 1, 8), np.float16)))
    store.hot.drop_record(video.id, 1)
    asked = ask(jobs, store, video, fusion="sampled")
    assert wanted.answer is not None
    assert asked.answer is not None
    assert (asked.answer.frames, asked.answer.text) == (FRAMES, wanted.answer.text)


def test_a_fusion_asked_for_is_asked_for_again_once_redis_forgot(
    settings: Settings, store: Store, engine: Engine, encoder: Encoder, video: Video
) -> None:
    gather = gatherer(settings, store, engine, video)
    frames = gather.covered(20, 30).frames
    gather.order([(encoder.system_text, frames)])
    store.hot.redis.flushall()
    assert gather.fusion(encoder.system_text, frames).shape == (len(encoder.system_text), 192)


def test_what_one_pass_can_make_is_one_job(
    settings: Settings, store: Store, engine: Engine, encoder: Encoder, unencoded: Video
) -> None:
    store.put_record(unencoded.id, 0, Record(encoder.fingerprint, (0.5,), np.zeros((1, 1, 192), np.float16)))
    gather = gatherer(settings, store, engine, unencoded)
    frames = gather.covered(0, None).frames
    for _ in range(2):
        gather.order([([1, 2], frames), ([3], frames)])
    assert store.queues.depths()[FUSE] == 1


def test_without_an_encoder_the_question_says_so(
    settings: Settings, store: Store, engine: Engine, unencoded: Video
) -> None:
    impatient = settings.model_copy(update={"reasoner": ReasonerSettings(fusion_timeout_s=0.5)})
    asked = ask(ReasonerJobs(impatient, store, engine), store, unencoded)
    assert asked.problem is not None
    assert asked.problem.code == "encoder-missing"
    assert "longwatch worker encode" in asked.problem.message


def test_an_encoder_that_does_not_deliver_is_told_from_a_missing_one(
    settings: Settings, store: Store, engine: Engine, unencoded: Video
) -> None:
    store.hot.announce_worker("stuck", [FUSE, ENCODE], 60)
    impatient = settings.model_copy(update={"reasoner": ReasonerSettings(fusion_timeout_s=0.5)})
    asked = ask(ReasonerJobs(impatient, store, engine), store, unencoded)
    assert asked.problem is not None
    assert "alive: 1" in asked.problem.message
