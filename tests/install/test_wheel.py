"""The wheel in a clean environment and another directory: it is complete, finds its own files, and the service answers.

The environment holds the wheel and no other code of ours. A .pth file adds the dependencies of the environment that
runs the tests: installing them again would take a minute and a gigabyte, and show no more than `pip check` does here.
An editable install does not come through, because its own .pth file is not read.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.media import steady, write_video
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
DECOYS = ("api", "cli", "configs", "jobs", "llava_mini", "storage", "supervisor")
KUBERNETES = {"LONGWATCH_PORT": "tcp://10.0.0.1:80", "LONGWATCH_SERVICE_HOST": "10.0.0.1"}


@dataclass(frozen=True)
class Installed:
    """A clean environment, and an unrelated working directory."""

    bin: Path
    elsewhere: Path
    environment: dict[str, str]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs `longwatch` until it ends."""
        line = [str(self.bin / "longwatch"), *words]
        return subprocess.run(
            line, cwd=self.elsewhere, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def read_output(self, *words: str) -> str:
        """Runs `longwatch`, which must succeed, and returns its output."""
        done = self.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def logs(self) -> str:
        """The last lines of every process that `longwatch up` runs."""
        files = sorted((self.elsewhere / "data" / "logs").glob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files)


def list_ignored(folder: str, names: list[str]) -> set[str]:
    """Names that are not copied for the build: the environment, data, and leftovers of tools and earlier builds."""
    made = {name for name in names if name.startswith(".") or name.endswith(".egg-info")}
    return {"__pycache__", *(made | {"data", "build", "dist"} if Path(folder) == ROOT else ())}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a clean copy."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=list_ignored)
    line = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*line, "--wheel-dir", str(folder), str(folder / "source")], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Iterator[Installed]:
    """The installed wheel. The working directory has a short name, for a socket's path, and folders with our names."""
    with tempfile.TemporaryDirectory(prefix="lw") as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        python = folder / "venv" / "bin" / "python"
        line = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*line, str(wheel)], check=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = folder / "venv" / "lib" / version / "site-packages"
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        for decoy in DECOYS:
            (folder / "elsewhere" / decoy).mkdir(parents=True)
            (folder / "elsewhere" / decoy / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
        (folder / "elsewhere" / "tiny").touch()
        (folder / "elsewhere" / "checkpoints" / "tiny").mkdir(parents=True)
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("LONGWATCH_", "PYTHON"))}
        environment = (
            ours | KUBERNETES | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_PROXY": "*", "COLUMNS": "200"}
        )
        yield Installed(folder / "venv" / "bin", folder / "elsewhere", environment)


def test_the_wheel_holds_everything_the_service_needs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    for pattern in ("configs/*.yaml", "configs/Procfile", "checkpoints/tiny/**/*", "api/static/**/*"):
        wanted = {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern) if path.is_file()}
        assert wanted <= names, wanted - names
    assert {"configs/tiny.yaml", "configs/Procfile", "checkpoints/tiny/clip/model.safetensors"} <= names
    assert names.isdisjoint({"tests", "training", "benchmarks", "demo"} & {name.split("/")[0] for name in names})
    assert {name.partition("/")[0] for name in names if name.endswith(".py")} == list_packages()


def list_packages() -> set[str]:
    """The service's packages in the tree."""
    apart = {"tests", "training", "benchmarks", "demo"}
    return {file.parent.name for file in ROOT.glob("*/__init__.py") if not file.parent.name.startswith(".")} - apart


def test_the_requirements_of_the_wheel_are_installed(installed: Installed) -> None:
    line = [sys.executable, "-m", "pip", "--python", str(installed.bin / "python"), "check"]
    done = subprocess.run(line, env=installed.environment, capture_output=True, text=True, check=False)
    assert "longwatch" not in done.stdout, done.stdout


def test_the_code_comes_from_the_wheel_and_nothing_shadows_it(installed: Installed) -> None:
    packages = sorted(list_packages() - {"checkpoints"})
    code = (
        "import api, llava_mini, configs.shadowing as s; "
        f"print(api.__file__, llava_mini.__file__, *s.find_shadowed({packages}), sep='\\n')"
    )
    line = [str(installed.bin / "python"), "-P", "-c", code]
    done = subprocess.run(
        line, cwd=installed.elsewhere, env=installed.environment, capture_output=True, text=True, check=True
    )
    places = done.stdout.splitlines()
    assert len(places) == 2, places
    assert all(place.startswith(str(installed.bin.parent)) for place in places)


def test_commands_without_a_service_work_in_any_directory(installed: Installed) -> None:
    assert "Usage: longwatch" in installed.read_output("--help")
    assert "frames in memory" in installed.read_output("plan", "--gpu-gb", "24", "--config", "llava-mini-8b")
    assert "checkpoints/tiny is complete" in installed.run("doctor").stdout


def test_doctor_reports_a_missing_checkpoint_with_its_full_path(installed: Installed) -> None:
    for name in ("checkpoints/none", "owner/name", "./none"):
        installed.environment["LONGWATCH_MODEL__CHECKPOINT"] = name
        output = installed.run("doctor").stdout
        del installed.environment["LONGWATCH_MODEL__CHECKPOINT"]
        assert f"no folder {installed.elsewhere / name}" in output


def test_plan_finds_the_bundled_model_in_any_directory(installed: Installed) -> None:
    assert "TFLOP" in installed.read_output("--config", "tiny", "plan", "--config", "tiny")


def test_up_add_and_ask_in_another_directory(installed: Installed) -> None:
    clip = write_video(installed.elsewhere / "clip.mp4", steady(4, fps=5))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    installed.environment["LONGWATCH_API__PORT"] = str(port)
    try:
        with up(installed) as process:
            wait_until(lambda: is_ready(port) or process.poll() is not None, within_s=90, step_s=0.2)
            video_id = installed.read_output("add", clip.name, "--wait").split()[0]
            assert video_id in installed.read_output("show", video_id)
            assert installed.read_output("ask", video_id, "what colour is the circle ?").strip()
    except (AssertionError, subprocess.TimeoutExpired) as error:
        error.add_note(installed.logs())
        raise
    assert (installed.elsewhere / "data" / "archive" / video_id / "video.json").is_file()


@contextmanager
def up(installed: Installed) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `longwatch up` until the block ends."""
    logs = installed.elsewhere / "data" / "logs"
    logs.mkdir(parents=True)
    with (logs / "up.log").open("wb") as log:
        line = [str(installed.bin / "longwatch"), "up"]
        process = subprocess.Popen(
            line, cwd=installed.elsewhere, env=installed.environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def is_ready(port: int) -> bool:
    """Whether the service reports that it is ready."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
