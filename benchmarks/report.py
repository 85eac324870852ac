"""Writes measurements to JSON files."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, object]:
    """The machine that the numbers depend on; `load` is the mean number of runnable processes in the last minute."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def write_json(name: str, values: Mapping[str, object]) -> None:
    """Writes results/{name}.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **values}, indent=2) + "\n", encoding="utf-8")
