"""Only the owner can read what the service writes."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.loading import SettingsError
from configs.privacy import keep_files_private


@pytest.fixture
def umask() -> Iterator[None]:
    """Restores the umask after the test."""
    before = os.umask(0o022)
    yield
    os.umask(before)


WRITER = """
import sys
from pathlib import Path
from configs.privacy import keep_files_private
data = Path(sys.argv[1])
keep_files_private(data)
(data / "folder").mkdir()
(data / "folder" / "file").write_text("a password")
"""


def test_only_the_owner_can_open_the_data_folder_or_anything_in_it(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    root = Path(__file__).parent.parent.parent
    subprocess.run([sys.executable, "-c", WRITER, str(data)], cwd=root, check=True)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [data, *data.rglob("*")]}
    assert modes == {"data": 0o700, "folder": 0o700, "file": 0o600}


def test_the_error_names_a_folder_that_cannot_be_created(umask: None) -> None:
    with pytest.raises(SettingsError, match="cannot create data_dir /dev/null/data"):
        keep_files_private(Path("/dev/null/data"))
