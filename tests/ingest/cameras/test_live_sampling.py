"""Each slot shows the frame on display at its time, whatever is left out of decoding; damage is never shown."""

import random
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from ingest.cameras.coded_frames import CodedFrame
from ingest.cameras.live_sampling import LiveSampler, Mode
from storage.timeline import Grid
from tests.ingest.cameras.filming import CODECS, FPS, Filmed, copy_packet, film, film_noise, number_in, play, sample

SECONDS = 24


def expected(slots: list[int], sample_fps: float) -> list[int]:
    return [int((slot + 0.5) / sample_fps * FPS + 1e-6) for slot in slots]


@pytest.mark.parametrize("sample_fps", [1.0, 0.25, 4.0, 15.0])
@pytest.mark.parametrize("kind", list(CODECS))
def test_a_slot_shows_the_frame_on_display(kind: str, sample_fps: float, tmp_path: Path) -> None:
    video, packets = play(film(tmp_path / "camera", kind, SECONDS))
    sampler, samples = sample(video, packets, sample_fps)
    slots = [one.slot for one in samples]
    assert slots == list(range(len(slots)))
    assert len(slots) >= SECONDS * sample_fps - 1 - sample_fps  # the last ones are not decided
    assert [number_in(one.frame) for one in samples] == expected(slots, sample_fps)
    assert (sampler.damaged, sampler.late, sampler.unfilled) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["h264", "b-frames", "open gop", "10 s apart", "h265 b-frames", "mjpeg"])
def test_keyframes_show_the_last_keyframe_that_began_by_then(kind: str, tmp_path: Path) -> None:
    path = film(tmp_path / "camera", kind, SECONDS)
    _, packets = play(path)
    keys = [filmed.number for filmed in packets if filmed.packet.is_keyframe]
    video, packets = play(path)
    sampler, samples = sample(video, packets, 1.0, "keyframes")
    shown = [max(key for key in keys if key <= number) for number in expected([one.slot for one in samples], 1.0)]
    assert [number_in(one.frame) for one in samples] == shown
    assert len(samples) >= SECONDS - 2
    assert sampler.decoded == len(set(shown))


def test_only_what_is_needed_is_decoded(tmp_path: Path) -> None:
    decoded = {}
    for kind in ("h264", "one reference", "mjpeg"):
        video, packets = play(film(tmp_path / kind.replace(" ", "-"), kind, SECONDS))
        decoded[kind] = sample(video, packets, 1.0)[0].decoded
    frames = SECONDS * FPS
    assert decoded["h264"] < 0.85 * frames  # not the end of each group of pictures
    assert decoded["one reference"] < 0.5 * frames  # and not most of the B-frames
    assert decoded["mjpeg"] <= SECONDS


@pytest.mark.parametrize("kind", ["h264", "b-frames", "h265 b-frames"])
def test_few_bytes_may_wait_and_nothing_is_lost(kind: str, tmp_path: Path) -> None:
    path = film(tmp_path / "camera", kind, SECONDS, size=(320, 240))
    video, packets = play(path)
    sampler, samples = sample(video, packets, 0.2, max_held_bytes=400)
    assert [number_in(one.frame) for one in samples] == expected([one.slot for one in samples], 0.2)
    assert len(samples) >= 4
    assert sampler.held_bytes <= 400


@pytest.mark.parametrize("mode", ["exact", "keyframes"])
def test_long_gaps_between_slots_hold_one_group_of_pictures(mode: Mode, tmp_path: Path) -> None:
    video, packets = play(film(tmp_path / "camera", "h264", SECONDS))
    decoder = video.codec_context
    sampler, most, whole = LiveSampler(decoder, Grid(1 / 20), mode, 0, 1 << 26), 0, 0
    for filmed in packets:
        whole += filmed.packet.size
        sampler.add_packet(filmed.packet, filmed.t_s, CodedFrame())
        most = max(most, sampler.held_bytes)
    assert most < whole / 4


@pytest.mark.parametrize("kind", ["h264", "b-frames", "h265"])
def test_frames_that_come_seldom_fill_several_slots(kind: str, tmp_path: Path) -> None:
    """A camera that sends a frame every three seconds."""
    video, packets = play(film(tmp_path / "camera", kind, 60, fps=1 / 3), fps=1 / 3)
    _, samples = sample(video, packets, 1.0)
    assert [number_in(one.frame) for one in samples] == [int((one.slot + 0.5) / 3) for one in samples]
    assert len(samples) > 40
    assert len({one.number for one in samples}) <= len(samples) / 2


def test_slots_before_the_first_keyframe_are_gaps(tmp_path: Path) -> None:
    video, packets = play(film(tmp_path / "camera", "h264", 12))
    _, samples = sample(video, (filmed for filmed in packets if filmed.number >= 20), 1.0)
    assert [one.slot for one in samples] == list(range(2, 12))
    assert [number_in(one.frame) for one in samples] == expected(list(range(2, 12)), 1.0)


def test_no_slot_before_the_first_allowed_one_is_filled(tmp_path: Path) -> None:
    video, packets = play(film(tmp_path / "camera", "h264", 12))
    sampler, samples = sample(video, packets, 1.0, first_slot=7)
    assert [one.slot for one in samples] == [7, 8, 9, 10, 11]
    assert sampler.late > 50


@pytest.mark.parametrize("step_s", [3600.0, 5.0, -5.0, -3600.0])
def test_a_step_of_the_clock_never_fills_a_slot_twice_nor_the_skipped_ones(step_s: float, tmp_path: Path) -> None:
    video, packets = play(film(tmp_path / "camera", "b-frames", SECONDS))
    sampler = LiveSampler(video.codec_context, Grid(1.0), "exact", 0, 1 << 26)
    samples, stepped = [], False
    for filmed in packets:
        after = filmed.t_s >= 12
        if after and not stepped:
            stepped = True
            sampler.restart_display(filmed.t_s + step_s)
        samples += sampler.add_packet(filmed.packet, filmed.t_s + step_s * after, CodedFrame())
    slots = [one.slot for one in samples]
    assert slots == sorted(set(slots))
    skipped = range(12, round(12 + step_s))
    assert not set(slots) & set(skipped)
    if step_s > 0:
        assert [number_in(one.frame) for one in samples] == [
            int((slot + 0.5 - step_s * (slot >= 12)) * FPS) for slot in slots
        ]
        assert len(slots) >= 20
    else:
        assert sampler.late > 0
        assert len(slots) == {-5.0: 19, -3600.0: 12}[step_s]


def test_a_resolution_that_changes_on_the_way_keeps_working(tmp_path: Path) -> None:
    """MPEG-TS of one size, then of another, as one stream of packets for one decoder."""
    video, first = play(film(tmp_path / "small", "h264", 10))
    _, second = play(film(tmp_path / "large", "h264", 10, size=(320, 240)))

    def packets() -> Iterator[Filmed]:
        yield from first
        for filmed in second:
            yield Filmed(filmed.packet, filmed.number, filmed.t_s + 10)

    _, samples = sample(video, packets(), 2.0)
    assert [number_in(one.frame) for one in samples] == [n % 150 for n in expected([s.slot for s in samples], 2.0)]
    assert {one.frame.width for one in samples} == {64, 320}
    assert len(samples) >= 37


NOISE = {
    "h264": ("libx264", {"g": "30", "bf": "0"}),
    "b-frames": ("libx264", {"g": "30", "bf": "3"}),
    "gradual refresh": ("libx264", {"g": "30", "bf": "0", "intra-refresh": "1"}),
    "h265": ("libx265", {"x265-params": "keyint=30:bframes=2:log-level=none"}),
}


def find_wrong(path: Path, packets: list[Filmed], mode: Mode) -> tuple[LiveSampler, int, int]:
    """(the sampler, slots filled, slots that show a picture unlike that of the whole stream)."""
    with av.open(str(path)) as container:
        whole = {round((f.time or 0) * FPS): f.to_ndarray(format="rgb24") for f in container.decode(video=0)}
    first = min(whole)
    video, _ = play(path)
    sampler, samples = sample(video, packets, 2.0, mode)
    wrong = 0
    for one in samples:
        right = whole[first + round(one.t_s * FPS)].astype(np.int16)
        wrong += bool(abs(one.frame.to_ndarray(format="rgb24") - right).mean() > 1)
    return sampler, len(samples), wrong


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", list(NOISE))
def test_frames_after_a_lost_one_wait_for_the_next_keyframe(kind: str, seed: int, tmp_path: Path) -> None:
    path = film_noise(tmp_path / "camera.ts", *NOISE[kind], 300)
    chance = random.Random(seed)
    packets = [filmed for filmed in play(path)[1] if chance.random() > 0.02]
    sampler, filled, wrong = find_wrong(path, packets, "exact")
    assert wrong == 0
    assert filled + sampler.unfilled >= 36 or kind == "h265"
    assert filled >= (5 if kind == "gradual refresh" else 15)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("mode", ["exact", "keyframes"])
def test_frames_whose_end_is_missing_are_not_shown(mode: Mode, seed: int, tmp_path: Path) -> None:
    path = film_noise(tmp_path / "camera.ts", *NOISE["h264"], 300)
    chance = random.Random(seed)
    share = 0.04 if mode == "exact" else 0.5
    packets = [
        copy_packet(filmed, bytes(filmed.packet)[: filmed.packet.size * 3 // 5]) if chance.random() < share else filmed
        for filmed in play(path)[1]
    ]
    sampler, filled, wrong = find_wrong(path, packets, mode)
    assert wrong == 0
    assert filled >= 10
    assert sampler.damaged > 0


def test_packets_that_the_demuxer_calls_corrupt_are_not_shown(tmp_path: Path) -> None:
    path = film(tmp_path / "camera", "h265", 12)
    packets = list(play(path)[1])
    packets[40].packet.is_corrupt = True  # decodes without an error
    video, _ = play(path)
    sampler, samples = sample(video, packets, 1.0)
    assert [one.slot for one in samples] == [0, 1, 2, *range(4, 12)]  # frame 40 is at 2.67 s, a keyframe at 4 s
    assert (sampler.damaged, sampler.unfilled) == (1, 1)
