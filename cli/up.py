"""`longwatch up`: runs everything in the Procfile on this machine with supervisord, which restarts what dies."""

import os
import shlex
import socket
import sys
from configparser import ConfigParser
from pathlib import Path

import typer

from cli import announcement, deaths
from cli.client import Client
from cli.redis_server import ROLES, build_command, find_url
from configs.places import PROCFILE
from configs.privacy import keep_files_private
from configs.settings import Settings
from storage.errors import LongwatchError

STDERR = Path("/dev/stderr")
API = "api"  # the API's name in the Procfile
STOP_WAIT_S = 5  # jobs are level-triggered: those of a killed worker run again


class CannotStart(LongwatchError):
    """Something that `longwatch up` needs is missing or in use."""

    code = "cannot-start"


def parse_procfile(text: str) -> dict[str, str]:
    """Process name -> command line; raises CannotStart if a line is neither that nor a comment."""
    lines = (line.strip() for line in text.splitlines())
    processes = {}
    for line in lines:
        name, colon, command = line.partition(":")
        if line and not line.startswith("#"):
            if not (colon and name.strip() and command.strip()):
                raise CannotStart(f"a line of the Procfile is not `name: command`: {line!r}")
            processes[name.strip()] = command.strip()
    return processes


def supervisor_config(
    processes: dict[str, str], folder: Path, logs: Path, terminal: Path, url: str | None = None
) -> ConfigParser:
    """supervisord's configuration: restarts each process, logs its output to `logs` and its death to `terminal`.

    With `url`, it also says on `terminal` when the service at that address is ready.
    """
    config = ConfigParser(interpolation=None)
    config["supervisord"] = {
        "nodaemon": "true",
        "logfile": str(logs / deaths.SUPERVISOR_LOG),
        "pidfile": str(folder / "supervisord.pid"),
        "childlogdir": str(logs),
        "silent": "true",
    }
    config["eventlistener:deaths"] = {
        "command": _escape(shlex.join([sys.executable, "-P", "-m", deaths.__name__, str(logs)])),
        "events": ",".join(deaths.EVENTS),
        "autorestart": "true",
        "stdout_logfile": "NONE",  # the channel to supervisord
        **_write_errors_to(terminal),
    }
    if url is not None:
        config[f"program:{deaths.ANNOUNCER}"] = {
            "command": _escape(shlex.join([sys.executable, "-P", "-m", announcement.__name__, url])),
            "autorestart": "false",  # it ends when it has said so
            "startsecs": "0",
            "stdout_logfile": "NONE",
            **_write_errors_to(terminal),
        }
    for order, (name, command) in enumerate(processes.items()):
        config[f"program:{name}"] = {
            "command": _escape(_own_command(command)),
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


def run(settings: Settings, procfile: Path | None = None) -> None:
    """Turns this process into supervisord with the Procfile's processes; skips Redis roles that have an address.

    Raises CannotStart, and NoRedisServer if one is needed and cannot be run.
    """
    processes = parse_procfile(_read(procfile or PROCFILE))
    for role in ROLES:
        if find_url(settings, role):
            processes.pop(role, None)
        elif role in processes:
            build_command(settings, role)  # raises now what would stop it later
    _require_free(settings.api.host, settings.api.port)
    data = settings.data_dir.absolute()
    if any(letter in str(data) for letter in "%;#"):
        raise CannotStart(f"supervisord cannot keep its logs in {data}: choose a data_dir without %, ; and #")
    keep_files_private(data)
    folder, logs = data / "supervisor", data / "logs"
    for place in (folder, logs):
        place.mkdir(parents=True, exist_ok=True)
    path = folder / "supervisord.conf"
    with path.open("w", encoding="utf-8") as file:
        url = Client.of(settings).base_url if API in processes else None
        supervisor_config(processes, folder, logs, _choose_terminal(logs), url).write(file)
    typer.echo(f"http://{settings.api.host}:{settings.api.port}  (logs in {logs}; Ctrl-C stops)")
    line = [sys.executable, "-P", "-m", "supervisor.supervisord", "--nodaemon", "--configuration", str(path)]
    os.execv(line[0], line)  # noqa: S606 - no shell: the arguments are ours


def _write_errors_to(terminal: Path) -> dict[str, str]:
    return {"stderr_logfile": str(terminal), "stderr_logfile_maxbytes": "0"}  # a terminal cannot be rotated


def _choose_terminal(logs: Path) -> Path:
    """This process's stderr, which supervisord inherits; a log if it cannot be opened by name (systemd's socket)."""
    try:
        with STDERR.open("ab", buffering=0):
            return STDERR
    except OSError:
        return logs / "deaths.log"


def _read(procfile: Path) -> str:
    try:
        return procfile.read_text(encoding="utf-8")
    except OSError as error:
        raise CannotStart(f"cannot read {procfile}: {error}") from error


def _require_free(host: str, port: int) -> None:
    """Raises CannotStart if something already listens there: most likely this service."""
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
    """Runs `longwatch ...` with the current Python, whatever is on the PATH and in the working directory (-P)."""
    words = shlex.split(command)
    if words[0] == "longwatch":
        words[:1] = [sys.executable, "-P", "-m", "cli"]
    return shlex.join(words)


def _escape(command: str) -> str:
    """Escapes % for supervisord, where it begins an expression."""
    return command.replace("%", "%%")
