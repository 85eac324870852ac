"""Measures the service's own storage and jobs with a stub model of 8B shapes, and checks them against their targets.

Only the model is replaced. Commands are counted as clients send them: each member of a pipeline, MULTI, EXEC and a
script count as one each. They fall into three columns: `asking` (the process that asks: API or ingest), `working` (the
workers' own reads and writes) and `queueing` (RQ's queues and registries, attempts, heartbeats).
The targets for questions apply to the column `working` and to an answer of two pieces. A longer answer takes one more
command for each 0.1 s that its text streams. CPU seconds cover this process, including the stub and the decoding of its
pictures, and both servers.
Apart from the fixed targets, a page, progress and a deletion must cost the same for any number of videos.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.report import write_json
from benchmarks.scale.operations import (
    MAIN,
    Measured,
    measure_ingest,
    measure_live,
    measure_questions,
    measure_unfinished,
    measure_videos,
)
from benchmarks.scale.service import Service, running_service
from configs.settings import JobSettings
from llava_mini.text_table import table

SIZES = (10, 100, 1000)
LIVE_VIDEOS = 100
UNFINISHED_VIDEOS = 1000
MOST_RECONCILE_SHARE = 0.02
SLACK = 1.1  # numbers of commands or bytes within this factor count as the same
HEADINGS = ("operation", "videos", "asking", "working", "queueing", "MB", "archive", "CPU s", "Redis CPU s")


@dataclass(frozen=True)
class Target:
    """Limits for an operation; None: no limit."""

    commands: int | None = None
    megabytes: float | None = None
    archive: dict[str, int] | None = None  # requests that write


OWN_DOCUMENT = {"put": 2}  # once when it is asked, once when it is settled
TARGETS = {
    "focused question over an hour, new": Target(60, 40, OWN_DOCUMENT),
    "focused question over an hour, repeated": Target(10, 1, OWN_DOCUMENT),
    "sampled question over an hour, repeated": Target(10, 1, OWN_DOCUMENT),
    "exact question over an hour, repeated": Target(10, 1, OWN_DOCUMENT),
    "sampled question over an hour, new": Target(60, 40, OWN_DOCUMENT),
    "exact question over an hour, new": Target(archive=OWN_DOCUMENT),
    "focused question over a day, new": Target(archive=OWN_DOCUMENT),
    "segment written (64 frames)": Target(archive={"put": 2}),
}
FLAT = ("page of videos (per video)", "progress of one", "delete")


def main() -> None:
    """Measures, prints, writes results/scale.json; exits with 1 if a target for commands, bytes or writes is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS), help="parts to measure")
    parser.add_argument("--calls", action="store_true", help="show every command")
    given = parser.parse_args()
    rows = [row for part in given.only for row in _run_part(PARTS[part])]
    if given.calls:
        for row in rows:
            _print_calls(row)
    print(table(HEADINGS, [_cells(row) for row in rows]))
    verdicts = [*_check_targets(rows), *_check_flat(rows)]
    share = [row.cost.cpu_s / JobSettings().recheck_after_s for row in rows if row.name.startswith("reconcile, ")]
    verdicts += [
        (f"reconcile: {100 * part:.2f} % of a core, below 2 % (no failure)", part < MOST_RECONCILE_SHARE)
        for part in share
    ]
    for text, held in verdicts:
        print(f"{'held  ' if held else 'MISSED'}  {text}")
    if given.only == list(PARTS):
        write_json("scale", {"rows": [_values(row) for row in rows], "targets": dict(verdicts)})
    sys.exit(any(not held for text, held in verdicts if not text.endswith("(no failure)")))


def _run_part(part: Callable[[Service], Iterator[Measured]]) -> list[Measured]:
    with tempfile.TemporaryDirectory(prefix="lw") as folder, running_service(Path(folder)) as service:
        rows = []
        for row in part(service):
            print("measured:", row.name, row.videos or "", flush=True)
            rows.append(row)
        return rows


def _measure_sizes(service: Service) -> Iterator[Measured]:
    held = 0
    for size in SIZES:
        for _ in range(held, size):
            service.add_hour()
        held = size
        yield from measure_videos(service, size)


PARTS: dict[str, Callable[[Service], Iterator[Measured]]] = {
    "videos": _measure_sizes,
    "unfinished": lambda service: measure_unfinished(service, UNFINISHED_VIDEOS),
    "ingest": measure_ingest,
    "live": lambda service: measure_live(service, LIVE_VIDEOS),
    "questions": measure_questions,
}


def _cells(row: Measured) -> list[object]:
    values = _values(row)
    numbers = [values[key] for key in ("asking", "working", "queueing", "megabytes")]
    archive = " ".join(f"{count / row.per:.4g} {name}" for name, count in sorted(row.cost.archive.items()))
    cpu = [f"{values[key]:.4f}" for key in ("cpu_s", "redis_cpu_s")]
    return [row.name, row.videos or "", *(f"{number:.4g}" for number in numbers), archive, *cpu]


def _values(row: Measured) -> dict[str, Any]:
    cost, per = row.cost, row.per
    asking = cost.count("storage", thread=MAIN)
    return {
        "operation": row.name,
        "videos": row.videos,
        "asking": round(asking / per, 2),
        "working": round((cost.count("storage") - asking) / per, 2),
        "queueing": round(cost.count("queueing") / per, 2),
        "megabytes": round(cost.bytes / per / 1e6, 4),
        "state_bytes": round(cost.state_bytes / per),
        "cache_bytes": round(cost.cache_bytes / per),
        "archive": {name: round(count / per, 2) for name, count in sorted(cost.archive.items())},
        "cpu_s": round(cost.cpu_s / per, 5),
        "redis_cpu_s": round(cost.redis_cpu_s / per, 5),
    }


def _check_targets(rows: Iterable[Measured]) -> Iterator[tuple[str, bool]]:
    for row in rows:
        target = TARGETS.get(row.name)
        if target is None:
            continue
        commands = row.cost.count("storage") - row.cost.count("storage", thread=MAIN)
        if target.commands is not None:
            yield f"{row.name}: {commands} commands, at most {target.commands}", commands <= target.commands
        if target.megabytes is not None:
            moved = row.cost.bytes / 1e6
            yield f"{row.name}: {moved:.2f} MB, at most {target.megabytes:g}", moved <= target.megabytes
        if target.archive is not None:
            written = row.cost.archive["put"] / row.per
            most = target.archive["put"]
            yield f"{row.name}: {written:g} archive writes, at most {most}", written <= most


def _check_flat(rows: Iterable[Measured]) -> Iterator[tuple[str, bool]]:
    chosen = sorted((row for row in rows if row.name in FLAT), key=lambda row: FLAT.index(row.name))
    for name, group in groupby(chosen, key=lambda row: row.name):
        same = list(group)
        commands = [len(row.cost.calls) / row.per for row in same]
        moved = [row.cost.bytes / row.per for row in same]
        requests = [row.cost.archive.total() / row.per for row in same]
        flat = all(series[-1] <= SLACK * series[0] for series in (commands, moved, requests))
        counts = ", ".join(str(row.videos) for row in same)
        yield f"{name}: flat over {counts} videos ({commands[0]:.3g} to {commands[-1]:.3g} commands)", flat


def _print_calls(row: Measured) -> None:
    print(row.name)
    found = Counter((call.thread, call.role, call.kind, " ".join(call.words[:4])[:110]) for call in row.cost.calls)
    for what, count in found.items():
        print("  ", count, *what)


if __name__ == "__main__":
    main()
