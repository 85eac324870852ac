"""Only explicit hub names are looked up on the hub. A local server stands in for the hub."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

READ = """
import sys
from llava_mini.checkpoint import Checkpoint
from llava_mini.errors import CheckpointError
for name in sys.argv[1:]:
    try:
        Checkpoint(name)
    except CheckpointError as error:
        print(str(error).splitlines()[0])
"""


class Hub(ThreadingHTTPServer):
    """An empty hub that records what it was asked for."""

    asked: list[str]


class _Nothing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Hub)
        self.server.asked.append(self.path)
        self.send_error(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *args: object) -> None:
        """Logs nothing, to keep the tests' output clean."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(("127.0.0.1", 0), _Nothing) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def read(names: list[str], hub: Hub, folder: Path) -> list[str]:
    """The error of reading each checkpoint, with `folder` as the working directory."""
    root = str(Path(__file__).parent.parent.parent)
    environment = os.environ | {
        "PYTHONPATH": root,
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HOME": str(folder / "hub"),
        "NO_PROXY": "*",
    }
    line = [sys.executable, "-P", "-c", READ, *names]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def with_tower(tower: str, folder: Path, into: Path) -> str:
    """A copy of a checkpoint whose configuration names another tower."""
    shutil.copytree(folder, into)
    config = into / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"mm_vision_tower": tower}))
    return str(into)


def test_a_name_with_the_hub_prefix_is_looked_up_on_the_hub(hub: Hub, folder_a: Path, tmp_path: Path) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)  # a local folder of that name makes no difference
    checkpoint, tower = read(["hub:owner/name", with_tower("owner/name", folder_a, tmp_path / "copy")], hub, tmp_path)
    assert checkpoint.startswith("cannot get owner/name from the hub")
    assert tower.startswith("cannot get owner/name from the hub")
    assert any("owner/name" in path for path in hub.asked)


def test_a_folder_that_does_not_exist_is_never_looked_up(hub: Hub, tmp_path: Path) -> None:
    names = ["checkpoints/tiny", "owner/name", "./name", "../name", "/no/such/name", "a/b/c", "name"]
    for name, said in zip(names, read(names, hub, tmp_path), strict=True):
        assert said.startswith(f"there is no checkpoint folder {tmp_path / name};")
    assert hub.asked == []


def test_a_tower_that_is_not_a_hub_id_is_never_looked_up(hub: Hub, folder_a: Path, tmp_path: Path) -> None:
    towers = ["clip/other", "./tower", "tower", "a/b/c", "/no/such/tower"]  # the checkpoint has a folder clip/
    folders = [with_tower(tower, folder_a, tmp_path / str(number)) for number, tower in enumerate(towers)]
    for folder, tower, said in zip(folders, towers, read(folders, hub, tmp_path), strict=True):
        assert said.startswith(f"there is no folder {Path(folder) / tower},")
    assert hub.asked == []
