"""What a question is about: its frames, and whether it can be answered."""

from typing import Any

import pytest

from storage.store import Store
from storage.stretch import Stretch, find_stretch
from storage.timeline import FULL_MASK
from tests.storage.making import MODEL, add_encoded, make_question, make_record


def find(store: Store, video_id: str, **values: float | None) -> Stretch:
    video = store.read_video(video_id)
    return find_stretch(store, make_question(video, **values), video, MODEL)


def test_a_stretch_names_its_encoded_frames_and_counts_the_others(store: Store) -> None:
    video = add_encoded(store, 150, encoded=1)
    stretch = find(store, video.id, start_s=60.0, end_s=70.0)
    assert stretch.masks == {0: 0b1111 << 60}
    assert stretch.frames_missing == 6
    assert not stretch.is_complete
    assert stretch.is_ready(partial=True)
    assert not stretch.is_ready(partial=False)
    whole = find(store, video.id)
    assert whole.masks == {0: FULL_MASK}
    assert whole.frames_missing == 150 - 64


def test_of_a_growing_video_what_is_still_to_be_sampled_is_missing_too(store: Store) -> None:
    growing: dict[str, Any] = {"status": "sampling", "frames_sampled": None}
    video = add_encoded(store, 128, encoded=1, frames_expected=600, **growing)
    assert find(store, video.id).frames_missing == 600 - 64
    assert find(store, video.id, start_s=32.0, end_s=500.0).frames_missing == 500 - 64
    assert find(store, video.id, end_s=900.0).frames_missing == 600 - 64  # the video ends before
    assert find(store, video.id, end_s=64.0).frames_missing == 0
    assert find(store, add_encoded(store, 128, frames_expected=None, **growing).id).frames_missing == 64
    failed = add_encoded(store, 128, frames_expected=600, status="failed", frames_sampled=None)
    assert find(store, failed.id).frames_missing == 64  # no more will come


def test_a_stretch_is_complete_once_nothing_more_can_come(store: Store) -> None:
    video = add_encoded(store, 150, encoded=2)
    assert find(store, video.id, start_s=0.0, end_s=100.0).is_complete
    assert not find(store, video.id).is_complete
    store.coverage.mark_failed(video.id, 2, (1 << 22) - 1, MODEL, "no picture can be read")
    stretch = find(store, video.id)
    assert stretch.is_complete
    assert stretch.frames_missing == 22
    store.create_record(video.id, 2, make_record(22))
    assert find(store, video.id).frames_missing == 0


def test_a_closed_stretch_of_a_growing_video_is_complete_before_the_video(store: Store) -> None:
    video = add_encoded(store, 128, encoded=2, status="sampling", frames_sampled=None)
    assert find(store, video.id, end_s=128.0).is_complete
    assert not find(store, video.id, end_s=128.6).is_complete
    assert not find(store, video.id).is_complete


@pytest.mark.parametrize("status", ["ready", "sampling"])
@pytest.mark.parametrize("values", [{"start_s": 1e300}, {"end_s": 1e300}, {"start_s": 1e200, "end_s": 1e300}])
def test_no_number_of_seconds_is_too_large(store: Store, status: str, values: dict[str, float]) -> None:
    video = add_encoded(store, 70, encoded=2, status=status)
    stretch = find(store, video.id, **values)
    assert stretch.is_complete or status == "sampling"
    assert bool(stretch.masks) == ("start_s" not in values)
