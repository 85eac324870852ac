"""The answers of the scripts in Redis: the marks of many videos, a question's states, and which jobs are live."""

import pytest

from jobs.names import ENCODE
from jobs.queues import Queues, encode_call
from storage.documents import Question, Video
from storage.errors import GivenAway
from storage.ids import new_question_id, new_video_id
from storage.store import Store
from storage.stretch import find_stretch
from storage.timeline import FULL_MASK, count_frames, cut_portions

MODEL = "0123456789abcdef"


def new_video(store: Store, masks: dict[int, int]) -> Video:
    video = Video(
        id=new_video_id(), kind="path", source="a.mp4", location="/a.mp4", sample_fps=1.0, mode="exact", status="ready"
    )
    store.add_video(video)
    store.coverage.mark_sampled(video.id, masks)
    return video


def test_missing_segments_are_listed_by_video_and_a_damaged_video_harms_no_other(store: Store) -> None:
    masks = dict.fromkeys(range(20), FULL_MASK)
    one, two, damaged = (new_video(store, masks) for _ in range(3))
    store.coverage.mark_encoded(one.id, dict(list(masks.items())[:9]), MODEL)
    store.coverage.mark_failed(one.id, 10, FULL_MASK, MODEL, "poison")
    store.state.delete(f"lw:sampled:{damaged.id}")
    store.state.hset(f"lw:sampled:{damaged.id}", "junk", "junk")
    found = store.coverage.list_pending([one.id, damaged.id, two.id, new_video_id()], MODEL, 4)
    assert found == [[9, 11, 12, 13], None, [0, 1, 2, 3], None]


def test_a_stretch_is_read_with_one_command_and_damaged_marks_are_rebuilt(store: Store) -> None:
    video = new_video(store, {0: FULL_MASK, 1: 0b111})
    store.coverage.mark_encoded(video.id, {1: 0b111}, MODEL)
    question = Question(id=new_question_id(video.id), video_id=video.id, text="?", start_s=10, fusion="sampled")
    stretch = find_stretch(store, question, video, MODEL)
    assert stretch.masks == {1: 0b111}
    assert stretch.frames_missing == 54
    totals = stretch.covered.totals
    assert totals is not None
    assert (totals.sampled, totals.encoded) == (67, 3)
    store.state.delete(f"lw:totals:{video.id}")
    store.state.set(f"lw:totals:{video.id}", "junk")
    assert find_stretch(store, question, video, MODEL).covered.sampled == {}  # the archive holds no segments


def test_only_the_newest_attempt_begins_and_only_if_the_answer_is_wanted(store: Store) -> None:
    question_id = new_question_id(new_video_id())
    old, new = store.fences.take(question_id), store.fences.take(question_id)
    with pytest.raises(GivenAway):
        store.answers.begin(old)
    assert store.answers.begin(new)
    assert [piece.kind for piece in store.answers.read(question_id)] == ["state"]
    store.answers.send(new, "a")
    assert store.answers.begin(new)  # as after an attempt that broke off
    assert [piece.kind for piece in store.answers.read(question_id)] == ["state", "text", "restart"]
    store.answers.cancel(question_id)
    assert not store.answers.begin(new)


@pytest.mark.parametrize("count", [3, 200])
def test_each_job_is_queued_once_however_many_are_requested(store: Store, count: int) -> None:
    """A few are looked up one by one, many with one read of the queue."""
    queues, video_id = Queues(store.state), new_video_id()
    calls = [encode_call(video_id, segment) for segment in range(count)]
    assert queues.ensure(calls[1:]) == calls[1:]
    assert queues.ensure(calls) == calls[:1]
    assert queues.list_live(ENCODE, [call.id for call in calls]) == {call.id for call in calls}


def test_portions_are_neighbours_with_a_segments_worth_of_frames() -> None:
    single = [(segment, 1) for segment in range(70)]
    assert [count_frames(portion) for portion in cut_portions(single)] == [64, 6]
    whole = [(0, FULL_MASK), (1, FULL_MASK), (2, 0b1)]
    portions = cut_portions(whole)
    assert portions == [((0, FULL_MASK),), ((1, FULL_MASK),), ((2, 1),)]
    assert (
        cut_portions([each for portion in portions[1:] for each in portion]) == portions[1:]
    )  # the same if the rest is cut alone
