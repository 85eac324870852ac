"""A clip shows the right pictures at the right times, whatever its files were, and any part of it can be read alone."""

import io
from itertools import pairwise
from pathlib import Path

import av
import pytest
from av.container import InputContainer

from playback.boxes import cut_torn_tail
from playback.joining import Clip, plan_clip, read_clip
from storage.errors import Conflict
from storage.recordings import Recording
from tests.ingest.cameras.filming import FPS
from tests.playback.recorded import Shelf, expect_numbers, read_shown

KINDS = ["h264", "b-frames", "open gop", "h265", "h265 b-frames", "mjpeg"]
GOP_S = 2.0
START_S = 100_000.25  # a day after the stream's start, not at a whole second


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def make_clip(shelf: Shelf, recordings: list[Recording], start_s: float, end_s: float) -> tuple[Clip, bytes]:
    wanted = [one for one in recordings if one.end_s > start_s and one.start_s < end_s]
    clip = plan_clip(wanted, start_s, end_s, shelf.open)
    content = b"".join(read_clip(clip, 0, clip.size_bytes, shelf.open))
    assert len(content) == clip.size_bytes
    return clip, content


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_one_connection_are_joined(shelf: Shelf, kind: str) -> None:
    recordings = shelf.record(START_S, 20, kind)
    assert len(recordings) == 3 if kind == "mjpeg" else len(recordings) >= 3
    assert len({one.form for one in recordings}) == 1
    clip, content = make_clip(shelf, recordings, 0, 1e9)
    assert clip.start_s == START_S
    assert clip.end_s == pytest.approx(START_S + 20, abs=0.002)
    expect_numbers(read_shown(content), 0, round(20 * FPS))


@pytest.mark.parametrize("kind", ["h264", "b-frames", "h265"])
def test_a_clip_begins_at_the_keyframe_before(shelf: Shelf, kind: str) -> None:
    recordings = shelf.record(START_S, 20, kind)
    for start, end in ((5.1, 12.2), (4.0, 4.1), (3.99, 18), (7.9, 8.1), (0.5, 0.6), (17, 30)):
        clip, content = make_clip(shelf, recordings, START_S + start, START_S + end)
        first = round((clip.start_s - START_S) * FPS)
        assert clip.start_s <= START_S + start < clip.start_s + GOP_S + 0.001
        assert clip.end_s >= min(START_S + end, START_S + 20 - 0.001)
        assert clip.end_s <= START_S + end + GOP_S
        expect_numbers(read_shown(content), first, round((clip.end_s - clip.start_s) * FPS))


def test_a_reconnect_leaves_its_gap_in_the_clip(shelf: Shelf) -> None:
    recordings = [*shelf.record(START_S, 5), *shelf.record(START_S + 9.3, 4)]
    _, content = make_clip(shelf, recordings, START_S, START_S + 20)
    shown = read_shown(content)
    expect_numbers(shown[:75], 0, 75)
    expect_numbers(shown[75:], 0, 60, 9.3)


def test_another_resolution_goes_on_in_the_same_clip(shelf: Shelf) -> None:
    recordings = [*shelf.record(START_S, 5), *shelf.record(START_S + 6, 4, size=(128, 96))]
    recordings += shelf.record(START_S + 12, 3)
    clip, content = make_clip(shelf, recordings, START_S, START_S + 20)
    shown = read_shown(content)
    expect_numbers(shown[:75], 0, 75)
    expect_numbers(shown[75:135], 0, 60, 6)
    expect_numbers(shown[135:], 0, 45, 12)
    assert [size for _, _, size in shown] == [(64, 48)] * 75 + [(128, 96)] * 60 + [(64, 48)] * 45
    for first in range(0, clip.size_bytes, 777):
        assert b"".join(read_clip(clip, first, 777, shelf.open)) == content[first : first + 777]


def test_sound_stays_beside_its_pictures(shelf: Shelf) -> None:
    recordings = [
        *shelf.record_sound(START_S, 12),
        *shelf.record(START_S + 15, 5),
        *shelf.record_sound(START_S + 21, 5),
    ]
    clip, content = make_clip(shelf, recordings, START_S + 3, START_S + 30)
    with av.open(io.BytesIO(content), "r") as container:
        assert isinstance(container, InputContainer)
        heard = [frame.time or 0.0 for frame in container.decode(audio=0)]
    gaps = [(one, other) for one, other in pairwise(heard) if other - one > 0.3]
    begun_s = clip.start_s - START_S
    assert heard[0] == pytest.approx(0.0, abs=0.2)
    ((last, again),) = gaps
    assert [last, again] == pytest.approx([12 - begun_s, 21 - begun_s], abs=0.4)
    shown = read_shown(content)
    expect_numbers(shown[-75:], 0, 75, 21 - begun_s)


def test_files_that_no_player_could_join_are_refused(shelf: Shelf) -> None:
    small, large = shelf.record(START_S, 3, "h265"), shelf.record(START_S + 4, 3, "h265", (128, 96))
    other = shelf.record(START_S + 8, 3, "h264")
    for wrong in ([*small, *large], [*small, *other]):
        with pytest.raises(Conflict, match=r"changes .*at 1000\d\d\.\d s: ask"):
            plan_clip(wrong, START_S, START_S + 20, shelf.open)
    again = shelf.record(START_S + 12, 3, "h265")
    expect_numbers(read_shown(make_clip(shelf, [*small, *again], START_S, START_S + 20)[1])[:45], 0, 45)


def test_any_range_of_a_clip_can_be_read_alone(shelf: Shelf) -> None:
    recordings = shelf.record(START_S, 20, "b-frames")
    clip, content = make_clip(shelf, recordings, START_S + 3, START_S + 17)
    for first, count in ((0, 1), (0, 10**9), (len(clip.head) - 1, 2), (1000, 5000), (clip.size_bytes - 1, 1)):
        assert b"".join(read_clip(clip, first, count, shelf.open)) == content[first : first + count]


def test_a_torn_tail_is_cut_at_the_last_whole_fragment(shelf: Shelf, tmp_path: Path) -> None:
    (recording,) = shelf.record(0, 7)
    whole = shelf.files[recording.name].read_bytes()
    sizes = set()
    for lost in (0, 1, 100, len(whole) // 2, len(whole) - 10):
        torn = tmp_path / "torn.mp4"
        torn.write_bytes(whole[: len(whole) - lost])
        cut_torn_tail(torn)
        sizes.add(torn.stat().st_size)
        if torn.stat().st_size > recording.head_bytes:
            numbers = [number for number, _, _ in read_shown(str(torn))]
            assert numbers == list(range(len(numbers)))
            assert len(numbers) % 30 in (0, 15)  # whole groups of pictures
    assert len(whole) in sizes
    assert len(sizes) == 4
