"""Captures this host's share of the streams: one thread decides which, another looks after their processes."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from typing import cast

from configs.settings import Settings
from ingest.cameras.camera import Camera, Wanted, start_forkserver
from ingest.cameras.outbox import Outbox
from ingest.cameras.publisher import Publisher
from jobs.shares import plan_share
from storage.documents import Video
from storage.errors import DamagedFile, LongwatchError, NewerDocument, NotFound
from storage.lag import find_lag_s
from storage.live_documents import Event, StreamState
from storage.store import Store

log = logging.getLogger(__name__)

ASSIGN_S = 2.0  # between two looks at which streams are ours
WATCH_S = 0.25  # between two looks at the processes, when none of them says anything
MEASURE_S = 5.0  # between two looks at how far the encoders are behind
RELOAD_S = 60.0  # documents are read again this often, even if no change was noticed
KIND = "capture"  # of the workers that share the streams


class Supervisor:
    """Two threads: `assign_forever` talks to Redis and the archive, `watch_forever` only to the processes."""

    def __init__(self, settings: Settings, store: Store, publisher: Publisher, holder: str) -> None:
        self._settings = settings
        self._store = store
        self._publisher = publisher
        self._holder = holder
        self._outbox = Outbox(settings.spool_dir)
        self._wanted: Mapping[str, Wanted] = {}  # replaced as a whole by one thread, read by the other
        self._last_slots: Mapping[str, int] = {}
        self._states: Mapping[str, StreamState] = {}  # the other way round
        self._known: dict[str, Wanted] = {}
        self._version, self._loaded_at = "", float("-inf")
        self._streams: list[Video] = []
        self._lags: dict[str, float] = {}
        self._late: set[str] = set()  # streams whose lag was reported
        self._measured_at = float("-inf")

    # which streams

    def assign_forever(self, stop: threading.Event) -> None:
        """Takes its share of the streams, and says how they are. While Redis is away, it keeps the cameras it has."""
        while not stop.is_set():
            try:
                self.assign()
            except LongwatchError as error:
                log.error("the cameras stay as they are: %s", error)
            except Exception:
                log.exception("the cameras stay as they are")
            stop.wait(ASSIGN_S)

    def assign(self) -> None:
        """One look at the streams, their leases, and the cameras of this host."""
        self._load_streams()
        by_id = {stream.id: stream for stream in self._streams}
        holders = self._store.captures.find_holders(list(by_id))
        mine = [stream_id for stream_id in by_id if holders.get(stream_id) == self._holder]
        free = [stream_id for stream_id in by_id if stream_id not in holders]
        workers = [worker.name for worker in self._store.workers.list_alive() if worker.kind == KIND]
        most = self._settings.cameras.max_captures
        change = plan_share(mine, free, len(by_id), len({*workers, self._holder}), most)
        keep = [stream_id for stream_id in mine if stream_id not in change.release]
        lease_s = self._settings.cameras.lease_s
        held = self._store.captures.hold([*keep, *change.take], self._holder, lease_s)
        self._measure_lag([by_id[stream_id] for stream_id in sorted(held)])
        self._want({stream_id: by_id[stream_id] for stream_id in sorted(held)})
        self._store.captures.release(change.release, self._holder)
        said = {each: state for each, state in self._states.items() if each in held}
        self._store.stream_states.write(
            {each: state.model_copy(update={"lag_s": self._lags.get(each, 0.0)}) for each, state in said.items()}
        )
        self._publisher.look_after([by_id[stream_id] for stream_id in sorted(held)])

    def _measure_lag(self, streams: Sequence[Video]) -> None:
        """Looks how far the encoders are behind; an event says when that is too far, and when it is over."""
        if time.monotonic() - self._measured_at < MEASURE_S:
            return
        self._measured_at, limit_s = time.monotonic(), self._settings.cameras.lag_s
        for stream in streams:
            before, lag_s = self._lags.get(stream.id, 0.0), find_lag_s(self._store, stream)
            self._lags[stream.id] = lag_s
            if lag_s > limit_s and stream.id not in self._late:
                self._late.add(stream.id)
                self._tell_lag(stream, f"frames wait {lag_s:.0f} s for an encoder worker: start another one")
            elif lag_s <= limit_s / 2 and before <= limit_s / 2 and stream.id in self._late:
                self._late.discard(stream.id)
                self._tell_lag(stream, "the encoder workers have caught up")

    def _tell_lag(self, stream: Video, message: str) -> None:
        now = datetime.now(UTC)
        self._outbox.put(Event(id="", type="lag", stream_id=stream.id, at=now, message=message))

    def _load_streams(self) -> None:
        """Reads the documents of all streams that are not paused, if any has changed."""
        version = self._store.index.read_streams_version()
        if version == self._version and time.monotonic() - self._loaded_at < RELOAD_S:
            return
        found = self._store.index.list_streams(None, self._settings.cameras.max_streams)
        streams = self._store.read_videos(found)
        self._streams = [stream for stream in streams if stream.capture is not None and not stream.capture.paused]
        self._version, self._loaded_at = version, time.monotonic()

    def _want(self, streams: Mapping[str, Video]) -> None:
        """Hands the streams to the other thread, with the credentials, which are read when they may have changed."""
        for stream_id, stream in streams.items():
            before = self._known.get(stream_id)
            if before is None or _revision(before.stream) != _revision(stream):
                try:
                    credentials = self._store.archive.read_credentials(stream_id)
                except (NotFound, DamagedFile, NewerDocument) as error:
                    log.error("stream %s cannot be captured: %s", stream_id, error)
                    continue
                if before is None:
                    slots = self._store.open_frames.list_slots(stream_id)
                    self._last_slots = {**self._last_slots, stream_id: slots[-1] if slots else -1}
            else:
                credentials = before.credentials
            self._known[stream_id] = Wanted(stream, credentials)
        self._known = {stream_id: self._known[stream_id] for stream_id in streams if stream_id in self._known}
        self._wanted = dict(self._known)

    # their processes

    def watch_forever(self, stop: threading.Event) -> None:
        """Starts, watches and ends the processes until `stop` is set."""
        cameras: dict[str, Camera] = {}
        context = start_forkserver()
        try:
            while not stop.is_set():
                try:
                    self._match(cameras, self._wanted, context)
                    self._watch(cameras)
                except Exception:
                    log.exception("a look at the cameras failed; the next one follows")
                    stop.wait(WATCH_S)
        finally:
            for camera in cameras.values():
                camera.stop()

    def _match(self, cameras: dict[str, Camera], wanted: Mapping[str, Wanted], context: ForkServerContext) -> None:
        """Makes the cameras those that are wanted, as they are wanted."""
        for stream_id in list(cameras):
            now = wanted.get(stream_id)
            if now is None or _revision(now.stream) != _revision(cameras[stream_id].stream):
                cameras.pop(stream_id).stop()
            else:
                cameras[stream_id].wanted = now
        for stream_id, each in wanted.items():
            if stream_id not in cameras:
                last_slot = self._last_slots.get(stream_id, -1)
                cameras[stream_id] = Camera(
                    each, self._settings, context, self._outbox.put, self._publisher.note_frame, last_slot
                )

    def _watch(self, cameras: Mapping[str, Camera]) -> None:
        by_connection = {camera.connection: camera for camera in cameras.values() if camera.connection is not None}
        if by_connection:
            for ready in wait(list(by_connection), WATCH_S):
                by_connection[cast(Connection, ready)].receive()
        else:
            time.sleep(WATCH_S)
        for camera in cameras.values():
            camera.tick()
        self._states = {stream_id: camera.describe() for stream_id, camera in cameras.items()}


def _revision(stream: Video) -> tuple[object, ...]:
    assert stream.capture is not None, "a stream has one"
    return stream.capture.revision, stream.location
