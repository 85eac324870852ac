"""Makes the archive's disk read-only or full while the service runs.

Tests run as root, and file modes do not stop root. So the run has its own mount namespace, in which the archive is a
small tmpfs that can be remounted read-only or filled. If the machine allows no namespace, RLIMIT_FSIZE stops the
workers and the API from writing files. To them it looks like a disk fault either way.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

NAMESPACE = "CHAOS_NAMESPACE"  # set once the process has its namespace, or cannot have one
SIZE_MB = 512
LEFT_BYTES = 64 * 1024  # a document fits, a segment does not


def enter_namespace() -> None:
    """Restarts this program in its own mount namespace, if that is possible."""
    if os.environ.get(NAMESPACE) is not None:
        return
    unshare = shutil.which("unshare")
    own = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    probe = [*own, "mount", "-t", "tmpfs", "tmpfs", tempfile.gettempdir()]
    possible = unshare is not None and subprocess.run([unshare, *probe], check=False).returncode == 0
    os.environ[NAMESPACE] = "yes" if possible else "no"
    if unshare is not None and possible:
        os.execv(unshare, [unshare, *own, sys.executable, "-m", "tests.chaos", *sys.argv[1:]])


class Volume(Protocol):
    """The archive's disk."""

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Lets nothing be written inside the block."""

    @contextmanager
    def full(self) -> Iterator[None]:
        """Lets nothing large be written inside the block."""

    def give_back(self, keep_in: Path | None) -> None:
        """Releases the disk after the service has stopped; copies files to `keep_in` if they would be lost."""


class Mounted:
    """A tmpfs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=700", "tmpfs", str(folder)], check=True)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Remounts the tmpfs. That fails while a file is open for writing, so it is tried again."""
        for _ in range(200):
            if self._remount("ro"):
                break
        try:
            yield
        finally:
            assert self._remount("rw"), "the archive's disk stays read-only"

    @contextmanager
    def full(self) -> Iterator[None]:
        """Fills the tmpfs except for LEFT_BYTES."""
        filler = self._folder / "filler"
        try:
            with filler.open("wb") as file:
                for _ in range(20):
                    free = shutil.disk_usage(self._folder).free
                    with suppress(OSError):  # another process took space first: try again with less
                        os.posix_fallocate(file.fileno(), 0, max(free - LEFT_BYTES, 1))
                        break
            yield
        finally:
            filler.unlink(missing_ok=True)

    def give_back(self, keep_in: Path | None) -> None:
        """Unmounts the tmpfs, whose files would vanish with the namespace."""
        if keep_in is not None:
            shutil.copytree(self._folder, keep_in)
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)

    def _remount(self, mode: str) -> bool:
        command = ["mount", "-o", f"remount,{mode}", str(self._folder)]
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


class Limited:
    """An ordinary folder. Limits apply to the processes that write to it."""

    def __init__(self, find_pids: Callable[[], list[int]]) -> None:
        self._find_pids = find_pids

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Stops all current processes from writing to files."""
        pids = self._find_pids()
        self._limit(pids, 0)
        try:
            yield
        finally:
            self._limit(pids, resource.RLIM_INFINITY)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Stops files from growing beyond LEFT_BYTES."""
        pids = self._find_pids()
        self._limit(pids, LEFT_BYTES)
        try:
            yield
        finally:
            self._limit(pids, resource.RLIM_INFINITY)

    def give_back(self, keep_in: Path | None) -> None:
        """Does nothing, because an ordinary folder stays."""

    def _limit(self, pids: list[int], most: int) -> None:
        for pid in pids:
            try:
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if most == resource.RLIM_INFINITY else most, hard))
            except ProcessLookupError:
                continue  # the process has died


def prepare_volume(folder: Path, find_pids: Callable[[], list[int]]) -> Volume:
    """Makes the archive's disk."""
    return Mounted(folder) if os.environ.get(NAMESPACE) == "yes" else Limited(find_pids)
