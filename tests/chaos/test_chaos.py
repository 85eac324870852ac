"""Three minutes of it; CHAOS_MINUTES and CHAOS_SEED choose another run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MINUTES = 1.5  # of disturbances: to start, to heal and to look takes as long again
LONGEST_S = 1200  # on a machine that does much else


@pytest.mark.chaos
@pytest.mark.timeout(LONGEST_S + 60)
def test_whatever_befalls_the_service_it_ends_as_if_nothing_had_happened() -> None:
    minutes, seed = os.environ.get("CHAOS_MINUTES", str(MINUTES)), os.environ.get("CHAOS_SEED", "1")
    command = [sys.executable, "-m", "tests.chaos", "--minutes", minutes, "--seed", seed]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
