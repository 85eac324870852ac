"""What no linter sees: job names resolve, importing does nothing, and the light parts stay light."""

import subprocess
import sys
from pathlib import Path

import pytest

from storage.queues import JOBS, QUEUES

ROOT = Path(__file__).parent.parent
PACKAGES = ("api", "configs", "encoder_worker", "ingest", "llava_mini", "reasoner", "storage")


def modules(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def test_every_job_has_one_worker_that_runs_it() -> None:
    entry_points = [
        (ROOT / package / "__main__.py").read_text() for package in ("ingest", "encoder_worker", "reasoner")
    ]
    entry_points += [
        (ROOT / package / "worker.py").read_text()
        for package in ("encoder_worker", "reasoner")
        if (ROOT / package / "worker.py").exists()
    ]
    for job in JOBS:
        assert sum(f'"{job}"' in text for text in entry_points) == 1, job
    assert set(JOBS.values()) == set(QUEUES)


@pytest.mark.parametrize("package", ["api", "ingest", "storage", "configs"])
def test_the_light_parts_never_load_the_model(package: str) -> None:
    code = f"import sys, {', '.join(modules(package))}\nprint(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_a_module_does_nothing() -> None:
    names = [name for package in PACKAGES for name in modules(package)]
    code = (
        "import cv2, transformers.models.llama.modeling_llama\n"  # which set variables of their own
        "import os, sys, logging\n"
        "before = dict(os.environ), list(logging.getLogger().handlers)\n"
        f"import {', '.join(names)}\n"
        "assert before == (dict(os.environ), list(logging.getLogger().handlers))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_module_says_in_its_first_lines_what_it_is() -> None:
    for package in (*PACKAGES, "training", "benchmarks", "tests"):
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text()
            assert not text or text.startswith('"""'), file
