"""`longwatch up`: everything on this machine, run from the Procfile by supervisord, which restarts what dies."""

import os
import shlex
import socket
import sys
from configparser import ConfigParser
from pathlib import Path

from api import redis_server
from configs.places import PROCFILE
from configs.settings import Settings
from storage.errors import LongwatchError

REDIS = "redis"
STOP_WAIT_S = 5  # jobs are level-triggered: what a killed worker had in hand is done again


class CannotStart(LongwatchError):
    """What `longwatch up` needs is not there, or taken."""

    code = "cannot-start"


def parse_procfile(text: str) -> dict[str, str]:
    """Process name -> command line; raises CannotStart where a line is neither that nor a comment."""
    lines = (line.strip() for line in text.splitlines())
    processes = {}
    for line in lines:
        name, colon, command = line.partition(":")
        if line and not line.startswith("#"):
            if not (colon and name.strip() and command.strip()):
                raise CannotStart(f"a line of the Procfile is not `name: command`: {line!r}")
            processes[name.strip()] = command.strip()
    return processes


def supervisor_config(processes: dict[str, str], folder: Path, logs: Path) -> ConfigParser:
    """What supervisord reads: each process restarted when it ends, its output in `logs`."""
    config = ConfigParser(interpolation=None)
    config["supervisord"] = {
        "nodaemon": "true",
        "logfile": str(logs / "supervisord.log"),
        "pidfile": str(folder / "supervisord.pid"),
        "childlogdir": str(logs),
        "silent": "true",
    }
    for order, (name, command) in enumerate(processes.items()):
        config[f"program:{name}"] = {
            "command": _own_command(command).replace("%", "%%"),
            "priority": str(order),
            "autorestart": "true",
            "startretries": "1000000",  # a worker waits for its Redis, however long that takes
            "startsecs": "2",
            "stopasgroup": "true",
            "killasgroup": "true",
            "stopwaitsecs": str(STOP_WAIT_S),
            "redirect_stderr": "true",
            "stdout_logfile": str(logs / f"{name}.log"),
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": "2",
        }
    return config


def up(settings: Settings, procfile: Path | None = None) -> None:
    """Becomes supervisord with the processes of the Procfile; the private Redis only where none is configured.

    Raises CannotStart, and NoRedisServer where one is needed and cannot be run.
    """
    processes = parse_procfile(_read(procfile or PROCFILE))
    if settings.redis.url:
        processes.pop(REDIS, None)
    elif REDIS in processes:
        redis_server.command(settings)
    _require_free(settings.api.host, settings.api.port)
    data = settings.data_dir.absolute()
    if any(letter in str(data) for letter in "%;#"):
        raise CannotStart(f"supervisord cannot keep its logs in {data}: choose a data_dir without %, ; and #")
    folder, logs = data / "supervisor", data / "logs"
    for place in (folder, logs):
        place.mkdir(parents=True, exist_ok=True)
    path = folder / "supervisord.conf"
    with path.open("w", encoding="utf-8") as file:
        supervisor_config(processes, folder, logs).write(file)
    print(f"http://{settings.api.host}:{settings.api.port}  (logs in {logs}; Ctrl-C stops)", flush=True)  # noqa: T201
    line = [sys.executable, "-P", "-m", "supervisor.supervisord", "--nodaemon", "--configuration", str(path)]
    os.execv(line[0], line)  # noqa: S606 - no shell: the arguments are ours


def _read(procfile: Path) -> str:
    try:
        return procfile.read_text(encoding="utf-8")
    except OSError as error:
        raise CannotStart(f"cannot read {procfile}: {error}") from error


def _require_free(host: str, port: int) -> None:
    """Raises CannotStart where something listens there already: most likely this very service."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise CannotStart(
                f"cannot listen on {host} port {port}: {error}; stop what runs there, or set api.port"
            ) from error


def _own_command(command: str) -> str:
    """`longwatch ...` by this very Python, whatever is on the PATH and in the working directory (-P)."""
    words = shlex.split(command)
    if words[0] == "longwatch":
        words[:1] = [sys.executable, "-P", "-m", "api.cli"]
    return shlex.join(words)
