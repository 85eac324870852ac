"""Sampling real files: the right frames, by any path through the decoder, and clear errors for everything else."""

from bisect import bisect_right
from pathlib import Path

import av
import numpy as np
import pytest

from configs.settings import IngestSettings
from ingest.errors import SourceError, SourceTooLarge, SourceUnavailable, UnsupportedSource
from ingest.files.frame_encoding import SampledFrame
from ingest.files.sampling import Packet, Packets, find_needed_packets, find_slot_times
from ingest.files.scaling import Picture, squeeze_picture
from ingest.files.source import VideoSource
from tests.media import number_of, steady, write_sound, write_video

SETTINGS = IngestSettings()


def sampled(path: Path, fps: float = 1.0, **how: object) -> list[SampledFrame]:
    source = VideoSource(path, SETTINGS)
    return list(source.sample_frames(fps, **how))  # type: ignore[arg-type]


def numbers(path: Path, fps: float = 1.0, **how: object) -> list[int]:
    return [number_of(frame.model) for frame in sampled(path, fps, **how)]


def reference(path: Path, fps: float = 1.0) -> list[Picture]:
    """Decodes everything and picks the frame on display at each target."""
    with av.open(str(path)) as container:
        frames = [(frame.pts or 0, frame) for frame in container.decode(video=0)]
        base = float(container.streams.video[0].time_base or 0)
    times = [(pts - frames[0][0]) * base for pts, _ in frames]
    source = VideoSource(path, SETTINGS)
    targets = find_slot_times(times[-1] + 1 / (source.info.fps or 25), fps)
    picked = [frames[bisect_right(times, t + 1e-6) - 1][1] for t in targets]
    return [squeeze_picture(frame.to_ndarray(format="rgb24").astype(np.uint8), 336) for frame in picked]


CODINGS = {
    "b-frames.mp4": {"g": "30", "bf": "3", "b-pyramid": "normal"},
    "no-b-frames.mp4": {"g": "30", "bf": "0"},
    "open-gop.mp4": {"x264-params": "open-gop=1:keyint=20:bframes=3"},
    "long-gop.mkv": {"g": "250", "bf": "2"},
    "annex-b.ts": {"g": "25", "bf": "2"},
    "short-gop.mov": {"g": "7", "bf": "2"},
}


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize("fps", [1.0, 0.4, 3.0])
def test_dropping_packets_changes_no_frame(name: str, fps: float, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, steady(8.3), options=CODINGS[name])
    fast = [frame.model for frame in sampled(path, fps)]
    slow = reference(path, fps)
    assert len(fast) == len(slow)
    assert all(np.array_equal(a, b) for a, b in zip(fast, slow, strict=True))


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libx265", "mjpeg"])
def test_other_codecs_give_the_same_frames(codec: str, tmp_path: Path) -> None:
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = write_video(tmp_path / "video.mkv", steady(3), codec=codec, options=options)
    assert numbers(path) == [12, 37, 62]


def test_the_middle_of_every_second_is_taken(tmp_path: Path) -> None:
    frames = sampled(write_video(tmp_path / "video.mp4", steady(4)))
    assert [(f.slot, f.t_s, number_of(f.model)) for f in frames] == [
        (0, 0.5, 12), (1, 1.5, 37), (2, 2.5, 62), (3, 3.5, 87),
    ]  # fmt: skip


def test_a_long_held_frame_stands_for_every_second_it_is_shown(tmp_path: Path) -> None:
    path = write_video(tmp_path / "slides.mp4", [0.0, 3.2, 3.7, 8.0, 8.04])
    assert numbers(path)[:8] == [0, 0, 0, 1, 2, 2, 2, 2]


def test_time_begins_with_the_first_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "late.ts", steady(3, start_s=100.0))
    assert numbers(path) == [12, 37, 62]


def test_a_very_short_video_gives_its_middle(tmp_path: Path) -> None:
    assert numbers(write_video(tmp_path / "short.mp4", steady(0.2))) == [2]
    assert len(sampled(write_video(tmp_path / "single.mp4", [0.0]))) == 1


def test_resuming_gives_the_frames_that_are_left(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", steady(9))
    whole = sampled(path)
    for start in (1, 4, 8, 9):
        rest = sampled(path, start_slot=start)
        assert [(f.slot, f.t_s) for f in rest] == [(f.slot, f.t_s) for f in whole[start:]]
        assert all(np.array_equal(a.model, b.model) for a, b in zip(rest, whole[start:], strict=True))


def test_keyframes_mode_gives_the_nearest_keyframe(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", steady(5), options={"g": "50", "keyint_min": "50", "sc_threshold": "0"})
    assert numbers(path, mode="keyframes") == [0, 50, 50, 100, 100]


def test_a_truncated_file_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "whole.mkv", steady(20), size=(320, 240))
    content = path.read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(content[: len(content) // 2])
    source = VideoSource(cut, SETTINGS)
    found = [number_of(frame.model) for frame in source.sample_frames(1.0)]
    assert 3 < len(found) < 17
    assert found == [12 + 25 * k for k in range(len(found))]
    assert source.truncated is not None
    assert "of 20" in source.truncated
    source = VideoSource(path, SETTINGS)
    assert len(list(source.sample_frames(1.0))) == 20
    assert source.truncated is None


def test_sound_beside_the_picture_does_no_harm(tmp_path: Path) -> None:
    assert numbers(write_video(tmp_path / "video.mp4", steady(3), sound=True)) == [12, 37, 62]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.mp4", b"this is no video " * 100),
        ("empty.mp4", b""),
        ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
        ("list.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n"),
        ("session.mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
        ("dash.mp4", b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>'),
    ],
)
def test_a_file_that_is_not_a_video_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnsupportedSource, match="not a video file"):
        sampled(tmp_path / name)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSource, match="sound only"):
        sampled(write_sound(tmp_path / "sound.mp4", 2))


def test_a_file_cut_before_its_index_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", steady(5))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(SourceError):
        sampled(path)


def test_the_limits_hold(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", steady(3))
    for limit, named in ((IngestSettings(max_frame_pixels=100), "max_frame_pixels"),
                         (IngestSettings(max_duration_s=2), "max_duration_s")):  # fmt: skip
        with pytest.raises(SourceTooLarge, match=named):
            VideoSource(path, limit)
    with pytest.raises(SourceUnavailable):
        VideoSource(tmp_path / "nowhere.mp4", SETTINGS)


def test_the_end_is_that_of_the_last_shown_frame_even_below_zero() -> None:
    packets = Packets.collect([Packet(-50, True, duration=10), Packet(-45, False, duration=10, shown=False)])
    assert (packets.span(), packets.end) == ((-50, -50), -40)


def test_only_what_later_frames_need_is_decoded() -> None:
    group = [Packet(0, True, True, True), Packet(3, False), Packet(1, False, False), Packet(2, False, False)]
    after = [Packet(4, True, True, True), Packet(7, False), Packet(5, False, False), Packet(6, False, False)]
    unclean = [Packet(4, True), *after[1:]]  # its leading frames may refer to the group before, which must be whole

    def needed(packets: list[Packet], wanted: int) -> str:
        return "".join("-x"[int(need)] for need in find_needed_packets(Packets.collect(packets), np.array([wanted])))

    assert needed([*group, *after], 2) == "xx-x----"
    assert needed([*group, *after], 4) == "----x---"
    assert needed([*group, *unclean], 6) == "xx--xx-x"


def test_frames_are_squeezed_as_the_public_implementation_does() -> None:
    table = np.load(Path(__file__).parent.parent / "llava_mini" / "golden" / "nearest_index_336.npz")
    for name in table.files:
        size = int(name.removeprefix("in_"))
        column = np.arange(size, dtype=np.uint16)[:, None, None].repeat(3, axis=2)
        assert np.array_equal(squeeze_picture(column, 336)[:, 0, 0], table[name])  # type: ignore[arg-type]
