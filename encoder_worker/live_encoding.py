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
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from configs.settings import Settings
from encoder_worker.encoder import Encoder, Picture
from encoder_worker.reading import read_open_picture
from encoder_worker.running_means import Rows, RunningMean
from encoder_worker.scheduler import Wish
from encoder_worker.watch_means import WatchMeans
from jobs.attempts import Attempts
from jobs.inspector import Inspector
from jobs.queues import watch_call
from jobs.shares import plan_share
from llava_mini.errors import ModelError
from storage.documents import Video
from storage.errors import DamagedFile, LongwatchError
from storage.open_frames import SystemMean
from storage.segments import SegmentFrame
from storage.store import Store
from storage.stretch import SETTLING_S
from storage.timeline import SEGMENT_SLOTS, masks_of, slots_in

log = logging.getLogger(__name__)

TICK_S = 0.1  # between two looks for new frames
SHARE_S = 1.0  # between two looks at which streams are ours
LEASE_S = 5.0
STORE_EVERY = 16  # frames between two stores of the running means: a successor encodes so many again at most
MOST_STREAMS = 1000
PAUSE_S = 2.0  # after a failure of Redis
KIND = "encode"  # of the workers that share the streams


@dataclass
class SystemSum:
    """The running mean of the system prompt's rows over frames of a segment."""

    mask: int = 0
    mean: RunningMean = field(default_factory=RunningMean)

    def add(self, mask: int, rows: Rows) -> None:
        """Adds the mean rows over the frames in the mask."""
        self.mask |= mask
        self.mean.add(mask.bit_count(), rows)


@dataclass
class OpenStream:
    """A stream that this worker encodes."""

    video: Video
    watches: WatchMeans
    last_slot: int  # the last captured slot that was looked at
    waiting: list[int] = field(default_factory=list)  # captured, not encoded here; ascending
    systems: dict[int, SystemSum] = field(default_factory=dict)  # segment -> system prompt
    latest: "Latest | None" = None  # the last frame that went through the model
    unstored: int = 0  # frames since the means were stored
    to_evaluate: bool = False  # an interval of a watch ended, and its job is not queued yet
    proved: bool = False  # whether a batch of it ended since it was taken

    @property
    def id(self) -> str:
        """The stream's id."""
        return self.video.id


class Latest(NamedTuple):
    """An encoded frame, for those after it in which hardly anything changed."""

    slot: int
    token: Rows  # (C,D)
    system: Rows  # (L,D)
    watches: dict[str, Rows]  # watch -> the question's rows


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
        self._watches_version = ""
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
        found = self._store.open_frames.list_new(
            {stream_id: stream.last_slot for stream_id, stream in self._streams.items()}
        )
        for stream_id, slots in found.items():
            stream = self._streams[stream_id]
            stream.waiting += slots
            stream.last_slot = slots[-1]
        batch = self._choose_batch()
        if batch:
            list(self._threads.map(lambda part: self._encode(*part), batch))
        for stream in self._streams.values():
            self._evaluate(stream)

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
        videos = self._store.read_videos(sorted(held))
        before, version = self._streams, self._store.watches.read_version()
        self._streams = {each.id: before.get(each.id) or self._take_over(each) for each in videos}
        changed = [each for each in self._streams if each not in before or version != self._watches_version]
        for stream_id, watches in self._store.watches.list_all(changed).items():
            self._streams[stream_id].watches.match(watches)
        self._watches_version = version

    def _take_over(self, video: Video) -> OpenStream:
        """Goes on where the worker before stopped, unless this stream's frames killed too many workers."""
        fingerprint, stream_id = self._encoder.fingerprint, video.id
        self._store.coverage.note_model(fingerprint)
        slots = self._store.open_frames.list_slots(stream_id)
        watches = WatchMeans(self._store, self._encoder, video.sample_fps, slots[0] if slots else 0)
        stream = OpenStream(video, watches, slots[-1] if slots else -1)
        encoded = set(self._store.open_frames.list_encoded(stream_id, fingerprint))
        known: set[int] = set()
        for segment, mask in masks_of(slots).items():
            mean = self._store.open_frames.read_system(stream_id, fingerprint, segment)
            there = set() if mean is None else set(slots_in({segment: mean.mask}))
            if mean is not None and there <= encoded and not mean.mask & ~mask:
                stream.systems[segment] = SystemSum()
                stream.systems[segment].add(mean.mask, mean.rows.astype(np.float32))
                known |= there
        waiting = [slot for slot in slots if slot not in known]
        # Only frames can kill a worker: a stream that brings none is no attempt.
        if waiting and self._attempts.begin(_job_id(stream_id)) > self._max_attempts:
            log.error("the open frames of %s are left to its segment's job: they killed workers", stream_id)
            self._attempts.clear(_job_id(stream_id))
            return stream
        stream.waiting = waiting
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
        read = self._store.open_frames.read_pictures(stream.id, segment, mask)
        frames = {first + place: frame for place, frame in read.items()}
        tokens: dict[int, Rows] = {}
        for static, slots in _group_static(frames, first, stream.latest):
            if static and stream.latest is not None:
                tokens |= dict.fromkeys(slots, stream.latest.token)
                self._add_system(stream, segment, slots, stream.latest.system)
                for slot in slots:
                    stream.watches.repeat(slot, stream.latest.watches)
            else:
                pictures = [read_open_picture(frames[slot], stream.id) for slot in slots]
                tokens |= self._run_model(stream, segment, slots, pictures)
        if tokens:
            halves = {slot: row.astype(np.float16) for slot, row in tokens.items()}
            self._store.open_frames.write_tokens(stream.id, self._encoder.fingerprint, halves)
        stream.unstored += len(tokens)
        over = first + mask.bit_length()
        if stream.unstored >= STORE_EVERY or over % SEGMENT_SLOTS == 0 or stream.watches.has_ended(over):
            self._store_means(stream, segment, over)

    def _run_model(
        self, stream: OpenStream, segment: int, slots: list[int], pictures: list[Picture]
    ) -> dict[int, Rows]:
        """Encodes these frames and fuses every text with them in one pass; returns the tokens by slot."""
        system, everything, last = self._encoder.system_text, range(len(slots)), [len(slots) - 1]
        wanted = stream.watches.list_wishes(slots)
        assert stream.video.capture is not None, "a stream has one"
        repeated = list(stream.watches.list_texts()) if stream.video.capture.static_threshold else []
        wishes: list[Wish] = [(system, everything), (system, last), *(each.wish for each in wanted)]
        encoded = self._encoder.encode_frames(
            pictures, [*wishes, *((ids, last) for _, ids, _ in repeated)], urgent=True
        )
        self._add_system(stream, segment, slots, encoded.means[0])
        for each, mean in zip(wanted, encoded.means[2 : len(wishes)], strict=True):
            stream.watches.add(each, mean)
        rows = zip(repeated, encoded.means[len(wishes) :], strict=True)
        fused = {watch_id: mean[first_row:] for (watch_id, _, first_row), mean in rows}
        stream.latest = Latest(slots[-1], encoded.tokens[-1], encoded.means[1], fused)
        return dict(zip(slots, encoded.tokens, strict=True))

    def _add_system(self, stream: OpenStream, segment: int, slots: list[int], rows: Rows) -> None:
        stream.systems.setdefault(segment, SystemSum()).add(masks_of(slots)[segment], rows)

    def _store_means(self, stream: OpenStream, segment: int, over: int) -> None:
        """Stores all means, the watches' first: a successor encodes again what the system prompt's mean lacks."""
        stream.to_evaluate = stream.watches.store(over) or stream.to_evaluate
        for number, each in list(stream.systems.items()):
            mean = SystemMean(each.mask, each.mean.rows.astype(np.float16))
            self._store.open_frames.write_system(stream.id, self._encoder.fingerprint, number, mean)
            if number < segment:
                del stream.systems[number]
        stream.unstored = 0

    def _evaluate(self, stream: OpenStream) -> None:
        """Queues the job that evaluates the watches, once an interval has ended, also by a gap."""
        grid = stream.video.grid
        over = grid.slot_at(grid.seconds(datetime.now(UTC)) - SETTLING_S)
        if not stream.waiting and stream.watches.has_ended(over):
            stream.to_evaluate = stream.watches.store(over) or stream.to_evaluate
        if stream.to_evaluate and self._inspector.queues.ensure([watch_call(stream.id)]):
            stream.to_evaluate = False


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
