"""The command for events against a scripted service."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cli.conftest import VIDEO_ID, Answer, Longwatch, Request, Service, line_with, spawn

STREAM = {"content-type": "text/event-stream"}
IDS = [f"20261121-0208510000{number:02d}" for number in range(6)]


def an_event(number: int, **fields: Any) -> dict[str, Any]:
    """An event as the service shows it."""
    return {
        "id": IDS[number],
        "type": "match",
        "stream_id": VIDEO_ID,
        "at": f"2026-11-21T02:08:5{number}Z",
        "watch_id": "w1",
        "answer": "yes",
        "probability": 0.94,
        "evidence": [],
        "message": f"number {number} \x1b[2J",
        "start_at": None,
        "end_at": None,
        "picture": None,
        "clip": None,
    } | fields


def block(event: dict[str, Any]) -> bytes:
    return f"id: {event['id']}\r\nevent: {event['type']}\r\ndata: {json.dumps(event)}\r\n\r\n".encode()


def test_the_latest_events_are_shown_the_newest_last(longwatch: Longwatch, service: Service) -> None:
    service.on("GET", "/v1/events", {"events": [an_event(2), an_event(1)], "next_cursor": None})
    service.on("GET", f"/v1/streams/{VIDEO_ID}/events", {"events": [an_event(1)], "next_cursor": None})
    shown = longwatch("events")
    assert shown.stdout.splitlines() == [
        f"2026-11-21T02:08:5{n}Z  {VIDEO_ID}  match      number {n} \\x1b[2J: yes (0.94)" for n in (1, 2)
    ]
    lines = longwatch("events", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [IDS[1], IDS[2]]
    assert len(longwatch("events", "--stream", VIDEO_ID).stdout.splitlines()) == 1
    service.fail("GET", "/v1/events", 503, "Redis is away")
    failed = longwatch("events")
    assert (failed.returncode, failed.stderr) == (1, "longwatch: Redis is away\n")


def test_following_goes_on_behind_the_last_event_after_every_interruption(config: Path, service: Service) -> None:
    problem = {"type": "urn:longwatch:problem:redis-unavailable", "status": 503, "detail": "Redis is away"}

    def begin() -> Iterator[bytes]:
        yield f"id: {IDS[0]}\r\n\r\n".encode()  # and nothing more: the connection breaks

    def break_off() -> Iterator[bytes]:
        yield b": ping\r\n\r\n" + block(an_event(1)) + block(an_event(2))
        yield block(an_event(3))[:-20]

    def fail() -> Iterator[bytes]:
        yield block(an_event(3)) + f"event: problem\r\ndata: {json.dumps(problem)}\r\n\r\n".encode()

    parts = iter([begin(), break_off(), fail(), iter([block(an_event(4)), block(an_event(5))])])
    service.routes["GET", "/v1/events"] = lambda _: answer(next(parts))
    process = spawn(config, "events", "--follow", "--json")
    assert process.stdout is not None
    assert [json.loads(process.stdout.readline())["id"] for _ in range(5)] == IDS[1:]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    resumed = [request.query.get("after") for request in service.asked if request.path == "/v1/events"]
    assert resumed[:4] == [None, IDS[0], IDS[2], IDS[3]]


def answer(pieces: Iterator[bytes]) -> Answer:
    return 200, STREAM, pieces


def test_following_a_deleted_stream_ends_with_the_reason(config: Path, service: Service) -> None:
    path = f"/v1/streams/{VIDEO_ID}/events"
    problem = {"type": "urn:longwatch:problem:not-found", "status": 404, "detail": "the stream was deleted"}

    def end(_: Request) -> Answer:
        return answer(iter([block(an_event(1)), f"event: problem\ndata: {json.dumps(problem)}\n\n".encode()]))

    service.routes["GET", path] = end
    process = spawn(config, "events", "--stream", VIDEO_ID, "--follow")
    assert process.stdout is not None
    assert "number 1" in line_with("number", process.stdout)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "longwatch: the stream was deleted\n")
