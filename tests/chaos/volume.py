"""Takes the archive's disk away from under the service: read-only, and full.

Tests run as root, whom file modes do not stop. So the run has a mount namespace of its own, in which the archive is a
small tmpfs: it is remounted read-only, or filled. Where no namespace can be had, the workers and the API may write no
file any more (RLIMIT_FSIZE): to them the disk is at fault either way.
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

NAMESPACE = "CHAOS_NAMESPACE"  # set in the process that has one
SIZE_MB = 512
LEFT_BYTES = 64 * 1024  # a document fits, a segment does not


def enter_namespace() -> None:
    """Begins this program anew in a mount namespace of its own, if that is possible."""
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
    """Where the archive lies."""

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Nothing can be written."""

    @contextmanager
    def full(self) -> Iterator[None]:
        """Nothing large can be written."""

    def give_back(self, keep_in: Path | None) -> None:
        """The service is stopped; what it wrote goes to `keep_in`, if that is given and it would be lost."""


class Mounted:
    """A tmpfs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=700", "tmpfs", str(folder)], check=True)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Remounts it; a file that is being written keeps that from succeeding, so it is tried again."""
        for _ in range(200):
            if self._remount("ro"):
                break
        try:
            yield
        finally:
            assert self._remount("rw"), "the archive's disk stays read-only"

    @contextmanager
    def full(self) -> Iterator[None]:
        """Fills it but for a little."""
        filler = self._folder / "filler"
        try:
            with filler.open("wb") as file:
                for _ in range(20):
                    free = shutil.disk_usage(self._folder).free
                    with suppress(OSError):  # somebody else was quicker: what is left is less
                        os.posix_fallocate(file.fileno(), 0, max(free - LEFT_BYTES, 1))
                        break
            yield
        finally:
            filler.unlink(missing_ok=True)

    def give_back(self, keep_in: Path | None) -> None:
        """Unmounts it: with the namespace it would be gone."""
        if keep_in is not None:
            shutil.copytree(self._folder, keep_in)
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)

    def _remount(self, mode: str) -> bool:
        command = ["mount", "-o", f"remount,{mode}", str(self._folder)]
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


class Limited:
    """An ordinary folder; the processes that write to it are limited."""

    def __init__(self, find_pids: Callable[[], list[int]]) -> None:
        self._find_pids = find_pids

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """No process that runs now can write to a file."""
        pids = self._find_pids()
        self._limit(pids, 0)
        try:
            yield
        finally:
            self._limit(pids, resource.RLIM_INFINITY)

    @contextmanager
    def full(self) -> Iterator[None]:
        """No file can become larger than this."""
        pids = self._find_pids()
        self._limit(pids, LEFT_BYTES)
        try:
            yield
        finally:
            self._limit(pids, resource.RLIM_INFINITY)

    def give_back(self, keep_in: Path | None) -> None:
        """It is an ordinary folder."""

    def _limit(self, pids: list[int], most: int) -> None:
        for pid in pids:
            try:
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if most == resource.RLIM_INFINITY else most, hard))
            except ProcessLookupError:
                continue  # it died meanwhile


def prepare_volume(folder: Path, find_pids: Callable[[], list[int]]) -> Volume:
    """The archive's place."""
    return Mounted(folder) if os.environ.get(NAMESPACE) == "yes" else Limited(find_pids)
