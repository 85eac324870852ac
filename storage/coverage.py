"""Which segments of a video are sampled and encoded: bitmaps in Redis, read for a stretch, counted for a video."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from storage import coverage_scripts
from storage.connection import as_text, redis_errors
from storage.index import deleted_key
from storage.open_frames import open_slots_key, open_tokens_key
from storage.timeline import FULL_MASK, SEGMENT_SLOTS, masks_of

log = logging.getLogger(__name__)

IDLE_S = 600  # no segment encoded for so long: the workers were off, or busy with other videos
MODELS = "lw:models"  # set of the fingerprints of all models that ever encoded here


@dataclass(frozen=True)
class Pace:
    """Encoding speed since the last pause of `IDLE_S` seconds, by the marks of encoded segments (epoch seconds)."""

    since_s: float
    last_s: float
    frames: int  # encoded after the first of these marks


@dataclass(frozen=True)
class Totals:
    """How many frames of a video are sampled, encoded, and given up; and the current encoding speed."""

    sampled: int
    encoded: int
    failed: int
    encoded_segments: int  # from the start, without a gap
    pace: Pace | None  # None: nothing is encoded


@dataclass(frozen=True)
class Covered:
    """What is known of the segments of a stretch."""

    sampled: dict[int, int]  # segment -> mask of its frames; of a stream, with those that the archive lacks so far
    encoded: dict[int, int]  # segment -> mask of the frames that have tokens
    recorded: frozenset[int]  # segments whose record the archive holds
    failed: dict[int, str]  # segment -> why it could not be encoded
    segments: int = 0  # of the whole video: the last sampled segment's number plus one, rounded up to a multiple of 8
    totals: Totals | None = None  # of the whole video; None: the marks are incomplete

    def missing(self) -> list[int]:
        """Sampled segments that are not completely encoded, ascending."""
        return [
            segment
            for segment, mask in self.sampled.items()
            if mask & ~self.encoded.get(segment, 0) and segment not in self.failed
        ]


class Coverage:
    """Sets and reads the marks. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._mark = redis.register_script(coverage_scripts.MARK)
        self._unmark = redis.register_script(coverage_scripts.UNMARK)
        self._read = redis.register_script(coverage_scripts.READ)
        self._totals = redis.register_script(coverage_scripts.TOTALS)
        self._pending = redis.register_script(coverage_scripts.PENDING)
        self._counted = redis.register_script(coverage_scripts.COUNTED)
        self._fail = redis.register_script(coverage_scripts.FAIL)
        self._mark_live = redis.register_script(coverage_scripts.MARK_LIVE)
        self._remove = redis.register_script(coverage_scripts.REMOVE)

    def mark_sampled(self, video_id: str, masks: Mapping[int, int]) -> None:
        """Marks these segments (segment -> mask) as sampled: the archive holds their frames."""
        self._set(_sampled_key(video_id), video_id, masks, "sampled", ())

    def mark_live(self, video_id: str, segment: int, mask: int) -> None:
        """Marks a stream's segment as sampled. If it had fewer frames before, it counts as not encoded again."""
        marks, counters = self._list_marks(video_id)
        keys = [_sampled_key(video_id), _totals_key(video_id), _partial_key(video_id), deleted_key(video_id), *marks]
        with redis_errors():
            self._mark_live(keys=keys, args=[segment, f"{mask:016x}", mask.bit_count(), *counters])

    def remove_segment(self, video_id: str, segment: int, mask: int) -> None:
        """Removes all marks of a segment that retention removed."""
        marks, counters = self._list_marks(video_id)
        keys = [_sampled_key(video_id), _totals_key(video_id), _partial_key(video_id), *marks]
        with redis_errors():
            self._remove(keys=keys, args=[segment, mask.bit_count(), *counters])

    def list_models(self) -> list[str]:
        """The fingerprints of all models that ever encoded here."""
        with redis_errors():
            return sorted(as_text(fingerprint) for fingerprint in self._redis.smembers(MODELS))

    def note_model(self, fingerprint: str) -> None:
        """Notes that this model encodes here, so that what it leaves in Redis can be found."""
        with redis_errors():
            self._redis.sadd(MODELS, fingerprint)

    def _list_marks(self, video_id: str) -> tuple[list[str], list[str]]:
        """Returns the keys of the marks of encoded segments, one for each model, and the names of their counters."""
        models = self.list_models()
        return [_encoded_key(video_id, model) for model in models], [f"encoded:{model}" for model in models]

    def mark_encoded(self, video_id: str, masks: Mapping[int, int], fingerprint: str) -> None:
        """Marks these segments (segment -> mask) as encoded: the archive holds this model's records of them."""
        more = (_failed_key(video_id, fingerprint), MODELS)
        self._set(_encoded_key(video_id, fingerprint), video_id, masks, f"encoded:{fingerprint}", more)

    def unmark_encoded(self, video_id: str, segment: int, mask: int, fingerprint: str) -> None:
        """Removes the mark of an encoded segment: its record was lost or damaged."""
        with redis_errors():
            self._unmark(
                keys=[_encoded_key(video_id, fingerprint), _totals_key(video_id)],
                args=[segment, f"encoded:{fingerprint}", mask.bit_count()],
            )

    def mark_failed(self, video_id: str, segment: int, mask: int, fingerprint: str, reason: str) -> None:
        """Marks the segment as failed: it could not be encoded."""
        keys = [_failed_key(video_id, fingerprint), deleted_key(video_id), MODELS]
        with redis_errors():
            self._fail(keys=keys, args=[segment, f"{mask.bit_count()}:{reason}", fingerprint])

    def clear_failed(self, video_id: str, fingerprint: str) -> None:
        """Removes the marks of failed segments, so that they are tried again."""
        with redis_errors():
            self._redis.delete(_failed_key(video_id, fingerprint))

    def set_counted(self, video_id: str) -> None:
        """Notes that the video's marks are complete: they were made while it was sampled, or read from the archive."""
        with redis_errors():
            self._counted(keys=[_totals_key(video_id), deleted_key(video_id)])

    def is_counted(self, video_id: str) -> bool:
        """Whether the video's marks are complete. A flush removes them."""
        with redis_errors():
            return bool(self._redis.hexists(_totals_key(video_id), "counted"))

    def read_totals(self, video_ids: Sequence[str], fingerprint: str) -> list[Totals | None]:
        """The totals of each video, None if its marks are incomplete; with one command."""
        if not video_ids:
            return []
        keys: list[str] = []
        for video_id in video_ids:
            keys += [_totals_key(video_id), _failed_key(video_id, fingerprint), _encoded_key(video_id, fingerprint)]
        with redis_errors():
            found = self._totals(keys=keys)
        return [_totals([_pairs(reply[0]), *reply[1:]], fingerprint) for reply in found]

    def read(self, video_id: str, segments: range, fingerprint: str) -> Covered:
        """What is known of the segments of a stretch, with one command."""
        if not segments:
            return Covered({}, {}, frozenset(), {})
        with redis_errors():
            sampled, encoded, partial, failed, length, *totals, captured, tokens = self._read(
                keys=[
                    _sampled_key(video_id),
                    _encoded_key(video_id, fingerprint),
                    _partial_key(video_id),
                    _failed_key(video_id, fingerprint),
                    _totals_key(video_id),
                    open_slots_key(video_id),
                    open_tokens_key(video_id, fingerprint),
                ],
                args=[segments.start, segments.stop - 1],
            )
        offset = segments.start // 8 * 8
        masks = dict.fromkeys(_bits(sampled, offset, segments), FULL_MASK)
        masks |= {segment: mask for segment, mask in map(_partial, partial) if segment in masks}
        recorded = frozenset(_bits(encoded, offset, segments))
        done = {segment: masks[segment] for segment in recorded if segment in masks}
        _add_masks(masks, map(int, captured), segments)
        _add_masks(
            done,
            (slot for slot in map(int, tokens) if masks.get(slot // SEGMENT_SLOTS, 0) >> slot % SEGMENT_SLOTS & 1),
            segments,
        )
        values = _pairs(failed)
        reasons = {int(segment): as_text(value).partition(":")[2] for segment, value in values.items()}
        return Covered(
            dict(sorted(masks.items())),
            dict(sorted(done.items())),
            recorded,
            {segment: reason for segment, reason in sorted(reasons.items()) if segment in segments},
            8 * int(length),
            _totals([_pairs(totals[0]), list(values.values()), *totals[1:]], fingerprint),
        )

    def count_sampled(self, video_id: str) -> int:
        """How many frames are sampled."""
        with redis_errors():
            return int(self._redis.hget(_totals_key(video_id), "sampled") or 0)

    def count_segments(self, video_id: str) -> int:
        """The number of the last sampled segment plus one, rounded up to a multiple of 8."""
        with redis_errors():
            return 8 * int(self._redis.strlen(_sampled_key(video_id)))

    def list_pending(
        self, video_ids: Sequence[str], fingerprint: str, count: int, newest_first: Collection[str] = ()
    ) -> list[list[int] | None]:
        """For each video, up to `count` segments that are sampled but neither encoded nor given up, ascending.

        Of the videos in `newest_first` the last ones, descending. None for a video whose marks are incomplete or
        damaged. One command reads all videos.
        """
        if not video_ids:
            return []
        keys: list[str] = []
        for video_id in video_ids:
            keys += [_sampled_key(video_id), _encoded_key(video_id, fingerprint)]
            keys += [_failed_key(video_id, fingerprint), _totals_key(video_id)]
        with redis_errors():
            found = self._pending(keys=keys)
        return [
            _gaps(reply[1:], count, descending=video_id in newest_first) if reply and reply[0] else None
            for video_id, reply in zip(video_ids, found, strict=True)
        ]

    def find_models(self) -> None:
        """Rebuilds the set of fingerprints from the existing keys, after its value was damaged."""
        log.error("%s in Redis is damaged and is rebuilt", MODELS)
        with redis_errors():
            self._redis.delete(MODELS)
            for pattern in ("lw:encoded:*", "lw:failed:*"):
                for key in self._redis.scan_iter(pattern, count=1000):
                    self._redis.sadd(MODELS, key.split(b":")[2])

    def forget(self, video_id: str) -> None:
        """Removes every mark of the video."""
        with redis_errors():
            keys = [_sampled_key(video_id), _partial_key(video_id), _totals_key(video_id)]
            if self._redis.type(MODELS) not in (b"set", b"none"):
                self.find_models()
            for fingerprint in map(as_text, self._redis.smembers(MODELS)):
                keys += [_encoded_key(video_id, fingerprint), _failed_key(video_id, fingerprint)]
            self._redis.delete(*keys)

    def _set(self, key: str, video_id: str, masks: Mapping[int, int], counter: str, more_keys: Sequence[str]) -> None:
        if not masks:
            return
        marks = [
            word
            for segment, mask in masks.items()
            for word in (segment, mask.bit_count(), "" if mask == FULL_MASK else f"{mask:016x}")
        ]
        with redis_errors():
            self._mark(
                keys=[key, _totals_key(video_id), _partial_key(video_id), deleted_key(video_id), *more_keys],
                args=[counter, IDLE_S, *marks],
            )


def _totals(replies: list[Any], fingerprint: str) -> Totals | None:
    raw, failed, first_gap, encoded_bytes = replies
    counts = {as_text(name): int(value) for name, value in raw.items()}
    if "counted" not in counts:
        return None
    encoded = f"encoded:{fingerprint}"
    marks = [counts.get(f"{encoded}:{name}") for name in ("since", "last", "base")]
    return Totals(
        counts.get("sampled", 0),
        counts.get(encoded, 0),
        sum(int(as_text(value).partition(":")[0]) for value in failed),
        first_gap if first_gap >= 0 and encoded_bytes else 8 * encoded_bytes,
        _pace(counts.get(encoded, 0), *marks),
    )


def _pace(encoded: int, since_s: int | None, last_s: int | None, base: int | None) -> Pace | None:
    if since_s is None or last_s is None or base is None:
        return None
    return Pace(since_s, last_s, encoded - base)


def _gaps(replies: Sequence[Any], count: int, *, descending: bool) -> list[int]:
    """The first or last `count` bits that are set in the first reply, not in the second, not listed in the third."""
    sampled, encoded, failed = replies
    size = len(sampled)
    done = int.from_bytes(encoded[:size].ljust(size, b"\0"), "big")
    open_bits = int.from_bytes(sampled, "big") & ~done
    if not open_bits:
        return []
    given_up = {int(segment) for segment in failed}
    missing = _bits(open_bits.to_bytes(size, "big"), 0, range(8 * size))
    left = [segment for segment in missing if segment not in given_up]
    return left[::-1][:count] if descending else left[:count]


def _pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    """An HGETALL reply as a dict; a script returns it as a flat list."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _bits(data: bytes, offset: int, segments: range) -> list[int]:
    """The numbers of the bits that are set; the first bit of `data` is number `offset`."""
    found = (
        offset + 8 * at + place for at, byte in enumerate(data) if byte for place in range(8) if byte >> (7 - place) & 1
    )
    return [number for number in found if number in segments]


def _add_masks(masks: dict[int, int], slots: Iterable[int], segments: range) -> None:
    for segment, mask in masks_of(slots).items():
        if segment in segments:
            masks[segment] = masks.get(segment, 0) | mask


def _partial(member: bytes) -> tuple[int, int]:
    segment, _, mask = as_text(member).partition(":")
    return int(segment), int(mask, 16)


def _sampled_key(video_id: str) -> str:
    return f"lw:sampled:{video_id}"


def _partial_key(video_id: str) -> str:
    return f"lw:partial:{video_id}"


def _totals_key(video_id: str) -> str:
    return f"lw:totals:{video_id}"


def _encoded_key(video_id: str, fingerprint: str) -> str:
    return f"lw:encoded:{fingerprint}:{video_id}"


def _failed_key(video_id: str, fingerprint: str) -> str:
    return f"lw:failed:{fingerprint}:{video_id}"
