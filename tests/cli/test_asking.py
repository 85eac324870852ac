"""The commands for questions against a scripted service."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cli.conftest import (
    QUESTION_ID,
    VIDEO_ID,
    Longwatch,
    Service,
    a_question,
    an_answer,
    spawn,
)
from tests.waiting import wait_until

ASKED = f"/v1/videos/{VIDEO_ID}/questions"


def test_an_answer_is_printed_as_it_comes_and_followed_by_its_grounds(config: Path, service: Service) -> None:
    go_on = threading.Event()

    def events() -> Iterator[tuple[str, Any]]:
        yield "question", a_question()
        waiting = {"for": "frames", "frames_encoded": 128, "frames_expected": 600}
        yield "waiting", a_question(status="waiting", waiting=waiting)
        yield "text", "on the "
        assert go_on.wait(30)
        yield "text", "left [sic]\x1b[2J"
        yield "answer", a_question(status="done", answer=an_answer("on the left [sic]"))

    service.stream("POST", ASKED, events)
    options = ["--from", "1:05", "--to", "2026-11-21T13:00:00Z", "--fusion", "exact", "--partial", "--max-tokens", "9"]
    process = spawn(config, "ask", VIDEO_ID, "where is it ?", *options)
    assert process.stdout is not None
    assert process.stdout.read(7) == "on the "  # before the rest is known
    go_on.set()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "left [sic]\\x1b[2J\n")
    assert service.requests("POST")[0].json == {
        "question": "where is it ?",
        "start": 65.0,
        "end": "2026-11-21T13:00:00+00:00",
        "fusion": "exact",
        "partial": True,
        "max_tokens": 9,
    }
    assert "0:17.5" in err
    assert QUESTION_ID in err


def test_what_a_question_waits_for_is_reported_within_five_seconds(config: Path, service: Service) -> None:
    missing = [{"part": "reason", "message": "no reason worker is alive: start `longwatch worker reason`"}]
    service.fail("GET", "/readyz", 503, "not ready", missing=missing)
    stop = threading.Event()

    def events() -> Iterator[tuple[str, Any]]:
        yield "question", a_question()
        stop.wait(60)

    service.stream("POST", ASKED, events)
    process = spawn(config, "ask", VIDEO_ID, "what ?", "--json")
    assert process.stderr is not None
    wait_until(lambda: service.requests("POST"))
    asked_at = time.monotonic()
    said = ""
    while "no reason worker is alive" not in said:
        said = process.stderr.readline()
        assert said
    assert time.monotonic() - asked_at < 5
    stop.set()
    process.kill()
    process.communicate()


def test_a_question_that_fails_or_is_interrupted_says_so(config: Path, longwatch: Longwatch, service: Service) -> None:
    problem = {"code": "context-full", "message": "900 frames would fit"}
    failed = a_question(status="failed", problem=problem)
    service.stream("POST", ASKED, lambda: iter([("question", a_question()), ("error", failed)]))
    done = longwatch("ask", VIDEO_ID, "what ?")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "longwatch: 900 frames would fit")

    service.stream("POST", ASKED, lambda: iter([("question", a_question()), ("text", "we")]))
    broken = longwatch("ask", VIDEO_ID, "what ?")
    assert (broken.returncode, f"`longwatch answer {QUESTION_ID}`" in broken.stderr) == (1, True)
    settled = a_question(status="done", answer=an_answer("well"))
    path = f"/v1/questions/{QUESTION_ID}"
    service.stream("GET", path, lambda: iter([("question", a_question()), ("text", "well"), ("answer", settled)]))
    assert longwatch("answer", QUESTION_ID).stdout == "well\n"
    service.stream("GET", path, lambda: iter([("question", settled), ("text", "well"), ("answer", settled)]))
    assert longwatch("answer", QUESTION_ID).stderr.startswith("600 frames")  # no word of waiting

    stop = threading.Event()

    def endless() -> Iterator[tuple[str, Any]]:
        yield "question", a_question()
        yield "text", "well"
        stop.wait(60)

    service.stream("POST", ASKED, endless)
    service.on("DELETE", f"/v1/questions/{QUESTION_ID}", a_question(status="cancelled"))
    leaving = spawn(config, "ask", VIDEO_ID, "what now ?")
    assert leaving.stdout is not None
    assert leaving.stdout.read(4) == "well"
    leaving.send_signal(signal.SIGINT)
    _, err = leaving.communicate(timeout=60)
    stop.set()
    assert leaving.returncode not in (0, 2)
    assert "Traceback" not in err
    assert [request.path for request in service.requests("DELETE")] == [f"/v1/questions/{QUESTION_ID}"]


def test_an_empty_question_is_refused_before_anything_is_sent(longwatch: Longwatch, service: Service) -> None:
    for empty in ("", "  "):
        done = longwatch("ask", VIDEO_ID, empty)
        assert done.returncode == 2
        assert "the question is empty" in done.stderr
    assert service.asked == []
