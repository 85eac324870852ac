"""Packs the pictures of a segment into one ZIP file, and reads them from it."""

import json
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from storage.errors import DamagedFile, NewerDocument, NotFound
from storage.timeline import FULL_MASK, mask_of, places_in

VERSION = 1
INDEX = "index.json"
# Exceptions that zipfile and json raise on damaged files. Damage can look like encryption, compression or offsets.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class SegmentFrame:
    """A frame of a segment as it is stored."""

    place: int  # 0..63
    t_s: float
    model: bytes | None  # JPEG that the encoder reads; None for images: it reads the original
    view: bytes | None  # JPEG for people, at the true aspect
    same_as: int | None = None  # the earlier place whose token it shares, because hardly anything changed


def pack_segment(frames: Sequence[SegmentFrame]) -> bytes:
    """A ZIP (stored, not compressed) of the frames' pictures, the model's first, and `index.json`.

    The model's pictures lie side by side, so that an encoder on another host gets them with one range read.
    """
    blob = BytesIO()
    with zipfile.ZipFile(blob, "w", zipfile.ZIP_STORED) as file:
        for frame in frames:
            if frame.model is not None:
                file.writestr(_member("model", frame.place), frame.model)
        for frame in frames:
            if frame.view is not None:
                file.writestr(_member("view", frame.place), frame.view)
        index = {
            "version": VERSION,
            "mask": f"{mask_of(frame.place for frame in frames):016x}",
            "times_s": {frame.place: frame.t_s for frame in frames},
            "same_as": {frame.place: frame.same_as for frame in frames if frame.same_as is not None},
        }
        file.writestr(zipfile.ZipInfo(INDEX), json.dumps(index))
    return blob.getvalue()


class SegmentReader:
    """The pictures in an opened segment file. Raises DamagedFile and NewerDocument naming `path`."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(file)
            index = json.loads(self._zip.read(INDEX))
            version = int(index["version"])
            if version > VERSION:
                raise NewerDocument(f"{path} was written by a newer Longwatch (version {version}): upgrade this one")
            self.mask = int(index["mask"], 16)
            self.times_s = {int(place): float(t_s) for place, t_s in index["times_s"].items()}
            self.same_as = {int(place): int(other) for place, other in index.get("same_as", {}).items()}
        except DAMAGE as error:
            raise DamagedFile(f"{path} is damaged: {error}; restore it, or add the video again") from error
        if not 0 < self.mask <= FULL_MASK:
            raise DamagedFile(f"{path} is damaged: it names no frames; restore it, or add the video again")
        self._names = set(self._zip.namelist())

    def read_all(self) -> list[SegmentFrame]:
        """Every frame with its pictures."""
        return [
            SegmentFrame(
                place,
                self.times_s[place],
                self.read_picture("model", place) if self.has("model", place) else None,
                self.read_picture("view", place) if self.has("view", place) else None,
                self.same_as.get(place),
            )
            for place in places_in(self.mask)
        ]

    def has(self, kind: str, place: int) -> bool:
        """Whether the segment holds a picture of this kind ("model" or "view")."""
        return _name(kind, place) in self._names

    def read_picture(self, kind: str, place: int) -> bytes:
        """The JPEG of a kind ("model" or "view") at a place; raises NotFound."""
        if not self.has(kind, place):
            raise NotFound(f"{self._path} holds no picture {_name(kind, place)}")
        try:
            return self._zip.read(_name(kind, place))
        except DAMAGE as error:
            raise DamagedFile(f"{self._path}/{_name(kind, place)} is damaged: {error}") from error


def _name(kind: str, place: int) -> str:
    return f"{kind}/{place:02d}.jpg"


def _member(kind: str, place: int) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(_name(kind, place))  # its fixed date makes equal segments identical byte by byte
