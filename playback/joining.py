"""Plans and reads a clip: recorded files joined into one MP4 file, cut at keyframes, without decoding.

Equal pieces are copied as they are, except for the times in their indexes. So the size of the clip is known before any
of its pictures is read, and any range of its bytes can be read alone. After a gap the times jump, as they did.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import BinaryIO

from playback.boxes import (
    Fragment,
    Head,
    describe_head,
    has_own_parameters,
    list_fragments,
    read_head,
    rewrite_fragment,
    walk_boxes,
)
from storage.errors import Conflict, DamagedFile
from storage.recordings import Recording

CHUNK_BYTES = 256 * 1024
SEQUENCES = 100_000  # numbers of fragments for each piece
ADVICE = "ask for a clip that ends there and another one that begins there, or take source=pictures"
Open = Callable[[Recording], AbstractContextManager[BinaryIO]]


@dataclass(frozen=True)
class Piece:
    """A part of a recorded file."""

    recording: Recording
    offset: int
    end: int
    entries: Mapping[int, int]  # track -> number of its sample entry in the clip; other tracks are left out
    size_bytes: int  # in the clip


@dataclass(frozen=True)
class Clip:
    """What a clip consists of."""

    head: bytes
    pieces: tuple[Piece, ...]
    zero: Mapping[int, int]  # track -> ticks of the stream's time at which the clip's time begins
    start_s: float  # when its first picture was shown, in seconds from the stream's start
    end_s: float

    @property
    def size_bytes(self) -> int:
        """The size of the whole clip."""
        return len(self.head) + sum(piece.size_bytes for piece in self.pieces)


def plan_clip(recordings: Sequence[Recording], start_s: float, end_s: float, open_file: Open) -> Clip:
    """A clip of these recordings, which overlap the stretch and are in order of time.

    It begins at the last keyframe before `start_s` and ends with the group of pictures that is shown at `end_s`. Raises
    NotFound, DamagedFile, and Conflict if the files cannot be joined.
    """
    for earlier, later in pairwise(recordings):
        if earlier.codec != later.codec:
            raise Conflict(
                f"the codec changes from {earlier.codec} to {later.codec} at {later.start_s:.1f} s: {ADVICE}"
            )
    heads = _read_heads(recordings, open_file)
    base = max(heads.values(), key=lambda head: len(head.tracks))
    entries, chosen = _merge_entries(base, heads)
    pieces = [Piece(each, each.head_bytes, each.size_bytes, chosen[each.form], 0) for each in recordings]
    pieces[0], first = _cut_start(pieces[0], base, start_s, open_file)
    pieces[-1], clip_end_s = _cut_end(pieces[-1], base, end_s, open_file)
    if len(entries[_find_video(base)[0]]) > 1:
        _require_parameters(pieces, heads, open_file)
    pieces = [_measure(piece, heads[piece.recording.form], open_file) for piece in pieces]
    return _start_clip(base, entries, pieces, first, clip_end_s)


def read_clip(clip: Clip, first: int, count: int, open_file: Open) -> Iterator[bytes]:
    """`count` bytes of the clip from byte `first` on. Raises NotFound and DamagedFile, also on the way."""
    for chunk in _read_from(clip, first, open_file):
        yield chunk[:count]
        count -= len(chunk)
        if count <= 0:
            return


def _read_from(clip: Clip, skip: int, open_file: Open) -> Iterator[bytes]:
    if skip < len(clip.head):
        yield clip.head[skip:]
    skip = max(skip - len(clip.head), 0)
    for number, piece in enumerate(clip.pieces):
        if skip >= piece.size_bytes:
            skip -= piece.size_bytes
            continue
        with open_file(piece.recording) as file:
            yield from _read_piece(piece, number, clip.zero, skip, file)
        skip = 0


def _read_piece(piece: Piece, number: int, zero: Mapping[int, int], skip: int, file: BinaryIO) -> Iterator[bytes]:
    sequence = number * SEQUENCES
    for at, size, index in walk_boxes(file, piece.offset, piece.end):
        if index is not None:
            sequence += 1
            content = rewrite_fragment(index, sequence, zero, piece.entries)
            if skip < len(content):
                yield content[skip:]
            skip = max(skip - len(content), 0)
        elif skip >= size:
            skip -= size
        else:
            yield from _copy(file, at + skip, size - skip)
            skip = 0


def _copy(file: BinaryIO, offset: int, count: int) -> Iterator[bytes]:
    file.seek(offset)
    while count > 0:
        chunk = file.read(min(count, CHUNK_BYTES))
        if not chunk:
            raise DamagedFile("a recorded file is shorter than it was")
        count -= len(chunk)
        yield chunk


def _read_heads(recordings: Sequence[Recording], open_file: Open) -> dict[str, Head]:
    """Form -> head of the files that have it."""
    heads: dict[str, Head] = {}
    for recording in recordings:
        if recording.form not in heads:
            with open_file(recording) as file:
                heads[recording.form] = read_head(file)
    return heads


def _merge_entries(
    base: Head, heads: Mapping[str, Head]
) -> tuple[dict[int, tuple[bytes, ...]], dict[str, dict[int, int]]]:
    """(track -> all sample entries, form -> track -> number of its entry). Sound that does not fit is left out."""
    entries: dict[int, tuple[bytes, ...]] = {track.number: (track.entry,) for track in base.tracks}
    chosen: dict[str, dict[int, int]] = {}
    for form, head in heads.items():
        chosen[form] = {}
        for track in head.tracks:
            known = base.find_track(track.kind)
            if known is None or (known.number, known.timescale) != (track.number, track.timescale):
                continue
            if track.entry not in entries[track.number]:
                if track.kind == "audio":
                    continue
                entries[track.number] += (track.entry,)
            chosen[form][track.number] = entries[track.number].index(track.entry) + 1
    return entries, chosen


def _require_parameters(pieces: Sequence[Piece], heads: Mapping[str, Head], open_file: Open) -> None:
    """Raises Conflict if a piece needs the parameter sets of its head: players look at the first head only."""
    number, _ = _find_video(next(iter(heads.values())))
    changed = next(piece for piece in pieces if piece.entries[number] != pieces[0].entries[number])
    for piece in pieces:
        with open_file(piece.recording) as file:
            if not has_own_parameters(file, heads[piece.recording.form], piece.offset, piece.end):
                raise Conflict(f"the picture's size or quality changes at {changed.recording.start_s:.1f} s: {ADVICE}")


def _cut_start(piece: Piece, base: Head, start_s: float, open_file: Open) -> tuple[Piece, Fragment]:
    """The piece from the last keyframe before the stretch on, and the fragment that begins there."""
    number, timescale = _find_video(base)
    fragments = _list_fragments(piece, number, open_file)
    early = [each for each in fragments if each.times[number].shown <= start_s * timescale]
    first = max(early or fragments[:1], key=lambda each: each.offset)
    return replace(piece, offset=first.offset), first


def _cut_end(piece: Piece, base: Head, end_s: float, open_file: Open) -> tuple[Piece, float]:
    """The piece up to the keyframe after the stretch, and when that is shown."""
    number, timescale = _find_video(base)
    late = [
        each for each in _list_fragments(piece, number, open_file)[1:] if each.times[number].shown >= end_s * timescale
    ]
    if not late:
        return piece, piece.recording.end_s
    return replace(piece, end=late[0].offset), late[0].times[number].shown / timescale


def _list_fragments(piece: Piece, number: int, open_file: Open) -> list[Fragment]:
    """The fragments of a piece that show something."""
    with open_file(piece.recording) as file:
        fragments = [each for each in list_fragments(file, piece.offset, piece.end) if number in each.times]
    if not fragments:
        raise DamagedFile(f"the recording {piece.recording.name} is damaged: it holds no picture")
    return fragments


def _measure(piece: Piece, head: Head, open_file: Open) -> Piece:
    """The piece with its size in the clip: only what keeps its tracks and their first entries keeps its size."""
    if set(piece.entries.values()) == {1} and len(piece.entries) == len(head.tracks):
        return replace(piece, size_bytes=piece.end - piece.offset)
    with open_file(piece.recording) as file:
        size = sum(
            size if index is None else len(rewrite_fragment(index, 0, {}, piece.entries))
            for _, size, index in walk_boxes(file, piece.offset, piece.end)
        )
    return replace(piece, size_bytes=size)


def _start_clip(
    base: Head, entries: Mapping[int, tuple[bytes, ...]], pieces: Sequence[Piece], first: Fragment, end_s: float
) -> Clip:
    """The clip's time begins with the first sample that is decoded; it is shown from its first picture on."""
    number, timescale = _find_video(base)
    scales = {track.number: track.timescale for track in base.tracks}
    shown_s = first.times[number].shown / timescale
    decoded_s = min(times.decoded / scales[n] for n, times in first.times.items() if n in pieces[0].entries)
    zero = {n: round(decoded_s * scale) for n, scale in scales.items()}
    skipped = {n: round((shown_s - decoded_s) * scale) for n, scale in scales.items()}
    head = describe_head(base, entries, skipped, end_s - shown_s)
    return Clip(head, tuple(pieces), zero, shown_s, end_s)


def _find_video(head: Head) -> tuple[int, int]:
    video = head.find_track("video")
    if video is None:
        raise DamagedFile("a recorded file has no video track")
    return video.number, video.timescale
