"""The command line against a live service: what a person types and reads."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from configs.settings import Settings
from storage.models import Evidence, Problem
from storage.store import Store
from tests.api.conftest import JPEG, Seed, an_answer, new_question
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
Longwatch = Callable[..., subprocess.CompletedProcess[str]]


def spawn(config: Path, *words: str, **options: Any) -> subprocess.Popen[str]:
    """The command as a process of its own, as a shell starts it."""
    line = [sys.executable, "-m", "api.cli", "--config", str(config), *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", **options)


@pytest.fixture
def config(settings: Settings, tmp_path: Path, http: httpx.Client) -> Path:
    """The settings as a file; the service listens."""
    values = settings.model_dump(mode="json", exclude_unset=True)
    values["api"] = {"port": http.base_url.port}
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def longwatch(config: Path) -> Longwatch:
    """Runs a command to its end."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        process = spawn(config, *words)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    return run


def test_a_file_and_an_address_are_submitted_and_listed(longwatch: Longwatch, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "holiday [bold].mp4"
    file.write_bytes(b"bytes of a film")
    uploaded = longwatch("add", str(file))
    assert uploaded.returncode == 0, uploaded.stderr
    kept = store.archive.video(uploaded.stdout.strip())
    assert Path(kept.location).read_bytes() == b"bytes of a film"
    added = json.loads(longwatch("add", "--json", "https://example.org/a.mp4").stdout)
    listed = longwatch("list")
    for words in (kept.id, added["id"], "holiday [bold].mp4", "queued"):
        assert words in listed.stdout
    assert [video["id"] for video in json.loads(longwatch("list", "--json").stdout)] == [added["id"], kept.id]


def test_waiting_shows_progress_and_how_it_ended(longwatch: Longwatch, config: Path, store: Store) -> None:
    process = spawn(config, "add", "--wait", "--json", "https://example.org/a.mp4")
    wait_until(lambda: list(store.archive.videos()))
    (video_id,) = store.archive.video_ids()
    store.put_frames(video_id, 0, [JPEG % 0], [0.5])
    store.hot.set_count(video_id, "tokens:0", 1)
    ready = {"status": "ready", "frames_sampled": 1, "truncated": "cut off at 1 s"}
    store.archive.put_video(store.archive.video(video_id).model_copy(update=ready))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["progress"]["complete"]
    assert "encoded" in err
    assert "cut off at 1 s" in err

    failing = spawn(config, "add", "--wait", "https://example.org/b.mp4")
    wait_until(lambda: len(list(store.archive.videos())) == 2)
    failed = store.archive.video(store.archive.video_ids()[1])
    problem = Problem(code="source-unavailable", message="nobody answers there")
    store.archive.put_video(failed.model_copy(update={"status": "failed", "problem": problem}))
    out, err = failing.communicate(timeout=60)
    assert (failing.returncode, out.strip()) == (1, failed.id)
    assert err.splitlines()[-1] == "longwatch: nobody answers there"


def test_an_answer_is_printed_as_it_comes_with_its_grounds(config: Path, seed: Seed, store: Store) -> None:
    video = seed()
    words = ["ask", video.id, "where is it ?", "--from", "5", "--to", "60", "--fusion", "exact"]
    process = spawn(config, *words)
    assert process.stdout is not None
    wait_until(lambda: store.archive.question_ids(video.id))
    (question_id,) = store.archive.question_ids(video.id)
    asked = store.archive.question(question_id)
    assert (asked.text, asked.start_s, asked.end_s, asked.fusion) == ("where is it ?", 5, 60, "exact")
    store.answers.send(question_id, "text", "on the ")
    assert process.stdout.read(7) == "on the "  # before the rest is known
    store.answers.send(question_id, "text", "left [sic]")
    evidence = (Evidence(t_s=17.5, score=0.4, picture="/x.jpg"),)
    answer = an_answer("on the left [sic]", evidence=evidence, video_complete=False)
    store.settle_question(asked.model_copy(update={"status": "done", "answer": answer}))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "left [sic]\n")
    for words_shown in ("looked at 17.5 s", "encoded up to 70 s so far", "first token 0.30 s", question_id):
        assert words_shown in err


def test_a_question_that_fails_or_is_interrupted_ends_clearly(config: Path, seed: Seed, store: Store) -> None:
    video = seed()
    failing = spawn(config, "ask", video.id, "what ?")
    wait_until(lambda: store.archive.question_ids(video.id))
    question = store.archive.question(store.archive.question_ids(video.id)[0])
    problem = Problem(code="context-full", message="900 frames would fit")
    store.settle_question(question.model_copy(update={"status": "failed", "problem": problem}))
    _, err = failing.communicate(timeout=60)
    assert (failing.returncode, err.splitlines()[-1]) == (1, "longwatch: 900 frames would fit")

    leaving = spawn(config, "ask", video.id, "what now ?")
    assert leaving.stdout is not None
    wait_until(lambda: len(store.archive.question_ids(video.id)) == 2)
    question_id = store.archive.question_ids(video.id)[1]
    store.answers.send(question_id, "text", "well")
    assert leaving.stdout.read(4) == "well"
    leaving.send_signal(signal.SIGINT)
    leaving.communicate(timeout=60)
    assert leaving.returncode != 0
    assert store.archive.question(question_id).status == "cancelled"


def test_a_video_is_shown_with_its_questions_and_deleted(longwatch: Longwatch, seed: Seed, store: Store) -> None:
    video = seed()
    store.archive.put_question(new_question(video, status="done", answer=an_answer("yes")))
    shown = longwatch("show", video.id)
    for words in (video.id, "frames_encoded", "is it red ?  yes"):
        assert words in shown.stdout
    assert json.loads(longwatch("show", video.id, "--json").stdout)["questions"][0]["answer"]["text"] == "yes"
    assert longwatch("delete", video.id).returncode == 0
    gone = longwatch("show", video.id)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr.startswith(f"longwatch: no video {video.id}")


def test_what_goes_wrong_is_one_clear_line(longwatch: Longwatch, config: Path, tmp_path: Path) -> None:
    nobody = longwatch("list", "--api-url", "http://127.0.0.1:1")
    assert (nobody.returncode, nobody.stderr.count("\n")) == (1, 1)
    assert "start it with `longwatch up`" in nobody.stderr
    assert "no address" in longwatch("list", "--api-url", "http://here:x").stderr
    assert "neither an http(s) address nor a file" in longwatch("add", str(tmp_path / "nothing.mp4")).stderr
    config.write_text("api: {prot: 5}")
    wrong = longwatch("list")
    assert wrong.returncode == 1
    assert "api.prot" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_workers_and_plan_become_other_programs(longwatch: Longwatch, config: Path, store: Store) -> None:
    plan = longwatch("plan", "--help")
    assert "--gpu-gb" in plan.stdout, plan.stderr
    worker = spawn(config, "worker", "ingest")
    wait_until(lambda: store.hot.workers()["ingest"] == 1)
    worker.terminate()
    worker.communicate(timeout=30)
    assert worker.returncode in (0, -signal.SIGTERM)  # it announces itself a moment before it heeds signals
    for kind in ("encode", "reason"):
        assert longwatch("worker", kind, "--help").returncode == 0


def test_doctor_names_each_part_and_fails_where_one_is_missing(
    longwatch: Longwatch, config: Path, settings: Settings, store: Store
) -> None:
    store.hot.announce_worker("one", ["ingest"], alive_s=60)
    checkpoint = settings.data_dir / "checkpoint"
    checkpoint.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (checkpoint / name).touch()
    values = yaml.safe_load(config.read_text()) | {"model": {"checkpoint": str(checkpoint), "device": "cpu"}}
    config.write_text(yaml.safe_dump(values))
    fine = longwatch("doctor")
    assert fine.returncode == 0, fine.stdout
    for part in ("redis", "archive", "checkpoint", "gpu", "attention", "workers"):
        assert part in fine.stdout
    assert "ingest: 1" in fine.stdout

    (checkpoint / "tokenizer.json").unlink()
    lacking = longwatch("doctor")
    assert (lacking.returncode, "lacks tokenizer.json" in lacking.stdout) == (1, True)

    values["redis"] = {"url": "redis://:secret@127.0.0.1:1/0", "retries": 1, "connect_timeout_s": 0.5}
    values["archive"] = {"url": "/dev/null/archive"}
    config.write_text(yaml.safe_dump(values))
    broken = longwatch("doctor")
    assert broken.returncode == 1
    assert "redis.url" in broken.stdout
    assert "archive.url" in broken.stdout
    assert "secret" not in broken.stdout
