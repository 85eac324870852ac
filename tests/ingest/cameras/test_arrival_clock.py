"""When frames are shown, whatever the sender's clock and the host's do."""

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from ingest.cameras.arrival_clock import (
    FrameTime,
    SenderClock,
    SenderJump,
    WallAnchor,
    fill_first_timestamps,
)

FPS = 15


def run(packets: Sequence[tuple[float, float | None]]) -> list[FrameTime]:
    """Times packets of (arrival, pts); checks what holds for all: never later than arrival, never backwards."""
    clock = SenderClock()
    times = [clock.time_packet(arrival_s, pts_s, pts_s) for arrival_s, pts_s in packets]
    assert all(time.t_s <= arrival_s for time, (arrival_s, _) in zip(times, packets, strict=True))
    assert all(later.t_s >= earlier.t_s for earlier, later in pairwise(times))
    return times


def jumps(times: list[FrameTime]) -> list[SenderJump]:
    return [time.jump for time in times if time.jump is not None]


def steady(seconds: float, *, start_s: float = 100.0, pts_s: float = 0.0) -> list[tuple[float, float | None]]:
    return [(start_s + k / FPS, pts_s + k / FPS) for k in range(round(seconds * FPS))]


def test_timestamps_smooth_what_the_network_delays() -> None:
    noise = random.Random(3)
    packets: list[tuple[float, float | None]] = []
    at = 0.0
    for k in range(40 * FPS):
        at = max(at, 100 + k / FPS + noise.expovariate(20))
        packets.append((at, k / FPS))
    times = run(packets)
    errors = [abs(time.t_s - (100 + k / FPS)) for k, time in enumerate(times)]
    assert max(errors[5 * FPS :]) < 0.01
    assert jumps(times) == []


def test_packets_held_up_by_a_stall_keep_their_times() -> None:
    packets = [(max(at, 114.0) if at >= 110 else at, pts) for at, pts in steady(30)]
    times = run(packets)
    assert max(abs(time.t_s - (100 + k / FPS)) for k, time in enumerate(times)) < 1e-9
    assert jumps(times) == []


@pytest.mark.parametrize("rate", [0.98, 0.999, 1.001, 1.02])
def test_a_sender_whose_clock_drifts_is_followed(rate: float) -> None:
    times = run([(at, (at - 100) * rate) for at, _ in steady(600)])
    assert max(abs(time.t_s - (100 + k / FPS)) for k, time in enumerate(times)) < 0.7
    assert jumps(times) == []


@pytest.mark.parametrize(
    ("seconds", "kind"), [(3600, "ahead"), (-3600, "behind"), (20, "ahead"), (-3, "behind"), (-(2**32) / 9e4, "behind")]
)
def test_a_jump_of_the_sender_begins_a_new_timeline_and_is_reported_once(seconds: float, kind: str) -> None:
    times = run(steady(10, pts_s=50_000) + steady(40, start_s=110, pts_s=50_010 + seconds))
    assert max(abs(time.t_s - (100 + k / FPS)) for k, time in enumerate(times)) < 0.01
    (jump,) = jumps(times)
    assert jump.kind == kind
    assert jump.seconds == pytest.approx(abs(seconds), abs=0.1)


def test_a_stray_timestamp_changes_nothing() -> None:
    packets = steady(20)
    packets[100] = (packets[100][0], 1e6)
    packets[200] = (packets[200][0], -1e6)
    times = run(packets)
    assert max(abs(time.t_s - (100 + k / FPS)) for k, time in enumerate(times)) < 0.01
    assert jumps(times) == []


def test_timestamps_that_go_missing_are_reported_once_and_arrival_counts() -> None:
    packets = [(at, pts if at < 105 else None) for at, pts in steady(20)]
    times = run(packets)
    assert [time.t_s for time in times[6 * FPS :]] == [at for at, _ in packets[6 * FPS :]]
    assert jumps(times) == [SenderJump("missing")]


def test_a_sender_without_timestamps_is_timed_by_arrival() -> None:
    times = run([(at, None) for at, _ in steady(5)])
    assert [time.t_s for time in times] == [at for at, _ in steady(5)]
    assert jumps(times) == []


def test_timestamps_that_jump_all_the_time_are_ignored_in_the_end() -> None:
    noise = random.Random(4)
    times = run([(at, noise.uniform(0, 1e5)) for at, _ in steady(60)])
    assert len(jumps(times)) <= 6
    assert jumps(times)[-1] == SenderJump("useless")


def test_reordered_frames_keep_their_order() -> None:
    """I0 P3 B1 B2 P6 B4 B5 ...: each arrives as soon as a camera can have coded it."""
    clock, times = SenderClock(), {}
    for k in range(0, 300, 3):
        for number in (k, k - 2, k - 1) if k else (0,):
            arrival_s = 100 + max(k, number) / FPS + 0.001 * (3 + number - k)
            times[number] = clock.time_packet(arrival_s, number / FPS, None).t_s
    shown = [times[number] for number in sorted(times)]
    assert all(later >= earlier for earlier, later in pairwise(shown))
    assert max(abs(t_s - 100 - k / FPS) for k, t_s in enumerate(shown)) < 0.01


def test_packets_that_queued_up_while_the_camera_was_opened_get_their_own_times() -> None:
    packets = [(max(at, 102.0), pts) for at, pts in steady(3)]
    clock = SenderClock()
    clock.prepare(100.5, [(at, pts) for at, pts in packets[: 2 * FPS + 1] if pts is not None])
    times = [clock.time_packet(at, pts).t_s for at, pts in packets]
    assert times == pytest.approx([max(100 + k / FPS, 100.5) for k in range(len(packets))])


def test_the_first_timestamps_are_filled_in() -> None:
    assert fill_first_timestamps([None, 1.5, 1.0, 2.0]) == [0.5, 1.5, 1.0, 2.0]
    assert fill_first_timestamps([None, None, 3.0, 3.25]) == [2.5, 2.75, 3.0, 3.25]
    assert fill_first_timestamps([None, None]) == [None, None]
    assert fill_first_timestamps([None, 1.0]) == [None, 1.0]


def test_arrival_is_anchored_to_utc() -> None:
    anchor = WallAnchor(1_000_000.0)
    assert anchor.place_arrival(50.0, 1_000_010.0) == (10.0, 0.0)
    assert anchor.place_arrival(51.0, 1_000_011.2) == (11.0, 0.0)  # read a little later: no step
    assert anchor.place_arrival(52.0, 1_003_612.0) == (3612.0, 3600.0)
    assert anchor.place_arrival(53.0, 1_003_613.0) == (3613.0, 0.0)
    assert anchor.place_arrival(54.0, 1_000_014.0) == (14.0, -3600.0)
