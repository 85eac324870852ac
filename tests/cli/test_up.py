"""`longwatch up` and its private Redis servers: started, restarted when killed, stopped as a whole."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from redis import Redis
from redis.exceptions import OutOfMemoryError, RedisError

from cli.announcement import CHECK_EVERY_S
from cli.deaths import describe_death
from cli.redis_server import NoRedisServer, build_command, find_socket
from cli.up import CannotStart, parse_procfile, run, supervisor_config
from configs.places import PROCFILE
from configs.settings import ApiSettings, RedisSettings, Settings
from storage.connection import Role
from tests.cli.conftest import line_with, spawn
from tests.waiting import wait_until

BEAT = """
import os, pathlib, signal
pathlib.Path('{file}').write_text(str(os.getpid()))
print('my last\\x1b[2J words', flush=True)
signal.pause()
"""

API = """
import http.server, json, pathlib
asked = pathlib.Path('{file}')
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with asked.open('a') as log:
            log.write(self.path + ' ')
        missing = [] if len(asked.read_text().split()) > 2 else [{{'part': 'encode', 'message': 'no worker'}}]
        self.send_response(503 if missing else 200)
        self.end_headers()
        self.wfile.write(json.dumps({{'missing': missing}}).encode())
http.server.HTTPServer(('127.0.0.1', {port}), Handler).serve_forever()
"""


@pytest.fixture
def config(folder: Path, unused_port: int) -> Path:
    """Settings without addresses of Redis servers."""
    path = folder / "up.yaml"
    path.write_text(yaml.safe_dump({"data_dir": str(folder / "my data"), "api": {"port": unused_port}}))
    return path


def test_everything_starts_restarts_and_stops_with_ctrl_c(folder: Path, config: Path) -> None:
    program = folder / "beat.py"
    program.write_text(BEAT.format(file=folder / "beat"))
    procfile = folder / "Procfile"
    servers = "state: longwatch redis state\ncache: longwatch redis cache\n"
    procfile.write_text(f"# cheap\n{servers}beat: {sys.executable} {program}\n")
    process = spawn(config, "up", "--procfile", str(procfile), start_new_session=True)
    data = folder / "my data"
    try:
        wait_until(lambda: (data / "redis" / "state.sock").exists() and (data / "redis" / "cache.sock").exists())
        first = pid_in(folder / "beat")
        os.kill(first, signal.SIGKILL)
        assert process.stderr is not None
        said = line_with("beat", process.stderr)
        assert said == "beat died (terminated by SIGKILL) and is being restarted: my last\\x1b[2J words\n"
        wait_until(lambda: pid_in(folder / "beat") != first)
        for role in ("state", "cache"):
            other = spawn(config, "redis", role)
            assert f"another Longwatch runs its {role} server" in other.communicate(timeout=60)[1]
        open_to_others = [path for path in [data, *data.rglob("*")] if stat.S_IMODE(path.lstat().st_mode) & 0o077]
        assert open_to_others == []
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "http://127.0.0.1:" in out
    assert not alive(pid_in(folder / "beat"))


def test_up_says_once_that_the_service_is_ready(folder: Path, config: Path, unused_port: int) -> None:
    asked, program, procfile = folder / "asked", folder / "api.py", folder / "Procfile"
    program.write_text(API.format(file=asked, port=unused_port))
    procfile.write_text(f"api: {sys.executable} {program}\n")
    process = spawn(config, "up", "--procfile", str(procfile), start_new_session=True)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == f"ready: http://127.0.0.1:{unused_port}\n"
        assert asked.read_text().split() == ["/readyz"] * 3
        time.sleep(2 * CHECK_EVERY_S)
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert asked.read_text().split() == ["/readyz"] * 3  # nobody asks any more


def pid_in(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def alive(pid: int) -> bool:
    return subprocess.run(["kill", "-0", str(pid)], stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_a_death_is_reported_with_its_cause_and_last_line(tmp_path: Path) -> None:
    assert "(unknown cause) and is being restarted: it printed nothing" in describe_death("reasoner", tmp_path)
    log = "x INFO exited: reasoner (exit status 3; not expected)\nx WARN exited: ingest (exit status 0; expected)\n"
    (tmp_path / "supervisord.log").write_text(f"x exited: reasoner (exit status 1; expected)\n{log}")
    (tmp_path / "reasoner.log").write_text("Traceback\n" * 9000 + "RuntimeError: out of memory\n\n")
    assert describe_death("reasoner", tmp_path) == (
        "reasoner died (exit status 3) and is being restarted: RuntimeError: out of memory"
    )


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("2026-11-21 12:00:00,123 INFO jobs.worker: encode-1 works on x", False),
        ("INFO:     127.0.0.1:5000 - GET /readyz", False),
        ("77:M 21 Nov 2026 12:00:00.123 * Ready to accept connections unix", False),
        ("2026-11-21 12:00:00,123 WARNING jobs.worker: no memory", True),
        ("2026-11-21 12:00:00,123 CRITICAL jobs.worker: no memory", True),
        ("77:M 21 Nov 2026 12:00:00.123 # Out of memory - stopping", True),
        ("MemoryError", True),
        ("INFORMATION: not a level", True),
    ],
)
def test_the_last_line_of_a_death_is_shown_only_if_it_can_explain_it(tmp_path: Path, line: str, shown: bool) -> None:
    (tmp_path / "reasoner.log").write_text(f"ValueError: an older one\n{line}\n")
    end = f": {line}" if shown else f"; see {tmp_path / 'reasoner.log'}"
    assert describe_death("reasoner", tmp_path) == f"reasoner died (unknown cause) and is being restarted{end}"


def test_up_reports_what_would_stop_it_before_it_starts(folder: Path, unused_port: int) -> None:
    settings = Settings(data_dir=folder / "d", api=ApiSettings(port=unused_port))
    with pytest.raises(CannotStart, match="nothing-here"):
        run(settings, folder / "nothing-here")
    with pytest.raises(CannotStart, match="100%"):
        run(settings.model_copy(update={"data_dir": folder / "100%"}))
    deep = settings.model_copy(update={"data_dir": folder / ("x" * 100)})
    with pytest.raises(NoRedisServer, match="shorter data_dir"):
        run(deep)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", unused_port))
        taken.listen()
        with pytest.raises(CannotStart, match=re.escape("api.port")):
            run(settings)
    with pytest.raises(CannotStart, match="not `name: command`"):
        parse_procfile("api: serve\nnonsense\n")
    assert not (folder / "d").exists()


def test_the_procfile_lists_all_processes_and_each_is_restarted() -> None:
    processes = parse_procfile(PROCFILE.read_text())
    assert list(processes) == ["state", "cache", "api", "ingest", "capture", "encoder_worker", "reasoner"]
    config = supervisor_config(processes, Path("/run"), Path("/log"), Path("/dev/stderr"))
    for order, name in enumerate(processes):
        program = config[f"program:{name}"]
        assert (program["autorestart"], program["priority"]) == ("true", str(order))
        assert program["command"].startswith(f"{sys.executable} -P -m cli ")


@contextmanager
def running(settings: Settings, role: Role) -> Iterator[Redis]:
    """Runs the private server, and yields a client."""
    where = find_socket(settings, role)
    where.parent.mkdir(exist_ok=True)
    process = subprocess.Popen(build_command(settings, role), stdout=subprocess.DEVNULL)
    try:
        wait_until(where.exists, within_s=20)
        with Redis(unix_socket_path=str(where), decode_responses=True) as redis:
            wait_until(lambda: answers(redis), within_s=20)
            yield redis
    finally:
        process.terminate()
        process.wait(timeout=20)


def fill(redis: Redis) -> None:
    """Writes more than twice what the server may hold."""
    for number in range(100):
        redis.set(f"key {number}", b"x" * 100_000)


def answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisError:
        return False


def test_the_state_is_durable_and_never_evicts_and_the_cache_is_the_opposite(folder: Path) -> None:
    small = RedisSettings(state_max_memory_mb=4, cache_max_memory_mb=4)
    settings = Settings(data_dir=folder, redis=small)
    with running(settings, "state") as state, running(settings, "cache") as cache:
        assert state.config_get("appendonly") == {"appendonly": "yes"}
        assert cache.config_get("appendonly") == {"appendonly": "no"}
        for redis in (state, cache):
            assert redis.config_get("save") == {"save": ""}
            assert redis.config_get("port") == {"port": "0"}
        with pytest.raises(OutOfMemoryError):
            fill(state)
        assert state.exists("key 0")
        fill(cache)
        assert cache.exists("key 99")
        assert not cache.exists("key 0")
    with running(settings, "state") as state, running(settings, "cache") as cache:
        assert state.exists("key 0")
        assert cache.dbsize() == 0
