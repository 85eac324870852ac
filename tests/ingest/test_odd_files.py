"""Unusual, damaged and misleading files give the right frames, or are refused with a reason."""

import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.packet import Packet
from av.video.stream import VideoStream

from configs.settings import IngestSettings
from ingest.errors import SourceTooLarge, UnsupportedSource
from ingest.files.source import VideoSource
from tests.media import TICKS, number_of, numbered, steady, write_video

MIDDLES = [12 + 25 * k for k in range(40)]  # the frames on display at 0.5 s, 1.5 s, ... at 25 fps
ONE_KEYFRAME = {"g": "500", "keyint_min": "500", "sc_threshold": "0", "bf": "2"}


def numbers(path: Path, settings: IngestSettings | None = None, mode: str = "exact") -> list[int]:
    source = VideoSource(path, settings or IngestSettings())
    assert source.truncated is None
    return [number_of(frame.model) for frame in source.sample_frames(1.0, mode=mode)]


def packets_of(path: Path) -> tuple[VideoStream, list["Packet[VideoStream]"]]:
    container = av.open(str(path))
    stream = container.streams.video[0]
    return stream, [packet for packet in container.demux(stream) if packet.size]


def remux(path: Path, into: Path, *, later_s: float = 0.0, last_for_s: float = 0.0) -> Path:
    """The same coded frames at other times, or with the last one held."""
    template, packets = packets_of(path)
    base = template.time_base or Fraction(1)
    with av.open(str(into), "w") as container:
        stream = container.add_stream_from_template(template)
        for packet in packets:
            assert packet.pts is not None
            assert packet.dts is not None
            packet.stream = stream
            packet.pts, packet.dts = packet.pts + round(later_s / base), packet.dts + round(later_s / base)
            if last_for_s and packet is packets[-1]:
                packet.duration = round(last_for_s / base)
            container.mux(packet)
    return into


def test_frames_that_an_edit_list_hides_are_not_sampled(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", steady(9), options=ONE_KEYFRAME)
    clip = remux(whole, tmp_path / "clip.mp4", later_s=-4.0)  # an edit list hides what lies before 0 s
    assert numbers(clip) == [112, 137, 162, 187, 212]
    assert numbers(clip, mode="keyframes") == [112, 137, 162, 187, 212]  # the only keyframe is hidden


def test_a_last_frame_that_is_held_fills_its_slots(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "video.mp4", steady(3), options={"bf": "0"})
    assert numbers(remux(plain, tmp_path / "held.mp4", last_for_s=5.0)) == [12, 37, 62, *[74] * 5]


@pytest.mark.parametrize("name", ["video.mkv", "video.mp4"])
def test_a_longer_sound_track_is_not_a_cut(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, steady(4), sound=True, sound_s=9)
    assert numbers(path) == MIDDLES[:4]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("video.flv", "libx264"),
        ("video.mpg", "mpeg2video"),
        ("video.webm", "libvpx"),
        ("video.mov", "libx264"),
        ("video.avi", "libx264"),
        ("video.avi", "mpeg4"),
    ],
)
def test_every_supported_container_gives_the_right_frames(name: str, codec: str, tmp_path: Path) -> None:
    ticks = 25 if codec.startswith("mpeg") else TICKS  # these codecs know frame rates only
    path = write_video(tmp_path / name, steady(10), codec=codec, options={"bf": "2"}, ticks=ticks)
    assert numbers(path) == MIDDLES[:10]


def test_a_file_whose_frames_carry_no_times_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mpg", steady(3))  # H.264 in a container that has times for MPEG-2 alone
    with pytest.raises(UnsupportedSource, match="remux it"):
        VideoSource(path, IngestSettings())


def test_lost_frames_without_display_times_do_not_shift_later_ones(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.avi", steady(20), options={"g": "25", "bf": "2"})
    content = bytearray(path.read_bytes())
    for packet in packets_of(path)[1][102:110]:
        assert packet.pos is not None
        content[packet.pos + 8 : packet.pos + 8 + packet.size] = bytes(packet.size)
    path.write_bytes(content)
    found = numbers(path)
    assert found[:4] == MIDDLES[:4]
    assert found[5:] == MIDDLES[5:20]


def test_open_groups_of_pictures_do_not_confuse_keyframes(tmp_path: Path) -> None:
    options = {"x264-params": "open-gop=1:keyint=25:min-keyint=25:scenecut=0:bframes=2"}
    path = write_video(tmp_path / "video.ts", steady(8), options=options)
    assert numbers(path, mode="keyframes") == [0, 25, 50, 75, 100, 125, 150, 175]


@pytest.mark.parametrize("matrix", ["bt709", "bt2020c", "YCgCo", "ICtCp"])
def test_colours_of_every_matrix_are_converted(matrix: str, tmp_path: Path) -> None:
    options = {"x264-params": f"colormatrix={matrix}"}
    assert numbers(write_video(tmp_path / "video.mp4", steady(2), options=options)) == [12, 37]


@pytest.mark.parametrize("threads", [1, 4])
def test_damaged_frames_do_not_spoil_the_ones_after_them(threads: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", steady(40), size=(320, 240), options={"g": "50", "bf": "2"})
    content, chance = bytearray(path.read_bytes()), random.Random(1)
    for packet in chance.sample(packets_of(path)[1], 12):
        assert packet.pos is not None
        content[packet.pos + 6 : packet.pos + packet.size] = chance.randbytes(packet.size - 6)
    path.write_bytes(content)
    found = numbers(path, IngestSettings(decoder_threads=threads))
    assert len(found) == 40
    assert sum(number == right for number, right in zip(found, MIDDLES, strict=True)) > 30


def test_pictures_that_grow_beyond_the_limit_are_skipped(tmp_path: Path) -> None:
    small = write_video(tmp_path / "small.ts", steady(3))
    large = write_video(tmp_path / "large.ts", steady(2, fps=5, start_s=3), size=(4096, 2160))
    path = tmp_path / "growing.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    code = (
        "import sys; from pathlib import Path; from configs.settings import IngestSettings\n"
        "from ingest.files.source import VideoSource\n"
        "source = VideoSource(Path(sys.argv[1]), IngestSettings(max_frame_pixels=10_000))\n"
        "print(len([frame.model.shape for frame in source.sample_frames(1.0)]))\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    count, peak_kb = map(int, done.stdout.split())
    assert count >= 3
    assert peak_kb < 130_000


def test_a_file_that_lasts_longer_than_it_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "live.mkv"
    with av.open(str(path), "w", options={"live": "1"}) as container:
        stream = container.add_stream("mjpeg", rate=1)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for second in (0, 1, 4_000_000):
            frame = av.VideoFrame.from_ndarray(numbered(1), format="rgb24")
            frame.pts, frame.time_base = second, Fraction(1)
            container.mux(stream.encode(frame))
    with pytest.raises(SourceTooLarge, match=r"4000001 s .*ingest\.max_duration_s"):
        VideoSource(path, IngestSettings())


def test_a_cover_picture_is_not_a_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        assert isinstance(cover, VideoStream)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered(1), format="rgb24")))
        container.mux(cover.encode(None))
        container.mux(sound.encode(None))
    with pytest.raises(UnsupportedSource, match="sound only"):
        VideoSource(path, IngestSettings())
