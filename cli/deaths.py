"""Reports on `up`'s terminal which process died, how, and what it printed last: `python -m cli.deaths LOGS`.

supervisord runs it as an event listener: events come in on stdin, stdout acknowledges them, stderr is the terminal.
"""

import re
import sys
from pathlib import Path

from supervisor.childutils import eventdata, get_headers, listener  # type: ignore[import-untyped]

from storage.text import escape_controls

SUPERVISOR_LOG = "supervisord.log"
ANNOUNCER = "announcement"  # supervisord's name for the process that ends once the service is ready: not a death
EVENTS = ("PROCESS_STATE_EXITED", "PROCESS_STATE_BACKOFF")  # died; died within `startsecs` of its start
TAIL_BYTES = 16 * 1024  # more than enough for the last line
# Lines that do not explain a death: of workers, of uvicorn and of Redis, below the level of a warning.
ROUTINE = re.compile(r"(\d{4}-\d\d-\d\d \S+ )?(DEBUG|INFO)\b|\d+:[XCSM] [^*#]*? [.*-] ")


def describe_death(name: str, logs: Path) -> str:
    """One line: how `name` died according to supervisord's log, and its last line, or where its log is."""
    how = None
    for line in _read_tail(logs / SUPERVISOR_LOG):
        how = re.search(rf"exited: {re.escape(name)} \((.*?)(?:; not expected|; expected)?\)$", line) or how
    words = f"{name} died ({how[1] if how else 'unknown cause'}) and is being restarted"
    log = logs / f"{name}.log"
    said = [line.strip() for line in _read_tail(log) if line.strip()]
    if not said:
        return escape_controls(f"{words}: it printed nothing")
    return escape_controls(f"{words}; see {log}" if ROUTINE.match(said[-1]) else f"{words}: {said[-1]}")


def _read_tail(log: Path) -> list[str]:
    """The last lines of a log; empty if the file does not exist yet."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, 2) - TAIL_BYTES, 0))
            return file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def main(logs: Path) -> None:
    """Listens until supervisord is gone."""
    while True:
        listener.ready()
        header = sys.stdin.readline()
        if not header:
            return
        headers = get_headers(header)
        fields, _ = eventdata(sys.stdin.read(int(headers["len"])) + "\n")
        if fields["processname"] != ANNOUNCER:
            print(describe_death(fields["processname"], logs), file=sys.stderr, flush=True)  # noqa: T201
        listener.ok()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
