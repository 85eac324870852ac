"""Brings captured frames from this host's spool to where others find them: Redis at once, the archive by segment."""

import logging
import shutil
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import NamedTuple

from configs.settings import Settings
from ingest.cameras.outbox import Outbox
from ingest.cameras.spool import SpooledFrame, list_spooled_segments, read_frames, remove_spooled, spool_path
from jobs.inspector import Inspector
from storage.documents import Video
from storage.errors import DamagedFile, LongwatchError, NewerDocument, NotFound
from storage.ids import VIDEO_ID
from storage.segments import SegmentFrame
from storage.store import Store
from storage.timeline import locate, mask_of, masks_of

log = logging.getLogger(__name__)

LOOK_S = 2.0  # between two looks at the whole spool
CLOSING_S = 3.0  # after a segment's end: its last frame is in the spool by then
ORPHAN_S = 60.0  # after a segment's end: frames of a host that is gone go to the archive without it
PAUSE_S = 2.0  # after a failure of Redis or the archive


class Published(NamedTuple):
    """What was published of a segment: how far its file was read, and which places it had."""

    offset: int = 0
    mask: int = 0


class Publisher:
    """One thread. Whatever it does may be repeated: after a crash it begins with what the spool holds."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._spool = settings.spool_dir
        self._stall_s = settings.cameras.stall_s  # then a silent camera is connected again
        self._store = store
        self._inspector = Inspector(store, settings.jobs)
        self._new: SimpleQueue[tuple[str, int]] = SimpleQueue()
        self._published: dict[tuple[str, int], Published] = {}  # (stream, segment) -> what was published of it
        self._outbox = Outbox(settings.spool_dir)
        self._streams: Sequence[Video] = ()
        self._looked_at = float("-inf")

    def note_frame(self, stream_id: str, segment: int) -> None:
        """Says that a frame was appended to the spool."""
        self._new.put((stream_id, segment))

    def run_forever(self, stop: threading.Event) -> None:
        """Publishes until `stop` is set. No exception ends it."""
        while not stop.is_set():
            try:
                self.run_once()
            except LongwatchError as error:
                log.error("captured frames stay in the spool for now: %s", error)
                stop.wait(PAUSE_S)
            except Exception:
                log.exception("captured frames stay in the spool for now")
                stop.wait(PAUSE_S)

    def run_once(self) -> None:
        """Publishes new frames; every `LOOK_S` also what was missed, and closes segments that are over."""
        for stream_id, segment in self._await_new():
            self._publish(stream_id, segment)
        if time.monotonic() - self._looked_at >= LOOK_S:
            self._looked_at = time.monotonic()
            self.look_at_spool()

    def look_at_spool(self) -> None:
        """Publishes again what Redis lost, and moves segments that are over to the archive."""
        still_open: list[tuple[str, int]] = []
        for stream_id in self._list_spooled_streams():
            try:
                still_open += self._close_ended(self._store.read_stream(stream_id))
            except NotFound:
                self._drop_stream(stream_id)
            except (DamagedFile, NewerDocument) as error:
                log.error("frames of %s stay in the spool: %s", stream_id, error)
        self._publish_lost(still_open)
        self._close_orphans()
        for stream_id in self._outbox.list_streams():
            self._outbox.publish(self._store.events, stream_id)

    def look_after(self, streams: Sequence[Video]) -> None:
        """Says which streams this host captures: it also closes segments that a host before it left open."""
        self._streams = streams

    def list_captured(self) -> set[str]:
        """The streams that this host captures."""
        return {stream.id for stream in self._streams}

    def _close_orphans(self) -> None:
        """Moves open segments to the archive whose frames another host captured, and that host is gone."""
        for stream in self._streams:
            segments = {locate(slot)[0] for slot in self._store.open_frames.list_slots(stream.id)}
            spooled = set(list_spooled_segments(self._spool / stream.id))
            for segment in sorted(segments - spooled):
                if _seconds_since_end(stream, segment) > ORPHAN_S:
                    self._close(stream, segment)

    def _await_new(self) -> list[tuple[str, int]]:
        """The segments with new frames, each once; waits a moment for the first one."""
        found: dict[tuple[str, int], None] = {}
        wait_s = max(self._looked_at + LOOK_S - time.monotonic(), 0.0)
        try:
            found[self._new.get(timeout=min(wait_s, LOOK_S) + 0.001)] = None
            while True:
                found[self._new.get_nowait()] = None
        except Empty:
            return list(found)

    def _publish(self, stream_id: str, segment: int) -> None:
        """Adds the segment's frames to Redis that were not added yet."""
        known = self._published.get((stream_id, segment), Published())
        frames, offset = read_frames(spool_path(self._spool / stream_id, segment), known.offset)
        if not frames:
            return
        self._store.add_frames(stream_id, segment, self._describe(stream_id, segment, frames))
        mask = known.mask | mask_of(frame.place for frame in frames)
        self._published[stream_id, segment] = Published(offset, mask)

    def _close_ended(self, stream: Video) -> list[tuple[str, int]]:
        """Closes the segments of a stream that are over; publishes the others, and returns them."""
        still_open = []
        segments = list_spooled_segments(self._spool / stream.id)
        for segment in segments:
            # A slot is decided when the first packet after it comes. With few keyframes or frames that takes a while.
            decided = segment < segments[-1]
            if _seconds_since_end(stream, segment) > CLOSING_S + (0 if decided else self._stall_s):
                self._close(stream, segment)
            else:
                self._publish(stream.id, segment)
                still_open.append((stream.id, segment))
        return still_open

    def _publish_lost(self, segments: Sequence[tuple[str, int]]) -> None:
        """Publishes segments again of which Redis lost something. A look at all of them costs two commands."""
        if not segments:
            return
        slots = self._store.open_frames.list_new(dict.fromkeys((stream_id for stream_id, _ in segments), -1))
        masks = {stream_id: masks_of(numbers) for stream_id, numbers in slots.items()}
        for key, pictured in zip(segments, self._store.open_frames.list_pictured(segments), strict=True):
            stream_id, segment = key
            if self._published.get(key, Published()).mask & ~(pictured & masks.get(stream_id, {}).get(segment, 0)):
                log.warning("Redis lost frames of segment %d of %s: they are added again", segment, stream_id)
                del self._published[key]
                self._publish(stream_id, segment)

    def _close(self, stream: Video, segment: int) -> None:
        """Moves a segment to the archive: the frames in this spool, and those of other hosts that Redis has."""
        path = spool_path(self._spool / stream.id, segment)
        spooled, offset = read_frames(path)
        frames = {frame.place: frame for frame in _as_segment_frames(spooled)}
        known = masks_of(self._store.open_frames.list_slots(stream.id)).get(segment, 0)
        frames |= self._store.open_frames.read_pictures(stream.id, segment, known & ~mask_of(frames))
        if frames:
            self._store.close_segment(stream.id, segment, [frames[place] for place in sorted(frames)])
        else:
            self._store.open_frames.remove_segment(stream.id, segment)
        if not remove_spooled(path, offset):
            return  # a frame came meanwhile: the next look adds it
        self._published.pop((stream.id, segment), None)
        self._inspector.inspect_video(stream.id)

    def _read(self, stream_id: str, segment: int) -> list[SegmentFrame]:
        frames, _ = read_frames(spool_path(self._spool / stream_id, segment))
        return _as_segment_frames(frames)

    def _describe(self, stream_id: str, segment: int, new: Sequence[SpooledFrame]) -> list[SegmentFrame]:
        """The new frames; static ones name the frame that they share their token with."""
        if not any(frame.static for frame in new):
            return _as_segment_frames(new)
        places = {frame.place for frame in new}
        return [frame for frame in self._read(stream_id, segment) if frame.place in places]

    def _drop_stream(self, stream_id: str) -> None:
        """Removes what a deleted stream left in the spool."""
        shutil.rmtree(self._spool / stream_id, ignore_errors=True)
        self._published = {key: value for key, value in self._published.items() if key[0] != stream_id}

    def _list_spooled_streams(self) -> list[str]:
        try:
            return sorted(path.name for path in self._spool.iterdir() if VIDEO_ID.fullmatch(path.name))
        except FileNotFoundError:
            return []


def _as_segment_frames(frames: Sequence[SpooledFrame]) -> list[SegmentFrame]:
    """The frames as they are kept. A static frame shares the token of the last other one, if that is in the segment."""
    kept: list[SegmentFrame] = []
    latest: int | None = None
    for frame in frames:
        same_as = latest if frame.static else None
        latest = frame.place if same_as is None else latest
        kept.append(SegmentFrame(frame.place, frame.t_s, frame.model_jpeg, frame.view_jpeg or None, same_as))
    return kept


def _seconds_since_end(stream: Video, segment: int) -> float:
    return stream.grid.seconds(datetime.now(UTC)) - stream.grid.segment_start_s(segment + 1)
