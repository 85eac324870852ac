"""A file fills every slot from 0 to its end, even if it is damaged or sampling starts later."""

from pathlib import Path

import av
import pytest

from configs.settings import IngestSettings
from ingest.files.source import VideoSource
from tests.media import number_of, steady, write_video

Filled = list[tuple[int, float, int]]


def filled(path: Path, fps: float = 1.0, mode: str = "exact", start_slot: int = 0) -> Filled:
    frames = VideoSource(path, IngestSettings()).sample_frames(fps, mode=mode, start_slot=start_slot)
    return [(frame.slot, frame.t_s, number_of(frame.model)) for frame in frames]


def damage(path: Path, first: int, last: int) -> None:
    """Spoils the coded frames from number `first` to `last`, keyframes among them."""
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in [packet for packet in container.demux(video=0) if packet.size][first:last]:
            assert packet.pos is not None
            content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(content)


def is_even_grid(slots: Filled, count: int, fps: float) -> bool:
    return [(slot, t_s) for slot, t_s, _ in slots] == [(slot, (slot + 0.5) / fps) for slot in range(count)]


@pytest.mark.parametrize("mode", ["exact", "keyframes"])
@pytest.mark.parametrize(
    ("seconds", "fps", "slots"), [(4.0, 1.0, 4), (4.4, 1.0, 4), (4.6, 1.0, 5), (3.0, 2.0, 6), (9.0, 0.3, 3)]
)
def test_every_slot_whose_time_lies_in_the_file_is_filled(
    seconds: float, fps: float, slots: int, mode: str, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "video.mp4", steady(seconds))
    assert is_even_grid(filled(path, fps, mode), slots, fps)
    assert VideoSource(path, IngestSettings()).count_slots(fps) == slots


@pytest.mark.parametrize(("first", "last"), [(0, 120), (60, 200), (150, 300)])
def test_damage_leaves_no_slot_empty(first: int, last: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", steady(12), size=(320, 240))
    damage(path, first, last)
    assert is_even_grid(filled(path), 12, 1.0)


@pytest.mark.parametrize("mode", ["exact", "keyframes"])
@pytest.mark.parametrize(("first", "last"), [(0, 120), (60, 200), (150, 300)])
def test_a_later_start_gives_the_same_frames_even_from_a_damaged_file(
    first: int, last: int, mode: str, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "video.mp4", steady(12), size=(320, 240))
    damage(path, first, last)
    whole = filled(path, mode=mode)
    assert len(whole) == 12
    for start in range(1, 14):
        assert filled(path, mode=mode, start_slot=start) == whole[start:]
