"""The reasoner's job for standing questions: evaluates all watches of a stream that are due, as one batch."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from configs.settings import Settings
from llava_mini.errors import NonFinite, PromptTooLong
from llava_mini.prompt import PromptIds
from reasoner.engine import Engine
from reasoner.evidence_frames import list_evidence
from reasoner.focus import Array, Frame
from reasoner.gathering import EncoderMissing, FusionFailed, RecordLost
from reasoner.packed_answers import Reply
from reasoner.watch_rules import judge
from reasoner.watch_windows import Window, open_window, pool_means
from storage.coverage import Covered
from storage.documents import Video
from storage.errors import NotFound
from storage.live_documents import Event, Watch
from storage.store import Store
from storage.timeline import mask_within, segments_of
from storage.watch_intervals import count_slots, list_window, slots_of
from storage.watches import Evaluation, IntervalMean, WatchStatus

log = logging.getLogger(__name__)

MOST_LATE = 2  # intervals that are looked at, newest first: older ones are skipped when the reasoner is behind
MOST_ROUNDS = 3  # of one job; then others get a turn
CLIP_MARGIN_S = 5.0  # of an event's clip, before and after its window


@dataclass(frozen=True)
class Due:
    """A watch whose interval has ended."""

    watch: Watch
    status: WatchStatus
    interval: int
    prompt: PromptIds


class WatchJobs:
    """`evaluate_watches`."""

    def __init__(self, settings: Settings, store: Store, engine: Engine) -> None:
        self._settings = settings
        self._store = store
        self._engine = engine

    def evaluate_watches(self, stream_id: str) -> None:
        """Evaluates the stream's watches whose interval has ended, each over its own window."""
        try:
            stream = self._store.read_stream(stream_id)
            for _ in range(MOST_ROUNDS):
                due = self._find_due(stream)
                if not due:
                    return
                for together in _group_by_window(due, stream):
                    self._evaluate(stream, together)
        except NotFound:
            log.info("stream %s was deleted meanwhile", stream_id)

    def give_up_watches(self, reason: str, stream_id: str) -> None:
        """Publishes why the watches could not be evaluated. The next interval tries again."""
        now = datetime.now(UTC)
        message = f"the standing questions could not be evaluated: {reason}; see logs/reasoner.log in data_dir"
        event = Event(id="", type="error", stream_id=stream_id, at=now, message=message)
        try:
            self._store.events.publish(event, f"watches:{now:%Y%m%d-%H%M}")
        except NotFound:
            log.info("stream %s was deleted meanwhile", stream_id)

    def _find_due(self, stream: Video) -> list[Due]:
        """The watches that are due, with the newest interval whose frames are all fused."""
        watches = self._store.watches.list_watches(stream.id)
        if not watches:
            return []
        statuses = self._store.watches.read_status([watch.id for watch in watches])
        now_slot = stream.grid.slot_at(stream.grid.seconds(datetime.now(UTC)))
        # An interval is over once its last slot is fused, which is half a slot before the clock says so.
        last = {watch.id: (now_slot + 1) // count_slots(watch, stream.sample_fps) - 1 for watch in watches}
        oldest = min(
            slots_of(w, stream.sample_fps, range(last[w.id] + 1 - MOST_LATE, last[w.id] + 1)).start for w in watches
        )
        span = range(max(oldest, 0), max(now_slot + 1, 0))
        covered = self._store.read_coverage(stream, segments_of(span), self._engine.fingerprint)
        due = []
        for watch, status in zip(watches, statuses, strict=True):
            first = max(status.interval + 1, last[watch.id] + 1 - MOST_LATE, 0)
            intervals = range(first, last[watch.id] + 1)
            (means,) = self._store.watches.read_means([watch.id], self._engine.fingerprint, intervals)
            ready = [
                each for each in reversed(intervals) if self._is_fused(watch, stream, covered, means, each, now_slot)
            ]
            if ready:
                due.append(Due(watch, status, ready[0], self._engine.build_prompt([(watch.question, None)])))
        return due

    def _is_fused(
        self,
        watch: Watch,
        stream: Video,
        covered: Covered,
        means: Mapping[int, IntervalMean],
        interval: int,
        now_slot: int,
    ) -> bool:
        """Whether the interval has frames, and the watch's mean has all that the encoder will add to it."""
        if interval not in means:
            return False
        slots = slots_of(watch, stream.sample_fps, range(interval, interval + 1))
        later = range(max(slots.start, means[interval].last_slot + 1), slots.stop)
        if later and slots.stop > now_slot:
            return False  # more frames may come
        return not any(
            covered.sampled.get(segment, 0) & ~covered.encoded.get(segment, 0) & mask_within(later, segment)
            for segment in segments_of(later)
        )

    def _evaluate(self, stream: Video, together: Sequence[Due]) -> None:
        """Answers watches with the same window as one batch over one prefix."""
        window = open_window(self._settings, self._store, self._engine, stream, _window_slots(together[0], stream))
        if window is None:
            return
        asked: list[tuple[Due, Array]] = []
        for due in together:
            try:
                self._engine.require_fit(len(window.frames), due.prompt, self._settings.watches.max_tokens)
                asked.append((due, self._pool(window, due)))
            except (EncoderMissing, FusionFailed, PromptTooLong) as error:
                log.warning("watch %s is not evaluated: %s", due.watch.id, error)
        try:
            answered = list(self._answer(window, asked))
        except RecordLost as error:
            log.warning("the watches of %s wait: %s", stream.id, error)
            return
        self._settle(stream, window.frames, answered)

    def _answer(self, window: Window, asked: Sequence[tuple[Due, Array]]) -> Iterator[tuple[Due, Reply]]:
        """Answers all in one batch. If that fails, each alone, so that only the one at fault is left out."""
        if not asked:
            return
        source, limits = window.make_source(asked[0][0].prompt.before), self._settings.watches
        questions = [(due.prompt, rows) for due, rows in asked]
        try:
            replies = self._engine.answer_together(source, questions, limits.max_tokens, limits.questions_at_once)
        except NonFinite as error:
            if len(asked) == 1:
                log.error("watch %s is not evaluated: %s", asked[0][0].watch.id, error)
                return
            for one in asked:
                yield from self._answer(window, [one])
        else:
            yield from zip((due for due, _ in asked), replies, strict=True)

    def _pool(self, window: Window, due: Due) -> Array:
        """The question's rows (L,D). A new watch's past is fused now, once."""
        intervals = list_window(due.watch, due.interval)
        (means,) = self._store.watches.read_means([due.watch.id], self._engine.fingerprint, intervals)
        made = window.fuse_missing(due.watch, due.prompt, intervals, means)
        self._store.watches.write_means(due.watch, self._engine.fingerprint, made)
        return pool_means([*means.values(), *made.values()])

    def _settle(self, stream: Video, frames: Sequence[Frame], answered: Sequence[tuple[Due, Reply]]) -> None:
        """Publishes the events first: a job that is repeated after that publishes them under the same keys, once."""
        verdicts, events = [], []
        for each, reply in answered:
            at = stream.grid.clock(frames[-1].t_s)
            assert at is not None, "a stream has a grid in wall-clock time"
            verdict = judge(each.watch, each.status, each.interval, reply.text, reply.probability, at)
            verdicts.append((each, reply, verdict, at))
            if verdict.event is not None:
                events.append((self._describe(stream, frames, each, reply, verdict.event), _key(each)))
        published = {event.key: event.id for event in self._store.events.publish_all(events)}
        for each, reply, verdict, at in verdicts:
            event_id = published.get(_key(each))
            evaluation = Evaluation(at=at, answer=reply.text, probability=reply.probability, event_id=event_id)
            most = self._settings.watches.max_history
            self._store.watches.note(each.watch.id, verdict.status, evaluation, most)

    def _describe(self, stream: Video, frames: Sequence[Frame], due: Due, reply: Reply, kind: str) -> Event:
        grid, most = stream.grid, self._settings.reasoner.evidence_frames
        start, end = grid.clock(frames[0].t_s), grid.clock(frames[-1].t_s)
        shown = list_evidence(stream, stream.id, grid, frames, reply.scores, most)
        return Event.model_validate(
            {
                "id": "",
                "type": kind,
                "stream_id": stream.id,
                "at": end,
                "message": f"{due.watch.question} {reply.text}".strip(),
                "start_at": start,
                "end_at": end,
                "watch_id": due.watch.id,
                "question": due.watch.question,
                "answer": reply.text,
                "probability": reply.probability,
                "evidence": shown,
                "picture": shown[0].picture if shown else None,
                "clip": _write_clip_path(stream, frames[0].t_s, frames[-1].t_s),
            }
        )


def _write_clip_path(stream: Video, start_s: float, end_s: float) -> str | None:
    """The API's clip of a window, and a little more."""
    times = [stream.grid.clock(max(t_s, 0.0)) for t_s in (start_s - CLIP_MARGIN_S, end_s + CLIP_MARGIN_S)]
    start, end = (at and at.isoformat(timespec="milliseconds").replace("+00:00", "Z") for at in times)
    return f"/v1/streams/{stream.id}/clip.mp4?start={start}&end={end}" if start and end else None


def _key(due: Due) -> str:
    return f"{due.watch.id}:{due.interval}"


def _window_slots(due: Due, stream: Video) -> range:
    return slots_of(due.watch, stream.sample_fps, list_window(due.watch, due.interval))


def _group_by_window(due: Sequence[Due], stream: Video) -> list[list[Due]]:
    groups: dict[range, list[Due]] = {}
    for each in due:
        groups.setdefault(_window_slots(each, stream), []).append(each)
    return list(groups.values())
