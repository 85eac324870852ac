"""Reads and writes whole files on any fsspec filesystem; on a local disk every write is atomic and durable."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from storage.errors import ArchiveUnavailable


class Files:
    """Files below one root. Paths are relative, with forward slashes. Raises ArchiveUnavailable."""

    def __init__(self, url: str) -> None:
        self.url = url
        with _translated(url):
            self._fs, self._root = fsspec.core.url_to_fs(url)

    def full(self, path: str) -> str:
        """Where `path` lies, for messages."""
        return f"{self._root}/{path}".rstrip("/")

    def read(self, path: str) -> bytes | None:
        """The content of `path`, or None where there is no such file."""
        with _translated(self.full(path)):
            try:
                content: bytes = self._fs.cat_file(self.full(path))
            except FileNotFoundError:
                return None
            return content

    def write(self, path: str, content: bytes) -> None:
        """Replaces `path` by `content`: readers see the old file or the new one, never a part."""
        with _translated(self.full(path)):
            if isinstance(self._fs, LocalFileSystem):
                _write_durably(Path(self.full(path)), content)
            else:
                self._fs.pipe_file(self.full(path), content)  # object stores replace an object whole

    def names(self, path: str = "") -> list[str]:
        """The names of files and folders directly in `path`, sorted; empty where there is no such folder."""
        with _translated(self.full(path)):
            self._fs.invalidate_cache(self.full(path))
            try:
                entries = self._fs.ls(self.full(path), detail=False)
            except FileNotFoundError:
                return []
            return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def delete(self, path: str) -> None:
        """Removes the file or folder `path` with all it holds; nothing happens where there is none."""
        with _translated(self.full(path)):
            try:
                if isinstance(self._fs, LocalFileSystem):
                    _remove(Path(self.full(path)))
                else:
                    self._fs.rm(self.full(path), recursive=True)
            except FileNotFoundError:
                return

    def check(self) -> None:
        """Writes and removes a small file: raises ArchiveUnavailable where that is impossible."""
        probe = f".check-{secrets.token_hex(4)}"
        self.write(probe, b"longwatch")
        self.delete(probe)


@contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        raise ArchiveUnavailable(
            f"cannot use the archive at {where}: {error}; check archive.url, its permissions and free space"
        ) from error


def _remove(path: Path) -> None:
    """Takes it out of sight first, at once: who still writes below it cannot keep it from going."""
    doomed = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    path.replace(doomed)
    shutil.rmtree(doomed) if doomed.is_dir() else doomed.unlink()


def _write_durably(path: Path, content: bytes) -> None:
    try:
        _write(path, content)
    except FileNotFoundError:  # its folder was removed meanwhile
        _write(path, content)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)
