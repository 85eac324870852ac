"""`make setup` installs the pinned packages once, and again when the pins change."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that `make` reads, with an environment that is newer than all of them."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "constraints", tmp_path / "constraints")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "installed").touch()
    return tmp_path


def plan_commands(clone: Path, *words: str) -> list[str]:
    """The commands that `make` would run."""
    line = ["make", "--dry-run", "--no-print-directory", *words]
    environment = {"PATH": os.environ["PATH"]}  # not the flags of the make that runs the tests
    done = subprocess.run(line, cwd=clone, env=environment, capture_output=True, text=True, check=True)
    return [command for command in done.stdout.splitlines() if "Nothing to be done" not in command]


def make_newer(file: Path) -> None:
    """Makes a file newer than the environment."""
    newer = (file.parent.parent / ".venv" / "installed").stat().st_mtime + 10
    os.utime(file, (newer, newer))


def test_a_second_setup_does_nothing(clone: Path) -> None:
    assert plan_commands(clone, "setup") == []


@pytest.mark.parametrize("lock", ["cpu", "cuda"])
def test_a_new_lock_is_installed(lock: str, clone: Path) -> None:
    chosen = f"constraints/{lock}.txt"
    make_newer(clone / chosen)
    installs = [
        command for command in plan_commands(clone, "setup", f"CONSTRAINTS={chosen}") if "pip install" in command
    ]
    assert len(installs) == 2
    assert all(f"-c {chosen} " in command for command in installs)


def test_a_pytorch_index_is_used_in_addition_to_the_usual_one(clone: Path) -> None:
    make_newer(clone / "constraints" / "cpu.txt")
    index = "http://127.0.0.1:9/simple"
    commands = plan_commands(clone, "setup", f"TORCH_INDEX={index}")
    assert all(f"--extra-index-url {index}" in command for command in commands if "pip install" in command)
    assert not any("--extra-index-url" in command for command in plan_commands(clone, "setup"))


@pytest.mark.parametrize("target", ["lock", "test-latest"])
def test_a_fresh_resolution_pins_only_pytorch(target: str, clone: Path) -> None:
    installs = [command for command in plan_commands(clone, target) if "pip install" in command]
    assert len(installs) == 2
    assert all("-c constraints/torch.txt " in command for command in installs)
