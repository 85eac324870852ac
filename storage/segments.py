"""Packs the pictures of a segment into one ZIP file, and reads them from it."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from storage.errors import DamagedFile, NotFound
from storage.timeline import mask_of

VERSION = 1
INDEX = "index.json"


@dataclass(frozen=True)
class SegmentFrame:
    """A frame of a segment as it is kept."""

    place: int  # 0..63
    t_s: float
    model: bytes | None  # JPEG that the encoder reads; None for images: it reads the original
    view: bytes | None  # JPEG for people, at the true aspect


def pack_segment(frames: Sequence[SegmentFrame]) -> bytes:
    """A ZIP (stored, not compressed) of the frames' pictures, those of the model first, and `index.json`.

    The model's pictures lie side by side so that one range read brings them to an encoder on another host.
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
        }
        file.writestr(zipfile.ZipInfo(INDEX), json.dumps(index))
    return blob.getvalue()


class SegmentReader:
    """The pictures in an opened segment file. Raises DamagedFile naming `path`."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(file)
            index = json.loads(self._zip.read(INDEX))
            self.mask = int(index["mask"], 16)
            self.times_s = {int(place): float(t_s) for place, t_s in index["times_s"].items()}
        except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
            raise DamagedFile(f"{path} is damaged: {error}; restore it, or add the video anew") from error
        self._names = set(self._zip.namelist())

    def has(self, kind: str, place: int) -> bool:
        """Whether the segment holds a picture of this kind ("model" or "view")."""
        return _name(kind, place) in self._names

    def read_picture(self, kind: str, place: int) -> bytes:
        """The JPEG of a kind ("model" or "view") at a place; raises NotFound."""
        try:
            return self._zip.read(_name(kind, place))
        except KeyError as error:
            raise NotFound(f"{self._path} holds no picture {_name(kind, place)}") from error
        except (zipfile.BadZipFile, EOFError) as error:
            raise DamagedFile(f"{self._path}/{_name(kind, place)} is damaged: {error}") from error


def _name(kind: str, place: int) -> str:
    return f"{kind}/{place:02d}.jpg"


def _member(kind: str, place: int) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(_name(kind, place))  # its fixed date keeps equal segments equal to the byte
