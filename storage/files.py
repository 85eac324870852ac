"""Reads and writes whole files on any fsspec filesystem; on a local disk every write is atomic and durable."""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from storage.errors import ArchiveUnavailable, LongwatchError

SCRATCH = ".scratch"  # in a local archive: unfinished writes and files being deleted, in one folder to sweep
REMOVALS = 20  # tries to remove a folder into which others write: each of them writes one file there at most
FRESH = {"use_listings_cache": False}  # other hosts write too


class Files:
    """Files below one root. Paths are relative, with forward slashes. Raises ArchiveUnavailable.

    `options` go to the filesystem (for S3: endpoint_url, key, secret, config_kwargs ...).
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        with _translated(url):
            self._fs, self._root = fsspec.core.url_to_fs(url, **FRESH, **(options or {}))
        self._local = isinstance(self._fs, LocalFileSystem)
        self._was_there = False  # the first write creates a local root

    def full(self, path: str) -> str:
        """The full path of `path` on the filesystem."""
        return f"{self._root}/{path}".rstrip("/")

    def local_path(self, path: str) -> Path | None:
        """The file on this host's disk; None if the archive is elsewhere."""
        return Path(self.full(path)) if self._local else None

    def read(self, path: str) -> bytes | None:
        """The content of `path`; None if there is no such file."""
        with _translated(self.full(path)):
            try:
                content: bytes = self._fs.cat_file(self.full(path))
            except FileNotFoundError as error:
                self._require_root(error)
                return None
            return content

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        """The contents of those of these files that exist; a remote filesystem is asked for all of them at once."""
        if self._local or not paths:
            contents = {path: self.read(path) for path in paths}
            return {path: content for path, content in contents.items() if content is not None}
        with _translated(self.full(paths[0])):
            found = self._fs.cat([self.full(path) for path in paths], on_error="return")
            held = {}
            for path in paths:
                content = found[self.full(path)]
                if isinstance(content, FileNotFoundError):
                    self._require_root(content)
                elif isinstance(content, Exception):
                    raise content
                else:
                    held[path] = content
            return held

    @contextmanager
    def open(self, path: str, block_bytes: int | None = None) -> Iterator[BinaryIO | None]:
        """Opens the file for reading parts of it; yields None if there is no such file.

        `block_bytes` is how much of a remote file is read ahead and held, instead of the filesystem's own choice.
        """
        options = {} if block_bytes is None or self._local else {"block_size": block_bytes}
        with _translated(self.full(path)):
            try:
                file = self._fs.open(self.full(path), "rb", **options)
            except FileNotFoundError as error:
                self._require_root(error)
                file = None
        try:
            yield None if file is None else cast(BinaryIO, _TranslatedReader(file, self.full(path)))
        finally:
            if file is not None:
                file.close()

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        with _translated(self.full(path)):
            try:
                found: bool = self._fs.info(self.full(path))["type"] == "file"  # `isfile` is False during an outage
            except FileNotFoundError as error:
                self._require_root(error)
                return False
            return found

    def write(self, path: str, content: bytes) -> None:
        """Replaces `path` with `content`: readers see the whole old file or the whole new one."""
        with _translated(self.full(path)):
            if self._local:
                with self._scratch_file(content) as scratch:
                    _into_place(scratch, Path(self.full(path)))
            else:
                self._fs.pipe_file(self.full(path), content)  # object stores replace an object whole

    def create(self, path: str, content: bytes) -> bool:
        """Writes `path` unless it exists; returns whether it was written."""
        with _translated(self.full(path)):
            try:
                if self._local:
                    with self._scratch_file(content) as scratch:
                        _link_into_place(scratch, Path(self.full(path)))
                else:
                    self._fs.pipe_file(self.full(path), content, mode="create")
            except FileExistsError as error:
                in_the_way = self._local and error.filename2 is None  # of mkdir: a file is where a folder must be
                if in_the_way and not self._fs.isfile(self.full(path)):
                    raise
                return False  # even if it was removed again since
            return True

    def put(self, path: str, source: Path) -> None:
        """Copies a file of this host into the archive. On the same disk it moves the file, so `source` is gone."""
        with _translated(self.full(path)):
            if not self._local:
                self._fs.put_file(str(source), self.full(path))
                return
            place = Path(self.full(path))
            if _same_disk(source, self._scratch_folder()):
                _sync(source)
                _into_place(source, place)
                return
            scratch = self._scratch_folder() / secrets.token_hex(8)
            try:
                shutil.copyfile(source, scratch)
                _sync(scratch)
                _into_place(scratch, place)
            finally:
                scratch.unlink(missing_ok=True)

    def get(self, path: str, target: Path) -> bool:
        """Copies `path` to a file of this host, which appears only once it is whole; False if there is no such file."""
        partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
        with _translated(self.full(path)):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(self.full(path), str(partial))
                partial.replace(target)
            except FileNotFoundError:
                return False
            finally:
                partial.unlink(missing_ok=True)
            return True

    def names(self, path: str = "") -> list[str]:
        """The names of files and folders directly in `path`, sorted; empty if there is no such folder."""
        with _translated(self.full(path)):
            try:
                entries = self._fs.ls(self.full(path), detail=False)
            except FileNotFoundError as error:
                self._require_root(error)
                return []
            names = (entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries)
            return sorted(name for name in names if name != SCRATCH)

    def tree(self, path: str) -> dict[str, int]:
        """The paths of all files below `path`, relative to it, sorted; path -> size in bytes."""
        with _translated(self.full(path)):
            root = self.full(path)
            if self._local:
                entries = _walk(root)
            else:
                entries = ((name, entry["size"]) for name, entry in self._fs.find(root, detail=True).items())
            return dict(sorted((name.removeprefix(f"{root}/"), size) for name, size in entries))

    def size(self, path: str) -> int | None:
        """The size of the file in bytes; None if there is no such file."""
        with _translated(self.full(path)):
            try:
                size: int = self._fs.info(self.full(path))["size"]
            except FileNotFoundError as error:
                self._require_root(error)
                return None
            return size

    def delete(self, path: str) -> None:
        """Removes the file or folder `path` with all it holds; does nothing if there is none."""
        with _translated(self.full(path)):
            try:
                if self._local:
                    self._remove(Path(self.full(path)))
                else:
                    self._fs.rm(self.full(path), recursive=True)
            except FileNotFoundError:
                return

    def sweep(self, older_than_s: float) -> None:
        """Removes what interrupted writes and deletions left behind."""
        if self._local:
            with _translated(self.full(SCRATCH)):
                for entry in self._scratch_folder().iterdir():
                    try:
                        if time.time() - entry.lstat().st_mtime > older_than_s:
                            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                    except FileNotFoundError:
                        continue  # its writer has just removed it

    def check(self) -> None:
        """Writes and removes a small file: raises ArchiveUnavailable if that is impossible."""
        probe = f"{SCRATCH}/check-{secrets.token_hex(4)}"
        self.write(probe, b"longwatch")
        self.delete(probe)

    def _scratch_folder(self) -> Path:
        folder = Path(self.full(SCRATCH))
        folder.mkdir(parents=True, exist_ok=True)
        self._was_there = True
        return folder

    def _require_root(self, error: FileNotFoundError) -> None:
        """Raises if not only the file but the whole archive is missing: an unmounted disk, a deleted bucket."""
        reply = getattr(error.__cause__, "response", {})  # set by botocore
        if isinstance(reply, dict) and reply.get("Error", {}).get("Code") == "NoSuchBucket":
            raise error
        if self._local:
            there = Path(self._root).is_dir()
            if self._was_there and not there:
                raise FileNotFoundError("the folder is gone; is its disk mounted?") from error
            self._was_there = there

    @contextmanager
    def _scratch_file(self, content: bytes) -> Iterator[Path]:
        """A durable file with this content in the scratch folder."""
        scratch = self._scratch_folder() / secrets.token_hex(8)
        try:
            with scratch.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield scratch
        finally:
            scratch.unlink(missing_ok=True)

    def _remove(self, path: Path) -> None:
        """Renames it first: the deletion is atomic, and a concurrent writer cannot prevent it."""
        doomed = self._scratch_folder() / secrets.token_hex(8)
        path.replace(doomed)
        if not doomed.is_dir():
            doomed.unlink()
            return
        for left in reversed(range(REMOVALS)):
            try:
                shutil.rmtree(doomed)
                return
            except OSError as error:  # a writer had looked up the folder before it was renamed
                if error.errno != errno.ENOTEMPTY or not left:
                    raise


class _TranslatedReader:
    """The methods of a file that zipfile needs; translates the backend's errors during reads."""

    def __init__(self, file: Any, where: str) -> None:
        self._file = file
        self._where = where
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        with _translated(self._where):
            content: bytes = self._file.read(size)
            return content


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """Translates the filesystem's errors. Backends raise anything (botocore's are not OSErrors), so it catches all."""
    try:
        yield
    except LongwatchError:
        raise
    except Exception as error:
        raise ArchiveUnavailable(
            f"cannot use the archive at {where}: {error or type(error).__name__}; "
            "check archive.url, its permissions and free space"
        ) from error


def _into_place(source: Path, place: Path) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        source.replace(place)
    except FileNotFoundError:
        if not source.exists():
            raise
        place.parent.mkdir(parents=True, exist_ok=True)  # a deletion removed the folder in between
        source.replace(place)
    _sync_folder(place.parent)


def _link_into_place(source: Path, place: Path) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.hardlink_to(source)
    except FileNotFoundError:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.hardlink_to(source)
    _sync_folder(place.parent)


def _sync(path: Path) -> None:
    """Makes the file, or the renames in the folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Syncs the folder; does nothing if a deletion has just removed it."""
    with suppress(FileNotFoundError):
        _sync(folder)


def _walk(root: str) -> Iterator[tuple[str, int]]:
    """All files below `root` with their sizes. A folder that cannot be listed is an error, not an empty one."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # deleted meanwhile
            raise error

    for folder, _, names in os.walk(root, onerror=fail):
        for name in names:
            with suppress(FileNotFoundError):  # deleted meanwhile
                yield f"{folder}/{name}", Path(folder, name).stat().st_size


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev
