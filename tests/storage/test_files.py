"""Files on a local disk: written whole or not at all, private, without unfinished remains."""

import os
import threading
import time
from pathlib import Path

import pytest

from configs.privacy import keep_files_private
from storage.errors import ArchiveUnavailable
from storage.files import SCRATCH, Files
from tests.durability import make_step, record_steps
from tests.waiting import wait_until


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(str(tmp_path / "archive"))


def scratch(files: Files) -> list[Path]:
    folder = files.local_path(SCRATCH)
    assert folder is not None
    return list(folder.iterdir()) if folder.exists() else []


def test_a_reader_sees_the_old_file_or_the_new_one(files: Files) -> None:
    contents = [bytes([number]) * 200_000 for number in (1, 2)]
    files.write("a/b", contents[0])
    over = threading.Event()
    torn: list[int] = []

    def read() -> None:
        while not over.is_set():
            content = files.read("a/b")
            if content not in contents:
                torn.append(len(content or b""))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(40):
        files.write("a/b", contents[number % 2])
    over.set()
    reader.join()
    assert torn == []
    assert scratch(files) == []


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(files: Files, tmp_path: Path) -> None:
    files.write("a/b", b"old")
    files.write("blocked", b"a file where a folder must be")
    with pytest.raises(ArchiveUnavailable, match=r"blocked/file.*archive\.url"):
        files.write("blocked/file", b"new")
    assert files.read("a/b") == b"old"
    assert files.names() == ["a", "blocked"]
    assert scratch(files) == []


def test_old_remains_of_interrupted_writes_are_swept_and_fresh_ones_are_not(files: Files) -> None:
    files.write("kept", b"x")
    folder = files.local_path(SCRATCH)
    assert folder is not None
    for name in ("old", "fresh"):
        (folder / name).write_bytes(b"half a wr")
        (folder / f"{name}-folder" / "below").mkdir(parents=True)
    long_ago = time.time() - 7200
    for name in ("old", "old-folder"):
        os.utime(folder / name, (long_ago, long_ago))
    files.sweep(3600)
    assert sorted(entry.name for entry in scratch(files)) == ["fresh", "fresh-folder"]
    assert files.names() == ["kept"]


def test_sweeping_while_others_write_and_delete_raises_nothing(files: Files) -> None:
    over = threading.Event()
    problems: list[Exception] = []

    def work() -> None:
        number = 0
        while not over.is_set():
            number += 1
            try:
                files.write(f"{threading.get_ident()}/{number % 3}", b"x")
                files.delete(str(threading.get_ident()))
            except ArchiveUnavailable as error:
                if "No such file" not in str(error):  # the sweeps below remove unfinished writes
                    problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        files.sweep(-1)
    over.set()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_deletion_ends_while_others_write_below_it(files: Files) -> None:
    """Each write meets one deletion at most, and succeeds all the same."""
    over = threading.Event()
    problems: list[Exception] = []
    ended = [0, 0]  # writes of each thread

    def write(thread: int) -> None:
        while not over.is_set():
            try:
                files.create(f"video/{thread}-{ended[thread]:06d}/frames.zip", b"x" * 1000)
            except ArchiveUnavailable as error:
                problems.append(error)
            ended[thread] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            files.delete("video")
            before = list(ended)
            wait_until(lambda: all(now >= then + 2 for now, then in zip(ended, before, strict=True)), step_s=0.001)  # noqa: B023
    finally:
        over.set()
        for thread in threads:
            thread.join()
    files.delete("video")
    assert files.names() == []
    assert problems == []
    assert scratch(files) == []


def put_source(files: Files, tmp_path: Path, same_disk: bool) -> None:
    """Puts a file of this disk or of another one into the archive."""
    folder = tmp_path if same_disk else Path("/dev/shm")
    if not same_disk and (not folder.is_dir() or folder.stat().st_dev == tmp_path.stat().st_dev):
        pytest.skip("this machine has one disk only")
    source = folder / f"upload-{os.getpid()}"
    try:
        source.write_bytes(b"source")
        files.put("video/source", source)
    finally:
        source.unlink(missing_ok=True)


@pytest.mark.parametrize("same_disk", [True, False])
def test_a_source_is_stored_whole(files: Files, tmp_path: Path, same_disk: bool) -> None:
    put_source(files, tmp_path, same_disk)
    assert files.read("video/source") == b"source"
    assert scratch(files) == []


@pytest.mark.parametrize("way", ["write", "create", "put", "put from another disk"])
def test_a_file_survives_a_power_cut_as_soon_as_it_is_in_its_place(
    way: str, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its content is synced first, and its folder afterwards."""
    steps = record_steps(monkeypatch)
    if way == "write":
        files.write("video/source", b"source")
    elif way == "create":
        files.create("video/source", b"source")
    else:
        put_source(files, tmp_path, same_disk=way == "put")
    place = files.local_path("video/source")
    assert place is not None
    assert place.read_bytes() == b"source"
    file, folder = place.stat(), place.parent.stat()
    assert steps == [make_step("sync", file), make_step("place", file), make_step("sync", folder)]


def test_a_copy_appears_only_once_it_is_whole(files: Files, tmp_path: Path) -> None:
    target = tmp_path / "work" / "file"
    assert files.get("nothing", target) is False
    assert list(target.parent.iterdir()) == []
    files.write("there", b"content")
    assert files.get("there", target) is True
    assert target.read_bytes() == b"content"
    assert [entry.name for entry in target.parent.iterdir()] == ["file"]


def test_other_users_cannot_read_the_files(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        keep_files_private(tmp_path / "data")
        files = Files(str(tmp_path / "data" / "archive"))
        (tmp_path / "upload").write_bytes(b"x")
        files.write("video/video.json", b"{}")
        files.create("video/000000/frames.zip", b"x")
        files.put("video/source", tmp_path / "upload")
    finally:
        os.umask(before)
    open_to_others = [path for path in (tmp_path / "data").rglob("*") if path.stat().st_mode & 0o077]
    assert open_to_others == []


def test_a_check_leaves_nothing_behind(files: Files) -> None:
    files.check()
    assert files.names() == []
    assert scratch(files) == []


def test_a_folder_that_cannot_be_listed_is_an_error(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root can list every folder, so the kernel's refusal is simulated."""
    files.write("video/000000/frames.zip", b"x")

    def refuse(path: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ArchiveUnavailable, match="Permission denied"):
        files.tree("video")
