"""The command line against a scripted service: what a user types and reads."""

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import (
    OTHER_ID,
    QUESTION_ID,
    ROOT,
    VIDEO_ID,
    Longwatch,
    Request,
    Service,
    a_question,
    a_video,
    progress,
    spawn,
)
from tests.waiting import wait_until

ASKED = f"/v1/videos/{VIDEO_ID}/questions"


def test_several_sources_are_submitted_and_the_bad_one_is_named(
    longwatch: Longwatch, service: Service, tmp_path: Path
) -> None:
    service.on("POST", "/v1/videos", a_video(), 202)
    file = tmp_path / "holiday [bold].mp4"
    file.write_bytes(b"bytes of a film")
    recorded = "2026-11-21T13:00:00+01:00"
    done = longwatch(
        "add", str(file), str(tmp_path / "nothing.mp4"), "https://example.org/a.mp4", "--recorded-at", recorded
    )
    assert (done.returncode, done.stdout) == (1, f"{VIDEO_ID}\n{VIDEO_ID}\n")
    assert "nothing.mp4 is neither an http(s) address nor a local file" in done.stderr
    upload, address = service.requests("POST")
    assert b"bytes of a film" in upload.body
    assert recorded.encode() in upload.body
    assert address.json == {"url": "https://example.org/a.mp4", "recorded_at": recorded}
    assert longwatch("add", "a.mp4", "b.mp4", "--title", "one").returncode == 2


def test_an_upload_of_known_content_says_which_options_were_ignored(
    longwatch: Longwatch, service: Service, tmp_path: Path
) -> None:
    file = tmp_path / "film.mp4"
    file.write_bytes(b"bytes of a film")
    given = ("--title", " one", "--recorded-at", "2026-11-21T13:00:00+01:00")
    service.on("POST", "/v1/videos", a_video(title="one", recorded_at="2026-11-21T12:00:00Z"), 200)
    done = longwatch("add", str(file), *given)
    assert (done.returncode, done.stdout) == (0, f"{VIDEO_ID}\n")
    assert done.stderr.endswith(f"film.mp4: its content is already there, as {VIDEO_ID}\n")
    service.on("POST", "/v1/videos", a_video(title="other", recorded_at=None, status="sampling"), 200)
    done = longwatch("add", str(file), *given)
    assert "; --title is ignored: that video keeps 'other'; " in done.stderr
    assert done.stderr.endswith("; --recorded-at is ignored while that video is sampling\n")


def test_a_busy_service_is_asked_again(longwatch: Longwatch, service: Service) -> None:
    def busy_once(_: Request) -> Any:
        service.on("POST", "/v1/videos", a_video(), 202)
        return 429, {"retry-after": "1"}, json.dumps({"detail": "100 videos are unsettled"}).encode()

    service.routes["POST", "/v1/videos"] = busy_once
    done = longwatch("add", "https://example.org/a.mp4")
    assert (done.returncode, done.stdout) == (0, f"{VIDEO_ID}\n")
    assert "100 videos are unsettled; trying again in 1 s" in done.stderr


def test_waiting_shows_progress_missing_parts_and_the_outcome(longwatch: Longwatch, service: Service) -> None:
    missing = [
        {"part": "encode", "message": "no encode worker is alive: start `longwatch worker encode`"},
        {"part": "reason", "message": "no reason worker is alive"},
    ]
    service.fail("GET", "/readyz", 503, "not ready", missing=missing)
    service.on("POST", "/v1/videos", a_video(status="queued", progress=progress(0)), 202)

    def changes() -> Iterator[tuple[str, Any]]:
        yield "progress", a_video(progress=progress(12))
        wait_until(lambda: any(request.path == "/readyz" for request in service.asked), within_s=5)
        time.sleep(0.5)
        yield "progress", a_video(truncated="cut off at 1 s")

    service.stream("GET", f"/v1/videos/{VIDEO_ID}/events", changes)
    done = longwatch("add", "https://example.org/a.mp4", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["progress"]["complete"]
    assert f"{VIDEO_ID}: encoding, 600 of 600 sampled, 12 encoded" in done.stderr  # the same word as in `list`
    assert "waiting: no encode worker is alive: start `longwatch worker encode`" in done.stderr
    assert "no reason worker" not in done.stderr  # a video does not wait for one
    assert "partly sampled: cut off at 1 s" in done.stderr

    problem = {"code": "source-unavailable", "message": "nobody answers there"}
    failed = a_video(status="failed", problem=problem, progress=progress(0, 0))
    service.stream("GET", f"/v1/videos/{VIDEO_ID}/events", lambda: iter([("progress", failed)]))
    done = longwatch("wait", VIDEO_ID)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"longwatch: {VIDEO_ID}: nobody answers there"


def test_a_stream_that_is_cut_off_is_resumed(longwatch: Longwatch, service: Service) -> None:
    path = f"/v1/videos/{VIDEO_ID}/events"

    def broken(_: Request) -> Any:
        service.stream("GET", path, lambda: iter([("progress", a_video())]))
        return 200, {"content-length": "1000"}, b"event: progress\n"

    service.routes["GET", path] = broken
    done = longwatch("wait", VIDEO_ID, "--json")
    assert (done.returncode, json.loads(done.stdout)["id"]) == (0, VIDEO_ID)


def test_a_list_shows_complete_ids_from_all_pages_and_escapes_control_characters(
    longwatch: Longwatch, service: Service
) -> None:
    def page(request: Request) -> Any:
        first = "cursor" not in request.query
        video = a_video(title="a\x1b[2Jb\r") if first else a_video(id=OTHER_ID)
        return 200, {}, json.dumps({"videos": [video], "next_cursor": "next" if first else None}).encode()

    service.routes["GET", "/v1/videos"] = page
    listed = longwatch("list", env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"})
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["id", VIDEO_ID, OTHER_ID]
    assert "\x1b" not in listed.stdout
    assert "\r" not in listed.stdout
    assert [video["id"] for video in json.loads(longwatch("list", "--json").stdout)] == [VIDEO_ID, OTHER_ID]


def test_a_unique_beginning_of_an_id_is_enough(longwatch: Longwatch, service: Service) -> None:
    def matching(request: Request) -> Any:
        videos = [a_video(title="one"), a_video(id=OTHER_ID, title="two")]
        found = [video for video in videos if video["id"].startswith(request.query["prefix"])]
        return 200, {}, json.dumps({"videos": found, "next_cursor": None}).encode()

    service.routes["GET", "/v1/videos"] = matching
    service.on("GET", f"/v1/videos/{VIDEO_ID}", a_video())
    service.on("GET", ASKED, {"questions": [a_question()], "next_cursor": None})
    service.on("DELETE", f"/v1/questions/{QUESTION_ID}", a_question(status="cancelled"))
    shown = longwatch("show", "20261121-0208")
    assert (shown.returncode, VIDEO_ID in shown.stdout, QUESTION_ID in shown.stdout) == (0, True, True)
    several = longwatch("show", "20261121")
    assert several.returncode == 1
    assert f"  {VIDEO_ID}  one\n  {OTHER_ID}  two\n" in several.stderr
    none = longwatch("show", "2025")
    assert (none.returncode, "`longwatch list` shows the ids" in none.stderr) == (1, True)
    assert "no video" in longwatch("show", "../x").stderr
    for beginning in (f"{VIDEO_ID}_2026", "20261121-0208"):
        assert longwatch("cancel", beginning).stdout == "cancelled\n"
    assert [request.query["prefix"] for request in service.asked if request.path == ASKED and request.query] == [
        f"{VIDEO_ID}_2026",
        f"{VIDEO_ID}_",
    ]
    assert len(service.requests("DELETE")) == 2


def test_a_frame_and_an_image_are_fetched_into_files(longwatch: Longwatch, service: Service, tmp_path: Path) -> None:
    service.on("GET", f"/v1/videos/{VIDEO_ID}/frame", None, 307, location=f"/v1/videos/{VIDEO_ID}/frames/65.jpg")
    picture = b"\xff\xd8 picture"
    service.routes["GET", f"/v1/videos/{VIDEO_ID}/frames/65.jpg"] = lambda _: (200, {}, picture)
    service.routes["GET", f"/v1/videos/{VIDEO_ID}/source"] = lambda _: (200, {"content-type": "image/png"}, b"png")
    done = longwatch("frame", VIDEO_ID, "1:05.5", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{VIDEO_ID}-65.jpg\n"), done.stderr
    assert (tmp_path / f"{VIDEO_ID}-65.jpg").read_bytes() == picture
    assert next(request.query for request in service.asked if request.path.endswith("/frame")) == {
        "at": "65.5",
        "kind": "view",
    }
    service.on(
        "GET", f"/v1/videos/{VIDEO_ID}/frame", None, 307, location=f"/v1/videos/{VIDEO_ID}/frames/9.jpg?kind=model"
    )
    service.routes["GET", f"/v1/videos/{VIDEO_ID}/frames/9.jpg"] = lambda request: (
        200,
        {},
        request.query["kind"].encode(),
    )
    assert longwatch("frame", VIDEO_ID, "9", "--kind", "model", "-o", "-").stdout == "model"
    assert longwatch("frame", VIDEO_ID, "9", "--kind", "best").returncode == 2
    done = longwatch("source", VIDEO_ID, cwd=tmp_path)
    assert (tmp_path / done.stdout.strip()).read_bytes() == b"png"
    assert (tmp_path / f"{VIDEO_ID}.png").exists()
    assert "cannot write" in longwatch("frame", VIDEO_ID, "5", "-o", str(tmp_path / "no" / "folder.jpg")).stderr
    assert longwatch("frame", VIDEO_ID, "noon").returncode == 2


def test_deleting_asks_in_a_terminal_and_continues_after_a_failure(
    config: Path, longwatch: Longwatch, service: Service
) -> None:
    service.on("GET", f"/v1/videos/{VIDEO_ID}", a_video())
    service.on("DELETE", f"/v1/videos/{VIDEO_ID}", None, 204)
    service.fail("DELETE", f"/v1/videos/{OTHER_ID}", 409, "two videos are the same as this one")
    done = longwatch("delete", OTHER_ID, VIDEO_ID)
    assert (done.returncode, done.stderr) == (1, "longwatch: two videos are the same as this one\n")
    assert len(service.requests("DELETE")) == 2
    person, terminal = pty.openpty()
    refusing = spawn(config, "delete", VIDEO_ID, stdin=terminal)
    os.write(person, b"n\n")
    out, _ = refusing.communicate(timeout=60)
    assert "garden.mp4" in out
    assert len(service.requests("DELETE")) == 2
    assert longwatch("delete", "-y", VIDEO_ID, stdin=terminal).returncode == 0
    assert len(service.requests("DELETE")) == 3
    os.close(person)
    os.close(terminal)


def test_a_failed_video_can_be_retried(longwatch: Longwatch, service: Service) -> None:
    service.on("POST", f"/v1/videos/{VIDEO_ID}/retry", a_video(status="queued"), 202)
    assert longwatch("retry", VIDEO_ID).stdout == f"{VIDEO_ID}\n"


@pytest.mark.parametrize("words", [["list"], ["show", "2026"], ["show", VIDEO_ID], ["ask", VIDEO_ID, "?"]])
def test_a_service_that_is_down_is_reported(longwatch: Longwatch, words: list[str]) -> None:
    nobody = longwatch(*words, "--api-url", "http://127.0.0.1:1")
    assert (nobody.returncode, nobody.stderr.count("\n")) == (1, 1)
    assert "no service answers at http://127.0.0.1:1" in nobody.stderr
    assert "start it with `longwatch up`" in nobody.stderr


def test_errors_are_one_clear_line(longwatch: Longwatch, config: Path, service: Service) -> None:
    assert "not a valid address" in longwatch("list", "--api-url", "http://here:x").stderr
    assert "not a valid address" in longwatch("list", "--api-url", "here").stderr
    service.routes["GET", "/v1/videos"] = lambda _: (200, {}, b"<html>")
    assert "is this Longwatch?" in longwatch("list").stderr
    config.write_text("api: {prot: 5}")
    wrong = longwatch("list")
    assert wrong.returncode == 1
    assert "api.prot" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert longwatch("ask", "--help").returncode == 0  # help works all the same


def test_a_reader_that_closes_the_pipe_early_is_not_an_error(config: Path, service: Service) -> None:
    videos = [a_video() for _ in range(1000)]
    service.on("GET", "/v1/videos", {"videos": videos, "next_cursor": None})
    for words in (["list"], ["list", "--json"], ["--version"]):
        reading, writing = os.pipe()
        os.close(reading)
        process = spawn(config, *words, stdout=writing)
        os.close(writing)
        assert process.communicate(timeout=60)[1] == ""


def test_version_and_completion_work(longwatch: Longwatch) -> None:
    assert longwatch("--version").stdout.startswith("longwatch 0.")
    named = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the tests may run without a shell
    command = [sys.executable, "-m", "cli", "--show-completion", "bash"]
    script = subprocess.run(command, cwd=ROOT, env=named, capture_output=True, text=True, check=True)
    assert "complete" in script.stdout
    assert longwatch("no-such-command").returncode == 2


def test_help_shows_no_types_of_python(longwatch: Longwatch) -> None:
    for words in ([], ["frame"], ["ask"], ["delete"], ["worker"], ["worker", "encode"]):
        shown = longwatch(*words, "--help")
        assert shown.returncode == 0, shown.stderr
        assert "--help" in shown.stdout
        assert "<bool>" not in shown.stdout
        assert "<Any>" not in shown.stdout


def test_workers_and_plan_run_as_other_programs(longwatch: Longwatch, config: Path) -> None:
    plan = longwatch("plan", "--help")
    assert "--gpu-gb" in plan.stdout, plan.stderr
    config.write_text("encoder: {batch_frames: 7}\n")
    plan = longwatch("plan")  # with the fixture's global --config
    assert "7 frames a batch" in " ".join(plan.stdout.split()), plan.stderr
    for kind in ("ingest", "encode", "reason"):
        assert longwatch("worker", kind, "--help").returncode == 0
