"""One frame a second of a 10-minute 720p file: this project's sampler against other decoders.

Each way runs in its own process, and the peers run in their own environment. All ways take turns, for several rounds.
Each frame of the file shows its number, so the table can say which ways gave the right frames.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.decoders import WAYS
from benchmarks.footage import FPS, write_footage
from benchmarks.report import write_json
from llava_mini.text_table import table

FOLDER = Path("data/benchmarks")
PEERS = FOLDER / "peers" / "bin" / "python"
REFERENCE = "PyAV, all frames"
OURS = (REFERENCE, *(way for way in WAYS if way.startswith("longwatch")))  # PyAV is the project's own decoder
TARGETS = {"longwatch exact": 0.6, "longwatch keyframes": 0.1}  # of the best peer's CPU seconds


@dataclass(frozen=True)
class Run:
    """The cost and the result of one run of one way."""

    wall_s: float
    cpu_s: float
    max_rss_mb: float
    numbers: list[int]
    thumbs: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"


@dataclass(frozen=True)
class Row:
    """One way: the medians of its runs' times, and the largest run's memory."""

    way: str
    cpu_s: float
    wall_s: float
    max_rss_mb: float
    right_frames: int
    difference: float  # mean pixel difference to the reference in the worst right frame, in levels of 255


def main() -> None:
    """Measures, prints and writes results/sampling.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    footage = FOLDER / f"{given.seconds}s.mp4"
    if not footage.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        print(f"making {given.seconds} s of video ...", flush=True)
        write_footage(footage, given.seconds)
    runs, missing = _run_rounds(footage, given.repeats)
    wanted = [second * FPS + FPS // 2 for second in range(given.seconds)]
    rows = [_make_row(way, found, wanted, runs[REFERENCE][0]) for way, found in runs.items()]
    peers = [row for row in rows if row.way not in OURS and row.right_frames == len(wanted)]
    if not peers:
        raise SystemExit(f"no peer gave the right frames; not run: {missing}")
    best = min(peers, key=lambda row: row.cpu_s)
    ratios = {row.way: _ratio(runs[row.way], runs[best.way]) for row in rows}
    print(table(["way", "CPU s", "wall s", "MB", "right frames", "pixels differ by", "CPU"], _cells(rows, ratios)))
    for way, reason in missing.items():
        print(f"{way}: could not be run: {reason}")
    print(f"CPU is relative to {best.way}, the best peer with the right frames.")
    for way, target in TARGETS.items():
        print(f"{way}: {ratios[way]:.2f}x (target {target}x)")
    report = {"seconds": given.seconds, "repeats": given.repeats, "best_peer": best.way, "ratios": ratios}
    write_json("sampling", {**report, "missing": missing, "rows": [asdict(row) for row in rows]})


def _run_rounds(footage: Path, repeats: int) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """Every way's runs, one per round, and the reason for each way that could not be run."""
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    missing: dict[str, str] = {}
    for number in range(repeats):
        print(f"round {number + 1} of {repeats} ...", flush=True)
        for way in list(runs):
            result = _run(way, footage)
            if isinstance(result, str):
                missing[way] = result
                del runs[way]
            else:
                runs[way].append(result)
    return runs, missing


def _run(way: str, footage: Path) -> Run | str:
    """Runs a way once; returns the last line of its errors if it fails."""
    python = sys.executable if way in OURS else PEERS
    if not Path(python).exists():
        return "the peers' environment is missing: make bench"
    with tempfile.TemporaryDirectory() as folder:
        thumbs = Path(folder) / "thumbs.npy"
        line = [str(python), "-m", "benchmarks.decoders", way, str(footage), str(thumbs)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return Run(**json.loads(done.stdout), thumbs=np.load(thumbs))


def _make_row(way: str, runs: Sequence[Run], wanted: Sequence[int], reference: Run) -> Row:
    given = runs[0]
    right = [i for i, (number, target) in enumerate(zip(given.numbers, wanted, strict=False)) if number == target]
    apart = np.abs(given.thumbs[right].astype(np.int16) - reference.thumbs[right]).mean((1, 2, 3))
    return Row(
        way=way,
        cpu_s=median(run.cpu_s for run in runs),
        wall_s=median(run.wall_s for run in runs),
        max_rss_mb=max(run.max_rss_mb for run in runs),
        right_frames=len(right),
        difference=float(apart.max(initial=0.0)),
    )


def _ratio(runs: Sequence[Run], best: Sequence[Run]) -> float:
    """The median of the rounds' ratios, because a slow round slows both sides."""
    return median(run.cpu_s / other.cpu_s for run, other in zip(runs, best, strict=True))


def _cells(rows: Sequence[Row], ratios: dict[str, float]) -> list[list[str]]:
    return [
        [
            row.way,
            f"{row.cpu_s:.1f}",
            f"{row.wall_s:.1f}",
            f"{row.max_rss_mb:.0f}",
            str(row.right_frames),
            f"{row.difference:.2f}",
            f"{ratios[row.way]:.2f}x",
        ]
        for row in rows
    ]


if __name__ == "__main__":
    main()
