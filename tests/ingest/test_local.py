"""Files of this machine: only those below the folders in the settings, wherever links lead."""

import hashlib
from pathlib import Path

import pytest

from ingest.errors import FetchRefused, SourceUnavailable
from ingest.files.local import find_allowed_file, hash_file


def test_a_file_below_a_listed_folder_is_found_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"content")
    assert hash_file(find_allowed_file(str(path), [tmp_path])) == hashlib.sha256(b"content").hexdigest()


def test_links_and_dots_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "listed").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "listed" / "link").symlink_to(tmp_path / "secret")
    for location in ("listed/link", "listed/../secret", "secret"):
        with pytest.raises(FetchRefused, match=r"ingest\.allowed_roots"):
            find_allowed_file(str(tmp_path / location), [tmp_path / "listed"])


@pytest.mark.parametrize("name", ["gone.mp4", "gone\x1b[2J\u202e.mp4", "null\0.mp4", "a" * 300, "loop"])
def test_a_missing_file_is_named_without_control_characters(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SourceUnavailable, match="there is no file") as raised:
        find_allowed_file(f"{tmp_path}/{name}", [tmp_path])
    assert str(raised.value).isprintable()
    with pytest.raises(SourceUnavailable, match="cannot read"):
        hash_file(tmp_path / "gone.mp4")
