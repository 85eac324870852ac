"""`longwatch up`: everything on this machine, run from the Procfile by supervisord, which restarts what dies."""

import os
import shlex
import sys
from configparser import ConfigParser
from pathlib import Path

from configs.settings import Settings
from storage.errors import LongwatchError

REDIS = "redis"
STOP_WAIT_S = 5  # jobs are level-triggered: what a killed worker had in hand is done again


class NoProcfile(LongwatchError):
    """There is no Procfile to run."""

    code = "procfile"


def find_procfile() -> Path:
    """The Procfile of the working folder, else the project's own; raises NoProcfile."""
    for path in (Path("Procfile"), Path(__file__).parent.parent / "Procfile"):
        if path.is_file():
            return path.absolute()
    raise NoProcfile("no Procfile here: run `longwatch up` in the project's folder")


def parse_procfile(text: str) -> dict[str, str]:
    """Process name -> command line; raises NoProcfile where a line is neither that nor a comment."""
    lines = (line.strip() for line in text.splitlines())
    processes = {}
    for line in lines:
        name, colon, command = line.partition(":")
        if line and not line.startswith("#"):
            if not (colon and name.strip() and command.strip()):
                raise NoProcfile(f"a line of the Procfile is not `name: command`: {line!r}")
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


def up(settings: Settings) -> None:
    """Becomes supervisord with the processes of the Procfile; the private Redis only where none is configured."""
    processes = parse_procfile(find_procfile().read_text(encoding="utf-8"))
    if settings.redis.url:
        processes.pop(REDIS, None)
    folder, logs = settings.data_dir.absolute() / "supervisor", settings.data_dir.absolute() / "logs"
    for place in (folder, logs):
        place.mkdir(parents=True, exist_ok=True)
    path = folder / "supervisord.conf"
    with path.open("w", encoding="utf-8") as file:
        supervisor_config(processes, folder, logs).write(file)
    print(f"http://{settings.api.host}:{settings.api.port}  (logs in {logs}; Ctrl-C stops)", flush=True)  # noqa: T201
    line = [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--configuration", str(path)]
    os.execv(line[0], line)  # noqa: S606 - no shell: the arguments are ours


def _own_command(command: str) -> str:
    """`longwatch ...` by this very Python, whatever is on the PATH."""
    words = shlex.split(command)
    if words[0] == "longwatch":
        words[:1] = [sys.executable, "-m", "api.cli"]
    return shlex.join(words)
