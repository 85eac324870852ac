"""A run of about three minutes; CHAOS_MINUTES and CHAOS_SEED choose another."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MINUTES = 3  # of disturbances; the start, the recovery and the checks take as long again
LONGEST_S = 1200  # on a busy machine


@pytest.mark.chaos
@pytest.mark.timeout(LONGEST_S + 60)
def test_the_disturbed_service_ends_in_the_same_state_as_an_undisturbed_one(tmp_path: Path) -> None:
    minutes, seed = os.environ.get("CHAOS_MINUTES", str(MINUTES)), os.environ.get("CHAOS_SEED", "1")
    command = [sys.executable, "-m", "tests.chaos", "--minutes", minutes, "--seed", seed]
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
        try:
            status = process.wait(LONGEST_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the service's processes too
    assert status == 0, output.read_text(errors="replace")[-25_000:]
