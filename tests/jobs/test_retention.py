"""Retention removes whole segments, the oldest first, and never what somebody needs."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from configs.settings import RetentionSettings
from jobs.retention import Retention
from storage import agenda as due
from storage.documents import Capture, Video
from storage.documents import Retention as Limits
from storage.live_documents import Watch
from storage.store import Store
from tests.storage.making import MODEL, make_frames, make_question, make_record, make_stream

SEGMENT_S = 64


def run(store: Store, **values: Any) -> None:
    settings = RetentionSettings.model_validate({"min_free_disk_gb": 0} | values)
    Retention(store, settings).run_once(lambda: True)


@pytest.fixture
def add_stream(store: Store) -> Callable[..., Video]:
    """Adds a stream that began so many segments ago, all of them captured but the last two."""
    store.index.set_ready(store.index.read_generation())
    store.workers.announce_model(MODEL)

    def add(segments: int, **limits: Any) -> Video:
        start = (datetime.now(UTC) - timedelta(seconds=segments * SEGMENT_S)).replace(microsecond=0)
        stream = make_stream(recorded_at=start, capture=Capture(retention=Limits.model_validate(limits)))
        store.add_video(stream)
        for segment in range(segments - 2):
            store.close_segment(stream.id, segment, make_frames(64, content=b"x" * 1000))
            store.create_record(stream.id, segment, make_record(64))
        return stream

    return add


def list_kept(store: Store, stream: Video) -> list[int]:
    """The segments that are left; archive, marks and sizes agree."""
    archived = sorted(store.archive.list_contents(stream.id).sampled)
    assert archived == sorted(store.read_coverage(stream, range(100), MODEL).sampled)
    assert archived == list(store.sizes.read_segments(stream.id, range(100)))
    return archived


def test_segments_that_are_too_old_go_and_stay_in_the_record(store: Store, add_stream: Callable[..., Video]) -> None:
    stream = add_stream(12, max_age_h=6 * SEGMENT_S / 3600)
    run(store)
    assert list_kept(store, stream) == [6, 7, 8, 9]
    assert store.read_video(stream.id).removed_until_s == 6 * SEGMENT_S
    (totals,) = store.coverage.read_totals([stream.id], MODEL)
    assert totals is not None
    assert (totals.sampled, totals.encoded) == (4 * 64, 4 * 64)
    run(store)
    assert list_kept(store, stream) == [6, 7, 8, 9]


def test_segments_over_the_size_go_the_oldest_first(store: Store, add_stream: Callable[..., Video]) -> None:
    stream = add_stream(10)
    (held,) = store.sizes.read_totals([stream.id])
    capture = Capture(retention=Limits(max_gb=held.frames / 2 / 1e9))
    store.update_video(stream.model_copy(update={"capture": capture}))
    run(store)
    assert list_kept(store, stream) == [4, 5, 6, 7]


def test_all_streams_together_lose_their_oldest_segments(store: Store, add_stream: Callable[..., Video]) -> None:
    older, younger = add_stream(12), add_stream(8)
    held = sum(each.frames for each in store.sizes.read_totals([older.id, younger.id]))
    run(store, max_gb=held / 2 / 1e9)
    assert (list_kept(store, older), list_kept(store, younger)) == ([6, 7, 8, 9], [2, 3, 4, 5])
    types = [event.type for event in store.events.read("", 10)]
    assert types == ["retention", "retention"]
    run(store, max_gb=held / 2 / 1e9)
    assert len(store.events.read("", 10)) == 2


class Usage(NamedTuple):
    """As shutil.disk_usage."""

    total: int
    used: int
    free: int


def test_a_disk_that_is_nearly_full_shortens_retention_and_says_so(
    store: Store, add_stream: Callable[..., Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = add_stream(10)
    size = store.sizes.read_segments(stream.id, range(1))[0]
    lacking = 3 * size  # a disk cannot be filled in a test
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**9 - lacking))
    run(store, min_free_disk_gb=1)
    assert list_kept(store, stream) == [3, 4, 5, 6, 7]
    (event,) = store.events.read("", 10)
    assert (event.type, event.stream_id) == ("retention", stream.id)
    assert "min_free_disk_gb" in event.message


def test_what_a_question_or_a_watch_needs_stays(store: Store, add_stream: Callable[..., Video]) -> None:
    stream = add_stream(12, max_age_h=1 / 3600)
    question = make_question(stream, start_s=3.0 * SEGMENT_S, end_s=10000.0)
    store.add_question(question)
    run(store)
    assert list_kept(store, stream) == [3, 4, 5, 6, 7, 8, 9]
    store.agenda.remove(due.QUESTIONS, question.id)
    watch_id = f"{stream.id}_{stream.id}"
    store.watches.write(Watch(id=watch_id, stream_id=stream.id, question="?", every_s=60, window_s=180))
    run(store)
    assert list_kept(store, stream)[-4:] == [6, 7, 8, 9]
    assert 5 <= list_kept(store, stream)[0] <= 7


def test_a_stream_without_limits_keeps_everything(store: Store, add_stream: Callable[..., Video]) -> None:
    stream = add_stream(6)
    run(store)
    assert list_kept(store, stream) == [0, 1, 2, 3]
