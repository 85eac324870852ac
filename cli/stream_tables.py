"""Turns streams and watches into lines of text. Knows nothing of the terminal."""

from collections.abc import Iterator
from typing import Any

STREAM_HEADER = f"{'id':25}  {'state':10}  {'frames':>8}  {'lag':>6}  name"


def stream_lines(stream: dict[str, Any]) -> Iterator[str]:
    """One line for a stream, and one more if there is something to explain."""
    name = stream["name"] or stream["url"]
    lag = f"{stream['lag_s']:g} s"
    yield f"{stream['id']:25}  {stream['state']:10}  {stream['frames_sampled']:8}  {lag:>6}  {name}"
    if stream["problem"]:
        yield f"  {stream['problem']['message']}"


def stream_details(stream: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, value) of all that is known of a stream."""
    counts = f"{stream['frames_sampled']} sampled, {stream['frames_lost']} lost"
    problem, size = stream["problem"], f"{stream['width_px']}x{stream['height_px']} {stream['codec'] or ''}"
    known = {
        "id": stream["id"],
        "name": stream["name"],
        "address": stream["url"],
        "state": f"{stream['state']} since {stream['since']}",
        "problem": problem and problem["message"],
        "next try": stream["next_try_at"],
        "host": stream["host"],
        "picture": size if stream["width_px"] else None,
        "input": f"{stream['input_fps']:.1f} fps" if stream["input_fps"] else None,
        "sampling": f"{stream['sample_fps']:g} fps, {stream['decode']}",
        "frames": f"{counts}, {stream['reconnects']} reconnects",
        "lag": f"{stream['lag_s']:g} s until encoded",
        "last frame": stream["last_frame_at"],
        "frozen": stream["frozen_since"] and f"since {stream['frozen_since']}",
        "recording": "yes" if stream["record"] else None,
        "removed": stream["removed_until"] and f"until {stream['removed_until']}",
        "gaps": ", ".join(f"{gap['start']} to {gap['end']}" for gap in stream["gaps"][-5:]),
    }
    return ((name, str(value)) for name, value in known.items() if value)


def watch_lines(watch: dict[str, Any]) -> Iterator[str]:
    """A watch, and what it answered last."""
    yield f"{watch['id']}  every {watch['every_s']:g} s over {watch['window_s']:g} s, notify {watch['notify']}"
    last = watch["last"]
    answer = f"{last['answer']} ({last['probability']:.2f}, {last['at']})" if last else "not evaluated yet"
    yield f"  {watch['question']}  {answer}"
