"""Writes and reads the spool: an append-only file of captured frames for each segment of a stream.

Frames are not synced to the disk one by one. What was written survives the death of the process, because the kernel
has it. A power cut loses only what the kernel had not written yet, mostly the last 30 seconds. To sync each frame would
cost more than to decode it.
"""

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from storage.timeline import SEGMENT_SLOTS

MAGIC = b"LWF1"
HEADER = struct.Struct("<4sBBdIII")  # magic, place, flags, t_s, length of the model's JPEG, of the view's, crc32
CHECKED_BYTES = HEADER.size - 4  # the crc32 covers the header before it, and both pictures
STATIC = 1  # flag: the frame differs little from the last one without this flag
MOST_JPEG_BYTES = 64 * 1024 * 1024  # a larger length is damage
SUFFIX = ".frames"


@dataclass(frozen=True)
class SpooledFrame:
    """A frame as it lies in the spool. `place` is its place (0..63) in the segment."""

    place: int
    t_s: float
    static: bool
    model_jpeg: bytes
    view_jpeg: bytes  # empty if ingest.view_long_side_px is 0


def spool_path(folder: Path, segment: int) -> Path:
    """The file of a segment in the spool folder of its stream."""
    return folder / f"{segment:06d}{SUFFIX}"


def list_spooled_segments(folder: Path) -> list[int]:
    """The segments that have a file in the spool folder of a stream, ascending."""
    try:
        names = [path.stem for path in folder.iterdir() if path.suffix == SUFFIX]
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def read_frames(path: Path, offset: int = 0) -> tuple[list[SpooledFrame], int]:
    """The frames from `offset` on, and the offset to go on at. Empty if there is no such file.

    Reading ends at the first record that is torn or damaged: the writer may be in the middle of it. The first record
    of a place wins.
    """
    frames: list[SpooledFrame] = []
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return frames, offset
    with file:
        places = set(_places_before(file, offset))
        file.seek(offset)
        while (frame := _read_record(file)) is not None:
            offset = file.tell()
            if frame.place not in places:
                places.add(frame.place)
                frames.append(frame)
    return frames, offset


def remove_spooled(path: Path, offset: int) -> bool:
    """Removes a file that was read up to `offset`; returns False instead if something was appended since."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.stat().st_size > offset and read_frames(path, offset)[0]:
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)  # which unlocks it


class SpoolWriter:
    """Appends frames to the spool folder of one stream. One process at a time may write there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._segment = -1
        self._descriptor = -1
        self._places: set[int] = set()

    def append_frame(self, segment: int, frame: SpooledFrame) -> bool:
        """Appends the frame; False if its place is taken. A file that was removed meanwhile is begun again.

        Raises OSError, e.g. if the disk is full; then nothing of the frame stays in the file.
        """
        if segment != self._segment:
            self._open_segment(segment, set())
        if frame.place in self._places:
            return False
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # `remove_spooled` removes no file between the check and the write
        while os.fstat(self._descriptor).st_nlink == 0:
            self._open_segment(segment, self._places)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            self._append(frame)
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._places.add(frame.place)
        return True

    def _append(self, frame: SpooledFrame) -> None:
        head = HEADER.pack(
            MAGIC, frame.place, STATIC * frame.static, frame.t_s, len(frame.model_jpeg), len(frame.view_jpeg), 0
        )[:CHECKED_BYTES]
        body = frame.model_jpeg + frame.view_jpeg
        record = head + zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "little") + body
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, record)
            if written < len(record):
                raise OSError(f"only {written} of {len(record)} bytes could be written to the spool")
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise

    def close(self) -> None:
        """Closes the file that is open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._segment = self._descriptor = -1

    def _open_segment(self, segment: int, places: set[int]) -> None:
        """Opens the segment's file, the frames of these places are in the archive already.

        What a killed writer left there is kept, except for a torn tail.
        """
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = spool_path(self._folder, segment)
        frames, end = read_frames(path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)  # the umask is 0077
        os.ftruncate(self._descriptor, end)
        self._segment, self._places = segment, places | {frame.place for frame in frames}


def _places_before(file: BinaryIO, end: int) -> Iterator[int]:
    """The places of the records before `end`, which were read and checked earlier."""
    at = 0
    while at < end:
        file.seek(at)
        head = file.read(HEADER.size)
        if len(head) < HEADER.size:
            return
        _, place, _, _, model_bytes, view_bytes, _ = HEADER.unpack(head)
        yield place
        at += HEADER.size + model_bytes + view_bytes


def _read_record(file: BinaryIO) -> SpooledFrame | None:
    head = file.read(HEADER.size)
    if len(head) < HEADER.size:
        return None
    magic, place, flags, t_s, model_bytes, view_bytes, crc = HEADER.unpack(head)
    if magic != MAGIC or place >= SEGMENT_SLOTS or max(model_bytes, view_bytes) > MOST_JPEG_BYTES:
        return None
    body = file.read(model_bytes + view_bytes)
    if len(body) < model_bytes + view_bytes or zlib.crc32(body, zlib.crc32(head[:CHECKED_BYTES])) != crc:
        return None
    return SpooledFrame(place, t_s, bool(flags & STATIC), body[:model_bytes], body[model_bytes:])
