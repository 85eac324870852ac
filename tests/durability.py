"""Records what makes files survive a power cut: syncs, and the steps that put files into their places."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

import pytest


class Step(NamedTuple):
    """A step, and the file or folder as it was then. The inode stays the same when a file is renamed."""

    name: str  # sync, place
    inode: int
    size_bytes: int  # 0 for a folder


def make_step(name: str, status: os.stat_result) -> Step:
    """The step `name` at a file or folder in this state."""
    return Step(name, status.st_ino, 0 if stat.S_ISDIR(status.st_mode) else status.st_size)


def record_steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Returns a list that grows by every sync, rename and hard link from now on. They still happen."""
    steps: list[Step] = []
    sync, rename, link = os.fsync, Path.replace, Path.hardlink_to

    def note_sync(descriptor: int) -> None:
        steps.append(make_step("sync", os.fstat(descriptor)))
        sync(descriptor)

    def note_rename(self: Path, target: Path) -> Path:
        steps.append(make_step("place", self.stat()))
        return rename(self, target)

    def note_link(self: Path, target: Path) -> None:
        steps.append(make_step("place", target.stat()))
        link(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    monkeypatch.setattr(Path, "hardlink_to", note_link)
    return steps
