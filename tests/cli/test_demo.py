"""The demo, up to the point where it draws its video."""

import os
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import ROOT
from tests.waiting import wait_until


def test_only_the_user_can_read_its_data(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", "demo"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    ) as demo:
        try:
            media = tmp_path / "data" / "demo" / "media"
            wait_until(lambda: media.exists() or demo.poll() is not None)
            assert {path.stat().st_mode & 0o777 for path in (tmp_path / "data", media.parent, media)} == {0o700}
        finally:
            demo.kill()
