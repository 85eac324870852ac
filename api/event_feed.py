"""Reads the log of events once for all listeners of this process, however many there are."""

import asyncio
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator
from operator import attrgetter
from typing import NamedTuple

from anyio.to_thread import run_sync

from api.views import as_json, view_event
from configs.settings import EventSettings
from storage.errors import LongwatchError, NotFound, StateRebuilding
from storage.store import Store

log = logging.getLogger(__name__)

HELD_EVENTS = 2000  # the newest; a listener that is further behind reads the log itself
AT_ONCE = 200
LOOK_FOR_DELETIONS_S = 2.0
REBUILD_LOOK_S = 0.5


class Shown(NamedTuple):
    """An event as listeners get it: turned into JSON once for all of them."""

    id: str
    type: str
    stream_id: str
    data: str


class EventFeed:
    """The newest events, for all listeners. Nothing is read while nobody listens.

    Listeners share the events and remember only how far they are. One that is slow costs nothing until it goes on; if
    the events that it needs are no longer held then, it reads them from the log at its own pace.
    """

    def __init__(self, store: Store, settings: EventSettings) -> None:
        self._store = store
        self._poll_interval_s = settings.poll_interval_s
        self._followed: Counter[str | None] = Counter()  # stream id (None: all streams) -> how many listeners
        self._reading: _Reading | None = None
        self._poller: asyncio.Task[None] | None = None

    async def follow(self, after_id: str | None, stream_id: str | None) -> AsyncIterator[Shown | str]:
        """Yields the id to resume from, then each event after `after_id` (None: from now on), as it comes.

        Raises NotFound when the stream is deleted, and whatever stops the reading.
        """
        self._followed[stream_id] += 1
        try:
            reading = self._join()
            cursor = after_id if after_id is not None else await self._read_horizon()
            yield cursor
            async for event in self._follow(reading, cursor, stream_id):
                yield event
        finally:
            self._followed[stream_id] -= 1
            if not self._followed[stream_id]:
                del self._followed[stream_id]

    def _join(self) -> "_Reading":
        if self._reading is None or self._poller is None or self._poller.done():
            self._reading = _Reading()
            self._poller = asyncio.create_task(self._poll(self._reading), name="events")
        return self._reading

    async def _follow(self, reading: "_Reading", cursor: str, stream_id: str | None) -> AsyncIterator[Shown]:
        while True:
            if reading.failure is not None:
                raise reading.failure
            if stream_id in reading.deleted:
                raise NotFound(f"stream {stream_id} was deleted")
            changed = reading.changed
            if reading.floor is None:
                await changed.wait()
            elif cursor < (floor := reading.floor):
                page = await self._read_page(cursor, stream_id)
                for event in page:
                    yield event
                    cursor = event.id
                if len(page) < AT_ONCE:  # it has caught up with what was held when it looked
                    cursor = max(cursor, floor)
            elif fresh := reading.after(cursor):
                for event in fresh:
                    if stream_id in (None, event.stream_id):
                        yield event
                cursor = fresh[-1].id
            else:
                await changed.wait()

    async def _read_page(self, cursor: str, stream_id: str | None) -> list[Shown]:
        while True:
            try:
                return await run_sync(self._read, cursor, stream_id)
            except StateRebuilding:  # nothing is lost meanwhile
                await asyncio.sleep(REBUILD_LOOK_S)

    def _read(self, cursor: str, stream_id: str | None) -> list[Shown]:
        found = self._store.events.read(cursor, AT_ONCE, stream_id)
        return [Shown(event.id, event.type, event.stream_id, as_json(view_event(event))) for event in found]

    async def _read_horizon(self) -> str:
        while True:
            try:
                return await run_sync(self._store.events.read_horizon)
            except StateRebuilding:
                await asyncio.sleep(REBUILD_LOOK_S)

    async def _poll(self, reading: "_Reading") -> None:
        """Reads new events as long as somebody listens."""
        try:
            reading.begin(await self._read_horizon())
            looked_at = asyncio.get_running_loop().time()
            while self._followed:
                found = await self._read_page(reading.reached, None)
                if found:
                    reading.add(found)
                now = asyncio.get_running_loop().time()
                if now - looked_at > LOOK_FOR_DELETIONS_S:
                    looked_at = now
                    stream_ids = [stream_id for stream_id in self._followed if stream_id is not None]
                    reading.note_deleted(await run_sync(self._store.index.list_deleted, stream_ids))
                if len(found) < AT_ONCE:
                    await asyncio.sleep(self._poll_interval_s)
        except LongwatchError as error:
            reading.fail(error)
        except Exception as error:
            log.exception("the events cannot be read")
            reading.fail(error)


class _Reading:
    """What one poller has read, from its start to its end."""

    def __init__(self) -> None:
        self.floor: str | None = None  # all events after this id are held
        self.reached = ""  # the id of the last event that was read
        self.failure: Exception | None = None
        self.deleted: frozenset[str] = frozenset()
        self.changed = asyncio.Event()  # replaced at each change
        self._events: list[Shown] = []

    def begin(self, horizon: str) -> None:
        self.floor = self.reached = horizon
        self._tell()

    def add(self, events: list[Shown]) -> None:
        self._events += events
        self.reached = events[-1].id
        if len(self._events) > 2 * HELD_EVENTS:
            self.floor = self._events[-HELD_EVENTS - 1].id
            self._events = self._events[-HELD_EVENTS:]
        self._tell()

    def note_deleted(self, stream_ids: list[str]) -> None:
        if self.deleted != frozenset(stream_ids):
            self.deleted = frozenset(stream_ids)
            self._tell()

    def fail(self, error: Exception) -> None:
        self.failure = error
        self._tell()

    def after(self, cursor: str) -> list[Shown]:
        return self._events[bisect_right(self._events, cursor, key=attrgetter("id")) :]

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
