"""Encodes the frames of streams as they are captured, so that they can be asked about within a second.

Each stream has one encoder worker at a time, which holds a lease. It keeps running means of the system prompt's rows
and stores them now and then; whoever takes over goes on from there. Frames that it does not get to in time are encoded
with their segment (`encode_segment`), from the archive.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from configs.settings import Settings
from encoder_worker.encoder import Encoder
from encoder_worker.reading import read_open_picture
from encoder_worker.running_means import Rows, RunningMean
from jobs.attempts import Attempts
from jobs.inspector import Inspector
from jobs.shares import plan_share
from llava_mini.errors import ModelError
from storage.errors import DamagedFile, LongwatchError
from storage.open_frames import SystemMean
from storage.segments import SegmentFrame
from storage.store import Store
from storage.timeline import SEGMENT_SLOTS, locate, mask_of, masks_of

log = logging.getLogger(__name__)

TICK_S = 0.1  # between two looks for new frames
SHARE_S = 1.0  # between two looks at which streams are ours
LEASE_S = 5.0
STORE_EVERY = 16  # frames between two stores of the running means: a successor encodes so many again at most
MOST_STREAMS = 1000
PAUSE_S = 2.0  # after a failure of Redis
KIND = "encode"  # of the workers that share the streams


@dataclass
class OpenStream:
    """A stream that this worker encodes."""

    id: str
    last_slot: int  # the last captured slot that was looked at
    waiting: list[int] = field(default_factory=list)  # captured, not encoded here; ascending
    means: dict[int, RunningMean] = field(default_factory=dict)  # segment -> system prompt
    latest: "Latest | None" = None  # the last frame that went through the model
    unstored: int = 0  # frames since the means were stored
    proved: bool = False  # whether a batch of it ended since it was taken


class Latest(NamedTuple):
    """An encoded frame, for those after it in which hardly anything changed."""

    slot: int
    token: Rows  # (C,D)
    system: Rows  # (L,D)


class LiveEncoder:
    """One thread that looks for frames, and hands each stream's to the model thread side by side."""

    def __init__(self, settings: Settings, store: Store, encoder: Encoder, holder: str) -> None:
        self._store = store
        self._encoder = encoder
        self._inspector = Inspector(store, settings.jobs)
        self._holder = holder
        self._batch_frames = settings.encoder.batch_frames
        self._max_attempts = settings.jobs.max_attempts
        self._attempts = Attempts(store.state)
        self._streams: dict[str, OpenStream] = {}
        self._shared_at = float("-inf")
        self._threads = ThreadPoolExecutor(self._batch_frames, "live")

    def run_forever(self, stop: threading.Event) -> None:
        """Encodes until `stop` is set. No exception ends it."""
        while not stop.wait(TICK_S):
            try:
                self.run_once()
            except LongwatchError as error:
                log.error("live encoding pauses: %s", error)
                self._streams.clear()  # another worker may take them meanwhile
                stop.wait(PAUSE_S)
            except Exception:
                log.exception("live encoding pauses")
                self._streams.clear()
                stop.wait(PAUSE_S)
        self._store.live_encoders.release(list(self._streams), self._holder)

    def run_once(self) -> None:
        """Takes its share of the streams, and encodes one batch of new frames."""
        if time.monotonic() - self._shared_at >= SHARE_S:
            self._take_share()
            self._shared_at = time.monotonic()
        found = self._store.open_frames.list_new({each.id: each.last_slot for each in self._streams.values()})
        for stream_id, slots in found.items():
            stream = self._streams[stream_id]
            stream.waiting += slots
            stream.last_slot = slots[-1]
        batch = self._choose_batch()
        if batch:
            list(self._threads.map(lambda part: self._encode(*part), batch))

    def _take_share(self) -> None:
        stream_ids = self._store.index.list_streams(None, MOST_STREAMS)
        holders = self._store.live_encoders.find_holders(stream_ids)
        mine = [each for each in stream_ids if holders.get(each) == self._holder]
        free = [each for each in stream_ids if each not in holders]
        workers = sum(worker.kind == KIND for worker in self._store.workers.list_alive())
        change = plan_share(mine, free, len(stream_ids), workers, MOST_STREAMS)
        self._store.live_encoders.release(change.release, self._holder)
        wanted = [each for each in mine if each not in change.release] + change.take
        held = self._store.live_encoders.hold(wanted, self._holder, LEASE_S)
        self._streams = {each: self._streams.get(each) or self._take_over(each) for each in sorted(held)}

    def _take_over(self, stream_id: str) -> OpenStream:
        """Goes on where the worker before stopped, unless this stream's frames killed too many workers."""
        fingerprint = self._encoder.fingerprint
        slots = self._store.open_frames.list_slots(stream_id)
        stream = OpenStream(stream_id, slots[-1] if slots else -1)
        if self._attempts.begin(_job_id(stream_id)) > self._max_attempts:
            log.error("the open frames of %s are left to its segment's job: they killed workers", stream_id)
            self._attempts.clear(_job_id(stream_id))
            return stream
        encoded = set(self._store.open_frames.list_encoded(stream_id, fingerprint))
        known: set[int] = set()
        for segment, mask in masks_of(slots).items():
            mean = self._store.open_frames.read_system(stream_id, fingerprint, segment)
            there = {
                segment * SEGMENT_SLOTS + place for place in range(SEGMENT_SLOTS) if mean and mean.mask >> place & 1
            }
            if mean is not None and there <= encoded and not mean.mask & ~mask:
                stream.means[segment] = RunningMean()
                stream.means[segment].add(there, mean.rows.astype(np.float32))
                known |= there
        stream.waiting = [slot for slot in slots if slot not in known]
        return stream

    def _choose_batch(self) -> list[tuple[OpenStream, list[int]]]:
        """The oldest waiting frames of each stream in turn, a batch in all."""
        chosen: dict[str, list[int]] = {}
        room, turn = self._batch_frames, 0
        while room and any(len(each.waiting) > turn for each in self._streams.values()):
            for stream in self._streams.values():
                if room and len(stream.waiting) > turn:
                    chosen.setdefault(stream.id, []).append(stream.waiting[turn])
                    room -= 1
            turn += 1
        return [(self._streams[stream_id], slots) for stream_id, slots in chosen.items()]

    def _encode(self, stream: OpenStream, slots: list[int]) -> None:
        """Encodes frames of one stream; a frame that cannot be encoded is left to its segment's job."""
        del stream.waiting[: len(slots)]
        try:
            for segment, mask in masks_of(slots).items():
                self._encode_segment(stream, segment, mask)
        except (ModelError, DamagedFile) as error:
            log.error("frames in slots %d to %d of %s: %s", slots[0], slots[-1], stream.id, error)
            return
        if not stream.proved:
            self._attempts.clear(_job_id(stream.id))
            stream.proved = True
        self._inspector.wake_questions(stream.id)

    def _encode_segment(self, stream: OpenStream, segment: int, mask: int) -> None:
        first = segment * SEGMENT_SLOTS
        frames = {
            first + k: frame for k, frame in self._store.open_frames.read_pictures(stream.id, segment, mask).items()
        }
        mean = stream.means.setdefault(segment, RunningMean())
        tokens: dict[int, Rows] = {}
        for static, slots in _group_static(frames, first, stream.latest):
            if static and stream.latest is not None:
                tokens |= dict.fromkeys(slots, stream.latest.token)
                mean.add(set(slots), stream.latest.system)
                continue
            system = self._encoder.system_text
            wishes = [(system, range(len(slots))), (system, [len(slots) - 1])]
            pictures = [read_open_picture(frames[slot], stream.id) for slot in slots]
            encoded = self._encoder.encode_frames(pictures, wishes, urgent=True)
            tokens |= dict(zip(slots, encoded.tokens, strict=True))
            mean.add(set(slots), encoded.means[0])
            stream.latest = Latest(slots[-1], encoded.tokens[-1], encoded.means[1])
        if tokens:
            halves = {slot: row.astype(np.float16) for slot, row in tokens.items()}
            self._store.open_frames.write_tokens(stream.id, self._encoder.fingerprint, halves)
        stream.unstored += len(tokens)
        if stream.unstored >= STORE_EVERY or mask >> (SEGMENT_SLOTS - 1):
            self._store_means(stream, segment)

    def _store_means(self, stream: OpenStream, segment: int) -> None:
        for number, mean in list(stream.means.items()):
            mask = mask_of(locate(slot)[1] for slot in mean.slots)
            rows = mean.rows.astype(np.float16)
            self._store.open_frames.write_system(stream.id, self._encoder.fingerprint, number, SystemMean(mask, rows))
            if number < segment:
                del stream.means[number]
        stream.unstored = 0


def _group_static(
    frames: Mapping[int, SegmentFrame], first: int, latest: Latest | None
) -> Iterator[tuple[bool, list[int]]]:
    """Runs of slots: those that share the token of the frame encoded last, and those that the model must see."""
    last = None if latest is None else latest.slot
    run: list[int] = []
    for slot in sorted(frames):
        same_as = frames[slot].same_as
        if same_as is not None and first + same_as == (run[-1] if run else last):
            if run:
                last = run[-1]
                yield False, run
                run = []
            yield True, [slot]
        else:
            run.append(slot)
    if run:
        yield False, run


def _job_id(stream_id: str) -> str:
    return f"live-{stream_id}"
