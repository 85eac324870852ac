"""Fuses the standing questions of one stream with its frames as they are encoded: a mean for each interval."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from encoder_worker.encoder import Encoder
from encoder_worker.running_means import Rows, RunningMean
from encoder_worker.scheduler import Wish
from storage.live_documents import Watch
from storage.store import Store
from storage.watch_intervals import count_intervals, count_slots, find_interval
from storage.watches import IntervalMean


@dataclass
class Sums:
    """The means of one watch that are not complete."""

    watch: Watch
    ids: tuple[int, ...]
    first_row: int
    slots: int  # of an interval
    last_slot: int  # the last one that was added; earlier slots are not
    means: dict[int, RunningMean] = field(default_factory=dict)  # interval -> mean so far


class WatchWish(NamedTuple):
    """The frames of one interval that a watch's text is to be fused with."""

    sums: Sums
    interval: int
    slots: list[int]
    wish: Wish


class WatchMeans:
    """The sums of one stream's watches."""

    def __init__(self, store: Store, encoder: Encoder, sample_fps: float, next_slot: int) -> None:
        self._store = store
        self._encoder = encoder
        self._sample_fps = sample_fps
        self._next_slot = next_slot
        self._sums: dict[str, Sums] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    def match(self, watches: Sequence[Watch]) -> None:
        """Makes these the stream's watches. A new one begins with the next frame; `evaluate` fills in its past."""
        wanted = {watch.id: watch for watch in watches}
        for watch_id in [each for each, sums in self._sums.items() if wanted.get(each) != sums.watch]:
            del self._sums[watch_id]
        for watch in watches:
            if watch.id not in self._sums:
                self._sums[watch.id] = self._take_over(watch)

    def _take_over(self, watch: Watch) -> Sums:
        """Goes on with the mean of the present interval that the worker before stored."""
        ids, first_row = self._encoder.build_question(watch.question)
        slots = count_slots(watch, self._sample_fps)
        interval = find_interval(watch, self._sample_fps, max(self._next_slot, 0))
        span = range(interval, interval + 1)
        (known,) = self._store.watches.read_means([watch.id], self._encoder.fingerprint, span)
        sums = Sums(watch, ids, first_row, slots, self._next_slot - 1)
        if interval in known:
            sums.means[interval] = RunningMean()
            sums.means[interval].add(known[interval].frames, known[interval].rows.astype(np.float32))
            sums.last_slot = known[interval].last_slot
        return sums

    def list_wishes(self, slots: Sequence[int]) -> list[WatchWish]:
        """What to fuse with frames in these slots (ascending)."""
        wishes = []
        for sums in self._sums.values():
            by_interval: dict[int, list[int]] = {}
            for place, slot in enumerate(slots):
                if slot > sums.last_slot:
                    by_interval.setdefault(slot // sums.slots, []).append(place)
            for interval, places in by_interval.items():
                wishes.append(WatchWish(sums, interval, [slots[place] for place in places], (sums.ids, places)))
        return wishes

    def add(self, wish: WatchWish, mean: Rows) -> None:
        """Adds the mean rows of a wish, all of the prompt's."""
        self.add_rows(wish.sums, wish.interval, wish.slots, mean[wish.sums.first_row :])

    def add_rows(self, sums: Sums, interval: int, slots: Sequence[int], rows: Rows) -> None:
        """Adds the question's mean rows over these slots of an interval."""
        sums.means.setdefault(interval, RunningMean()).add(len(slots), rows)
        sums.last_slot = max(sums.last_slot, slots[-1])

    def repeat(self, slot: int, latest: dict[str, Rows]) -> None:
        """Adds to each watch the rows of the frame encoded last: hardly anything changed since."""
        for watch_id, sums in self._sums.items():
            if slot > sums.last_slot and watch_id in latest:
                self.add_rows(sums, slot // sums.slots, [slot], latest[watch_id])

    def list_texts(self) -> Iterator[tuple[str, tuple[int, ...], int]]:
        """(watch id, token ids, first row) of each watch."""
        for watch_id, sums in self._sums.items():
            yield watch_id, sums.ids, sums.first_row

    def store(self, over: int) -> bool:
        """Stores all means; forgets those of intervals that end before slot `over`. Returns whether there were such."""
        ended = False
        for sums in self._sums.values():
            means = {
                interval: IntervalMean(mean.frames, sums.last_slot, mean.rows.astype(np.float16))
                for interval, mean in sums.means.items()
            }
            self._store.watches.write_means(sums.watch, self._encoder.fingerprint, means)
            for interval in [each for each in sums.means if (each + 1) * sums.slots <= over]:
                del sums.means[interval]
                self._store.watches.forget_means(
                    sums.watch.id, self._encoder.fingerprint, interval - 2 * count_intervals(sums.watch)
                )
                ended = True
        return ended

    def has_ended(self, over: int) -> bool:
        """Whether an interval with frames ended before slot `over`."""
        return any((each + 1) * sums.slots <= over for sums in self._sums.values() for each in sums.means)
