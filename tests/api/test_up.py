"""`longwatch up` and its private Redis: started, restarted when killed, stopped as a whole."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from api import redis_server
from api.up import CannotStart, parse_procfile, supervisor_config, up
from configs.places import PROCFILE
from configs.settings import ApiSettings, Settings
from tests.api.test_cli import spawn
from tests.waiting import wait_until

BEAT = "import os, pathlib, signal; pathlib.Path('beat').write_text(str(os.getpid())); signal.pause()"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path holds 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="lw") as name:
        yield Path(name)


@pytest.fixture
def config(folder: Path, unused_port: int) -> Path:
    """Settings without a Redis of their own."""
    path = folder / "up.yaml"
    path.write_text(yaml.safe_dump({"data_dir": str(folder / "my data"), "api": {"port": unused_port}}))
    return path


def test_everything_starts_is_brought_back_and_stops_with_ctrl_c(folder: Path, config: Path, unused_port: int) -> None:
    procfile = folder / "Procfile"
    beat = f'{sys.executable} -c "{BEAT.replace("beat", str(folder / "beat"))}"'
    procfile.write_text(f"# cheap\nredis: longwatch redis\napi: longwatch serve\nbeat: {beat}\n")
    process = spawn(config, "up", "--procfile", str(procfile), start_new_session=True)
    with httpx.Client(base_url=f"http://127.0.0.1:{unused_port}", trust_env=False) as http:
        try:
            wait_until(lambda: missing(http) == ["ingest", "encode", "reason"] or process.poll() is not None)
            assert process.poll() is None, process.communicate()[1]
            first = pid_in(folder / "beat")
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: pid_in(folder / "beat") != first)
            video = http.post("/v1/videos", json={"url": "https://example.org/a.mp4"}).json()
            with http.stream("GET", f"/v1/videos/{video['id']}/events"):  # a client that stays does not hold it up
                twice = spawn(config, "up", "--procfile", str(procfile))
                out, err = twice.communicate(timeout=60)
                assert (twice.returncode, out) == (1, "")
                assert "api.port" in err
                other = spawn(config, "redis")
                assert "already" in other.communicate(timeout=60)[1]
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=60)
        finally:
            process.terminate()
            process.wait(timeout=30)
    assert process.returncode == 0, err
    assert f"http://127.0.0.1:{unused_port}" in out
    assert not alive(pid_in(folder / "beat"))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{unused_port}/healthz", trust_env=False)


def missing(http: httpx.Client) -> list[str]:
    """The parts that are missing, as /readyz names them; nothing while nobody answers."""
    try:
        return [part["part"] for part in http.get("/readyz").json()["missing"]]
    except httpx.TransportError:
        return []


def pid_in(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def alive(pid: int) -> bool:
    return subprocess.run(["kill", "-0", str(pid)], stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_what_up_cannot_start_with_is_said_beforehand(folder: Path, unused_port: int) -> None:
    settings = Settings(data_dir=folder / "d", api=ApiSettings(port=unused_port))
    with pytest.raises(CannotStart, match="nothing-here"):
        up(settings, folder / "nothing-here")
    with pytest.raises(CannotStart, match="100%"):
        up(settings.model_copy(update={"data_dir": folder / "100%"}))
    deep = settings.model_copy(update={"data_dir": folder / ("x" * 100)})
    with pytest.raises(redis_server.NoRedisServer, match="shorter data_dir"):
        up(deep)
    with pytest.raises(CannotStart, match="not `name: command`"):
        parse_procfile("api: serve\nnonsense\n")
    assert not (folder / "d").exists()


def test_the_procfile_is_the_architecture_and_each_process_comes_back() -> None:
    text = PROCFILE.read_text()
    processes = parse_procfile(text)
    assert list(processes) == ["redis", "api", "ingest", "encoder_worker", "reasoner"]
    config = supervisor_config(processes, Path("/run"), Path("/log"))
    for order, name in enumerate(processes):
        program = config[f"program:{name}"]
        assert (program["autorestart"], program["priority"]) == ("true", str(order))
        assert program["command"].startswith(sys.executable)


def test_the_private_redis_is_durable_bounded_and_local() -> None:
    line = redis_server.command(Settings(data_dir=Path("/d")))
    options = dict(zip(line[1::2], line[2::2], strict=True))
    expected = {
        "--port": "0",
        "--unixsocket": "/d/redis/redis.sock",
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--maxmemory": "2048mb",
        "--maxmemory-policy": "volatile-lru",
    }
    assert expected.items() <= options.items()
