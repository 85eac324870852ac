"""A fault of the filesystem is never mistaken for a missing file, because missing files are removed or made again."""

import os
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from storage.errors import ArchiveUnavailable
from storage.files import Files


class FaultyFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """An object store that answers every question about a file with an error, as S3 does when it is overloaded."""

    protocol = "faulty"

    def info(self, path: str, **_: object) -> object:
        raise OSError(16, f"Please reduce your request rate: {path}")


def test_a_failing_store_is_not_mistaken_for_a_missing_file() -> None:
    fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
    with pytest.raises(ArchiveUnavailable, match="reduce your request rate"):
        Files("faulty://archive").exists("20261120-000000000-aaaaaa/video.json")


def test_only_files_exist(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    files.write("there/file", b"")
    assert [files.exists(path) for path in ("there/file", "there", "there/other", "nowhere/file")] == [
        True,
        False,
        False,
        False,
    ]


def test_a_folder_that_cannot_be_listed_is_not_mistaken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, scan = Files(str(tmp_path)), os.scandir
    files.write("video/000000/frames.zip", b"")

    def fail(path: str) -> object:
        if str(path).endswith("000000"):
            raise OSError(5, "Input/output error")
        return scan(path)

    assert list(files.tree("video")) == ["000000/frames.zip"]
    assert list(files.tree("nowhere")) == []
    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(ArchiveUnavailable, match="Input/output"):
        files.tree("video")
