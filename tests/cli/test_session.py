"""Every command against the real service, which `longwatch up` runs with the bundled model."""

import json
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.cli.conftest import ROOT, line_with, spawn
from tests.waiting import wait_until

CLIP = ROOT / "demo" / "safari.mp4"
Say = Callable[..., str]


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Runs `up` with the bundled settings in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="lw") as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        values = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())
        config = Path(name) / "test.yaml"
        config.write_text(yaml.safe_dump(values | {"data_dir": f"{name}/data", "api": {"port": port}}))
        process = spawn(config, "up", start_new_session=True)
        try:
            wait_until(lambda: spawn_and_wait(config, "doctor")[0] == 0 or process.poll() is not None, step_s=1)
            assert process.poll() is None
            yield config, process
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


@pytest.fixture
def config(running: tuple[Path, subprocess.Popen[str]]) -> Path:
    """The service's settings."""
    return running[0]


@pytest.fixture
def service(running: tuple[Path, subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """The process of `up`."""
    return running[1]


def spawn_and_wait(config: Path, *words: str) -> tuple[int, str, str]:
    process = spawn(config, *words)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def say(config: Path, service: subprocess.Popen[str]) -> Say:
    """Runs a command, checks its exit code, and returns what it printed."""

    def run(*words: str, code: int = 0) -> str:
        returned, out, err = spawn_and_wait(config, *words)
        assert returned == code, (words, out, err)
        return out if code == 0 else err

    return run


def test_a_session_with_the_service(say: Say, folder: Path) -> None:
    picture = folder / "red.png"
    Image.new("RGB", (320, 180), "red").save(picture)
    recorded = "2026-11-21T13:00:00+01:00"
    video, image = say("add", str(CLIP), str(picture), "--wait", "--recorded-at", recorded).split()
    assert [line.split()[0] for line in say("list").splitlines()[1:]] == [image, video]
    assert "several videos begin with" in say("show", video[:8], code=1)

    answer = say("ask", video[:22], "what place is this ?", "--from", "0:02", "--to", "2026-11-21T12:00:08Z")
    asked = as_json(say("questions", video, "--json"))
    assert [(one["start_s"], one["end_s"], one["status"]) for one in asked] == [(2, 8, "done")]
    assert answer == f"{asked[0]['answer']['text']}\n" == say("answer", asked[0]["id"])
    assert asked[0]["start_at"].startswith("2026-11-21T12:00:02")
    follow = as_json(say("ask", video, "and there ?", "--follow", asked[0]["id"], "--max-tokens", "1", "--json"))
    assert follow["previous_question_id"] == asked[0]["id"]
    assert follow["answer"]["tokens"]["answer"] == 1
    assert say("ask", image, "which colour is it ?", "--partial", "--fusion", "exact").strip()
    assert say("cancel", follow["id"]) == "done\n"
    assert asked[0]["id"] in say("show", video)

    out = say("frame", video, "0:05.2", "-o", str(folder / "frame.jpg"))
    with Image.open(out.strip()) as frame:
        assert (frame.format, frame.size) == ("JPEG", (640, 480))
    assert say("source", image, "-o", str(folder / "again.png"))
    assert (folder / "again.png").read_bytes() == picture.read_bytes()

    assert "nothing to retry" in say("retry", video, code=1)
    (folder / "text.mp4").write_text("this is no video")
    assert "not a video file" in say("add", "--wait", str(folder / "text.mp4"), code=1)
    failed = as_json(say("list", "--json"))[0]["id"]
    assert say("retry", failed) == f"{failed}\n"
    say("wait", failed, code=1)
    say("delete", failed, image, video)
    assert as_json(say("list", "--json")) == []
    assert f"no video {video}" in say("show", video, code=1)


def test_a_killed_worker_is_reported_and_restarted(say: Say, service: subprocess.Popen[str], folder: Path) -> None:
    video = say("add", str(CLIP), "--wait").strip()
    children = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    pid = next(
        line.split()[0]
        for line in children.splitlines()
        if line.split()[1] == str(service.pid) and line.endswith("-m reasoner")
    )
    subprocess.run(["kill", "-KILL", pid], check=True)
    assert service.stderr is not None
    assert "reasoner died (terminated by SIGKILL)" in line_with("reasoner", service.stderr)
    assert say("ask", video, "what place is this ?").strip()


def as_json(text: str) -> Any:
    return json.loads(text)
