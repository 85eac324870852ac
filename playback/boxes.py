"""Reads and rewrites the boxes of fragmented MP4 files (ISO/IEC 14496-12). Opens no video: it decodes nothing.

Our recordings are a head (`ftyp`, `moov`) and fragments (`moof`, `mdat`). Each fragment begins with a keyframe. Its
times count from the stream's start.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from storage.errors import DamagedFile

HEADER_BYTES = 8
LARGE = 1  # a size of 1: eight more bytes hold the real one
MOST_HEAD_BYTES = 1024**2
MOST_PREFIX_BYTES = 64 * 1024  # of what precedes the first slice of a picture
MOST_INDEX_BYTES = 16 * 1024**2  # of a `moof`
VISUAL_BYTES = 78  # of a video's sample entry, before the boxes in it
H264_PARAMETERS = 7  # type of the NAL unit
CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"edts", b"mvex")
TFHD_INDEX = 0x2  # flags of `tfhd` and `trun`
TFHD_OFFSET = 0x1
TRUN_OFFSET, TRUN_FIRST_FLAGS, TRUN_DURATION, TRUN_SIZE, TRUN_FLAGS, TRUN_SHIFT = 0x1, 0x4, 0x100, 0x200, 0x400, 0x800

Kind = Literal["video", "audio"]


@dataclass(frozen=True)
class Box:
    """A box in memory: `content` is what follows its header; of a container, its boxes are in `children`."""

    kind: bytes
    content: bytes = b""
    children: "tuple[Box, ...]" = ()

    def pack(self) -> bytes:
        """The box as it is in a file."""
        content = b"".join(child.pack() for child in self.children) or self.content
        return struct.pack(">I4s", len(content) + HEADER_BYTES, self.kind) + content

    def find(self, *path: bytes) -> "Box":
        """The first box at a path of kinds; raises DamagedFile."""
        if not path:
            return self
        for child in self.children:
            if child.kind == path[0]:
                return child.find(*path[1:])
        raise DamagedFile(f"an MP4 file is damaged: it lacks {path[0].decode(errors='replace')}")

    def find_all(self, kind: bytes) -> "list[Box]":
        """The boxes of a kind directly in this one."""
        return [child for child in self.children if child.kind == kind]

    def put(self, path: tuple[bytes, ...], box: "Box") -> "Box":
        """A copy in which `box` replaces the box at the path."""
        if not path:
            return box
        found = self.find(path[0])
        children = tuple(child.put(path[1:], box) if child is found else child for child in self.children)
        return replace(self, children=children)


@dataclass(frozen=True)
class Track:
    """A track as the head describes it."""

    number: int
    kind: Kind
    timescale: int  # ticks of its times per second
    entry: bytes  # the sample entry: codec, size, parameter sets


@dataclass(frozen=True)
class Head:
    """The beginning of a file."""

    boxes: tuple[Box, ...]  # ftyp, moov
    tracks: tuple[Track, ...]

    def pack(self) -> bytes:
        """The bytes of the head."""
        return b"".join(box.pack() for box in self.boxes)

    def find_track(self, kind: Kind) -> Track | None:
        """The track of a kind, if there is one."""
        return next((track for track in self.tracks if track.kind == kind), None)


@dataclass(frozen=True)
class TrackTimes:
    """When a fragment's samples of a track begin, in the track's ticks."""

    decoded: int
    shown: int  # of the first sample


@dataclass(frozen=True)
class Fragment:
    """A fragment in a file: a group of pictures with the sound beside it."""

    offset: int
    times: Mapping[int, TrackTimes]  # by track


def measure_head(file: BinaryIO) -> tuple[int, str]:
    """(bytes, form) of a file's head. Files of equal form have the same tracks with the same parameters.

    Raises DamagedFile.
    """
    head = _read_head(file)
    return len(head), f"{zlib.crc32(head):08x}"


def read_head(file: BinaryIO) -> Head:
    """The head of a file; raises DamagedFile."""
    boxes = tuple(_parse(_read_head(file)))
    moov = next(box for box in boxes if box.kind == b"moov")
    return Head(boxes, tuple(_describe(trak) for trak in moov.find_all(b"trak")))


def list_fragments(file: BinaryIO, offset: int, end: int) -> list[Fragment]:
    """The fragments between two places of a file."""
    boxes = walk_boxes(file, offset, end)
    return [Fragment(at, read_times(index)) for at, _, index in boxes if index is not None]


def has_own_parameters(file: BinaryIO, head: Head, offset: int, end: int) -> bool:
    """Whether the first picture brings its own parameter sets, so that it can follow pictures with others.

    Cameras send H.264 that way. H.265 files have them in their head only.
    """
    video = head.find_track("video")
    if video is None or video.entry[4:8] != b"avc1":
        return False
    for at, _, index in walk_boxes(file, offset, end):
        for traf in index.find_all(b"traf") if index is not None else ():
            if struct.unpack_from(">I", traf.find(b"tfhd").content, 4)[0] == video.number:
                (data_at,) = struct.unpack_from(">i", traf.find(b"trun").content, 8)
                file.seek(at + data_at)
                return H264_PARAMETERS in _list_units(file.read(MOST_PREFIX_BYTES))
    return False


def _list_units(data: bytes) -> Iterator[int]:
    """The types of the NAL units up to the first slice. Each begins with its length in four bytes."""
    at = 0
    while at + 5 <= len(data) and data[at + 4] & 31 not in (1, 5):
        yield data[at + 4] & 31
        at += 4 + struct.unpack_from(">I", data, at)[0]


def cut_torn_tail(path: Path) -> None:
    """Removes an incomplete fragment at the end of a file: its writer was killed. Raises OSError, DamagedFile."""
    with path.open("r+b") as file:
        total, whole = file.seek(0, 2), 0
        for at, size, index in walk_boxes(file, 0, total):
            file.seek(at)
            if index is None and _read_header(file)[1] == size:  # a `moof` counts with the data after it
                whole = at + size
        file.truncate(whole)


def read_times(moof: Box) -> dict[int, TrackTimes]:
    """When the samples of each track begin."""
    times = {}
    for traf in moof.find_all(b"traf"):
        tfdt, trun = traf.find(b"tfdt").content, traf.find(b"trun").content
        number = struct.unpack_from(">I", traf.find(b"tfhd").content, 4)[0]
        decoded = struct.unpack_from(">Q" if tfdt[0] == 1 else ">I", tfdt, 4)[0]
        times[number] = TrackTimes(decoded, decoded + _read_first_shift(trun))
    return times


def rewrite_fragment(moof: Box, sequence: int, earlier: Mapping[int, int], entries: Mapping[int, int]) -> bytes:
    """The fragment's index in another file: its number, its times, and its tracks' sample entries.

    `earlier` (track -> ticks) is taken off the times. Tracks that are not in `entries` (track -> number of the entry)
    are left out. The index keeps its size if all tracks stay and all their entries are the first.
    """
    trafs = {struct.unpack_from(">I", traf.find(b"tfhd").content, 4)[0]: traf for traf in moof.find_all(b"traf")}
    children = [replace(moof.find(b"mfhd"), content=struct.pack(">II", 0, sequence))]
    for number, traf in trafs.items():
        if number in entries:
            moved = _shift_times(traf, earlier.get(number, 0))
            children.append(moved.put((b"tfhd",), _choose_entry(traf.find(b"tfhd"), entries[number])))
    before, after = len(moof.pack()), len(Box(b"moof", children=tuple(children)).pack())
    return Box(b"moof", children=tuple(_move_data(child, after - before) for child in children)).pack()


def describe_head(
    head: Head, entries: Mapping[int, tuple[bytes, ...]], skipped: Mapping[int, int], duration_s: float
) -> bytes:
    """A head whose tracks have these sample entries, and are shown from `skipped` ticks after their times' zero."""
    boxes = []
    for box in head.boxes:
        children = tuple(_describe_child(child, entries, skipped) for child in box.children)
        described = replace(box, children=children)
        boxes.append(_set_duration(described, duration_s) if box.kind == b"moov" else described)
    return b"".join(box.pack() for box in boxes)


def walk_boxes(file: BinaryIO, offset: int, end: int) -> Iterator[tuple[int, int, Box | None]]:
    """(offset, size, box) of each box between two places; only a `moof` is read. The last one may be torn."""
    while offset < end:
        file.seek(offset)
        kind, size, header_bytes = _read_header(file)
        if not header_bytes <= size <= end - offset:
            yield offset, end - offset, None
            return
        index = None
        if kind == b"moof":
            if size > MOST_INDEX_BYTES:
                raise DamagedFile(f"an MP4 file is damaged: an index of {size} bytes")
            index = Box(kind, children=tuple(_parse(file.read(size - header_bytes))))
        yield offset, size, index
        offset += size


def _read_header(file: BinaryIO) -> tuple[bytes, int, int]:
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return b"", 0, HEADER_BYTES
    size, kind = struct.unpack(">I4s", header)
    if size != LARGE:
        return kind, size, HEADER_BYTES
    large = file.read(8)
    return kind, struct.unpack(">Q", large)[0] if len(large) == 8 else 0, HEADER_BYTES + 8


def _read_head(file: BinaryIO) -> bytes:
    """The bytes from the beginning to the end of `moov`."""
    file.seek(0)
    head = b""
    while len(head) <= MOST_HEAD_BYTES:
        kind, size, header_bytes = _read_header(file)
        if kind not in (b"ftyp", b"moov", b"free") or not header_bytes <= size <= MOST_HEAD_BYTES:
            break
        head += struct.pack(">I4s", size, kind) + file.read(size - header_bytes)
        if kind == b"moov":
            return head
    raise DamagedFile("an MP4 file is damaged: it does not begin with ftyp and moov")


def _parse(data: bytes) -> Iterator[Box]:
    at = 0
    while at + HEADER_BYTES <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if not HEADER_BYTES <= size <= len(data) - at:
            raise DamagedFile(f"an MP4 file is damaged: a box of {size} bytes")
        content = data[at + HEADER_BYTES : at + size]
        yield Box(kind, children=tuple(_parse(content))) if kind in CONTAINERS else Box(kind, content)
        at += size


def _describe(trak: Box) -> Track:
    mdhd = trak.find(b"mdia", b"mdhd").content
    timescale = struct.unpack_from(">I", mdhd, 20 if mdhd[0] == 1 else 12)[0]
    handler = trak.find(b"mdia", b"hdlr").content[8:12]
    stsd = trak.find(b"mdia", b"minf", b"stbl", b"stsd").content
    kind: Kind = "video" if handler == b"vide" else "audio"
    (entry,) = list(_parse(stsd[8:]))[:1] or [Box(b"none")]
    return Track(_number(trak), kind, timescale, _strip_rate(entry) if kind == "video" else entry.pack())


def _strip_rate(entry: Box) -> bytes:
    """A video's sample entry without its bit rate, which differs between connections and is not needed."""
    boxes = b"".join(box.pack() for box in _parse(entry.content[VISUAL_BYTES:]) if box.kind != b"btrt")
    return replace(entry, content=entry.content[:VISUAL_BYTES] + boxes).pack()


def _number(trak: Box) -> int:
    tkhd = trak.find(b"tkhd").content
    number: int = struct.unpack_from(">I", tkhd, 20 if tkhd[0] == 1 else 12)[0]
    return number


def _describe_child(child: Box, entries: Mapping[int, tuple[bytes, ...]], skipped: Mapping[int, int]) -> Box:
    """A box of `moov`: a track gets its sample entries and its beginning, others stay."""
    if child.kind != b"trak":
        return child
    number = _number(child)
    stsd = Box(b"stsd", struct.pack(">II", 0, len(entries[number])) + b"".join(entries[number]))
    trak = child.put((b"mdia", b"minf", b"stbl", b"stsd"), stsd)
    if skipped[number]:  # an edit list: shown from here on, at normal speed (14496-12, 8.6.6)
        elst = Box(b"elst", struct.pack(">BxxxIQqI", 1, 1, 0, skipped[number], 1 << 16))
        children = [child for child in trak.children if child.kind != b"edts"]
        children.insert(1, Box(b"edts", children=(elst,)))
        trak = replace(trak, children=tuple(children))
    return trak


def _set_duration(moov: Box, duration_s: float) -> Box:
    """Says how long the fragments last: players need not read them all to know."""
    mvhd, mvex = moov.find(b"mvhd").content, moov.find(b"mvex")
    (timescale,) = struct.unpack_from(">I", mvhd, 20 if mvhd[0] == 1 else 12)
    others = tuple(child for child in mvex.children if child.kind != b"mehd")
    mehd = Box(b"mehd", struct.pack(">BxxxQ", 1, round(duration_s * timescale)))
    return moov.put((b"mvex",), replace(mvex, children=(mehd, *others)))


def _shift_times(traf: Box, earlier: int) -> Box:
    tfdt = traf.find(b"tfdt").content
    code = ">Q" if tfdt[0] == 1 else ">I"
    (decoded,) = struct.unpack_from(code, tfdt, 4)
    return traf.put((b"tfdt",), Box(b"tfdt", tfdt[:4] + struct.pack(code, max(decoded - earlier, 0))))


def _choose_entry(tfhd: Box, entry: int) -> Box:
    """A track fragment's header that names a sample entry; the first is the default."""
    flags = int.from_bytes(tfhd.content[1:4], "big")
    if entry == 1 and not flags & TFHD_INDEX:
        return tfhd
    at = 16 if flags & TFHD_OFFSET else 8
    rest = tfhd.content[at + 4 :] if flags & TFHD_INDEX else tfhd.content[at:]
    head = tfhd.content[:1] + (flags | TFHD_INDEX).to_bytes(3, "big") + tfhd.content[4:at]
    return Box(b"tfhd", head + struct.pack(">I", entry) + rest)


def _move_data(box: Box, by: int) -> Box:
    """A track fragment whose data begins `by` bytes later: its index has grown."""
    if not by or box.kind != b"traf":
        return box
    children = []
    for child in box.children:
        if child.kind == b"trun" and int.from_bytes(child.content[1:4], "big") & TRUN_OFFSET:
            (offset,) = struct.unpack_from(">i", child.content, 8)
            content = child.content[:8] + struct.pack(">i", offset + by) + child.content[12:]
            children.append(Box(b"trun", content))
        else:
            children.append(child)
    return replace(box, children=tuple(children))


def _read_first_shift(trun: bytes) -> int:
    """By how much the first sample is shown later than it is decoded."""
    version, flags = trun[0], int.from_bytes(trun[1:4], "big")
    if not flags & TRUN_SHIFT:
        return 0
    at = 8 + sum(4 for flag in (TRUN_OFFSET, TRUN_FIRST_FLAGS, TRUN_DURATION, TRUN_SIZE, TRUN_FLAGS) if flags & flag)
    shift: int = struct.unpack_from(">i" if version == 1 else ">I", trun, at)[0]
    return shift
