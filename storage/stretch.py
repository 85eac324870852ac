"""The stretch that a question is about: which of its frames are encoded, and whether it can be answered."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from storage.coverage import Covered
from storage.documents import Question, Video
from storage.store import Store
from storage.timeline import SEGMENT_SLOTS, find_gaps, mask_within, segments_of

SETTLING_S = 3.0  # a slot of a stream that is older and has no frame will get none, except from another host's spool
LAST = 2**31  # beyond every segment, and still an offset that Redis accepts


@dataclass(frozen=True)
class Stretch:
    """Slots of the video that holds the frames, and what is known of their segments."""

    holder: Video
    slots: range
    open_end: bool  # it lasts to the end of the video, wherever that will be
    covered: Covered
    ends_in_s: float = 0.0  # of a stream: how long until the stretch is over

    @property
    def last_segment(self) -> int | None:
        """The last segment it needs; None: all of the video."""
        return None if self.open_end or not self.slots else (self.slots.stop - 1) // SEGMENT_SLOTS

    def awaited_segment(self, *, partial: bool) -> int | None:
        """The question can be answered once all segments up to this one are encoded; None: all of the video.

        With `partial` its first segment is enough.
        """
        return self.slots.start // SEGMENT_SLOTS if partial else self.last_segment

    @property
    def masks(self) -> dict[int, int]:
        """Segment -> mask of the stretch's encoded frames, ascending."""
        return {segment: mask for segment in self._sampled if (mask := self._sampled[segment] & self._encoded(segment))}

    @property
    def gaps(self) -> list[range]:
        """Slots of a stream's stretch that have no frame, up to now."""
        return find_gaps(self.covered.sampled, range(self.slots.start, min(self.slots.stop, self._next_slot)))

    @cached_property
    def _sampled(self) -> dict[int, int]:
        """Segment -> mask of the stretch's frames, ascending."""
        masks = {segment: mask & mask_within(self.slots, segment) for segment, mask in self.covered.sampled.items()}
        return {segment: mask for segment, mask in masks.items() if mask}

    def _encoded(self, segment: int) -> int:
        return self.covered.encoded.get(segment, 0)

    @property
    def _next_slot(self) -> int:
        """The first slot that a stream cannot have filled yet."""
        if not self.holder.is_live:
            return self.slots.stop
        return self.holder.grid.slot_at(self.holder.grid.seconds(datetime.now(UTC)) - SETTLING_S)

    @property
    def frames_expected(self) -> int | None:
        """Frames that the stretch has in the end; None while the length of the video is not known."""
        if self.holder.is_live:
            coming = range(max(self.slots.start, self._next_slot), self.slots.stop)
            return sum(mask.bit_count() for mask in self._sampled.values()) + len(coming)
        total = self._frames_of_video
        if total is None:
            return None
        return len(range(self.slots.start, total if self.open_end else min(total, self.slots.stop)))

    @property
    def frames_missing(self) -> int:
        """Frames of the stretch that are not encoded; those still to be sampled too, once the length is known."""
        sampled = sum(mask.bit_count() for mask in self._sampled.values())
        growing = not self.holder.settled and not self.holder.is_live and self._frames_of_video is not None
        expected = (growing and self.frames_expected) or 0
        return max(sampled, expected) - sum(mask.bit_count() for mask in self.masks.values())

    @property
    def _frames_of_video(self) -> int | None:
        holder = self.holder
        return holder.frames_expected if holder.frames_sampled is None else holder.frames_sampled

    @property
    def is_complete(self) -> bool:
        """Whether it will get no more frames: all are sampled, and encoded or given up."""
        if self.holder.is_live:
            pending = (
                s for s, mask in self._sampled.items() if mask & ~self._encoded(s) and s not in self.covered.failed
            )
            return self.ends_in_s <= 0 and next(pending, None) is None
        sampled = all(segment in self.covered.sampled for segment in segments_of(self.slots))
        return (self.holder.settled or (sampled and not self.open_end)) and not self.covered.missing()

    def is_ready(self, *, partial: bool) -> bool:
        """Whether a question can be answered: from all of it or, with `partial`, from the frames encoded so far."""
        return self.is_complete or (partial and bool(self.masks))


def find_stretch(store: Store, question: Question, holder: Video, fingerprint: str) -> Stretch:
    """The stretch that the question is about, in its present state."""
    grid, open_end = holder.grid, question.end_s is None
    last_s = grid.segment_start_s(LAST)
    end_s = last_s if question.end_s is None else min(question.end_s, last_s)
    slots = grid.slots_between(question.start_s, end_s)
    covered = store.read_coverage(holder, segments_of(slots), fingerprint)
    if holder.is_live and not open_end:
        return Stretch(holder, slots, False, covered, end_s - grid.seconds(datetime.now(UTC)))
    if open_end or holder.settled:
        slots = grid.slots_between(question.start_s, min(end_s, grid.segment_start_s(covered.segments)))
    return Stretch(holder, slots, open_end, covered)
