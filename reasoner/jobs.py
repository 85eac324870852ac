"""The reasoner's job: reads a question from the archive and writes its answer there."""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from configs.settings import Settings
from jobs.inspector import Inspector
from llava_mini.errors import ModelError
from llava_mini.prompt import PromptIds, Turn
from reasoner.engine import Engine, Outcome, TokenSource
from reasoner.evidence_frames import list_evidence
from reasoner.focus import Array, Frame, as_float
from reasoner.gathering import EncoderMissing, Gatherer, RecordLost
from storage.documents import Answer, Gap, Problem, Question, Timings, Tokens, Video
from storage.errors import BadRequest, GivenAway, LongwatchError, NotFound, Surroundings
from storage.fences import Fence
from storage.progress import describe_progress
from storage.records import Half, text_id
from storage.store import Store
from storage.stretch import Stretch, find_stretch
from storage.timeline import Grid, slots_in

log = logging.getLogger(__name__)

PIECE_S = 0.1  # between two sends of text, so that not every token costs a command
FinishReason = Literal["stop", "length", "cancelled"]


class Unwanted(Exception):
    """Nobody wants the answer any more."""


@dataclass(frozen=True)
class Asked:
    """A question with what is needed to answer it."""

    question: Question
    grid: Grid  # of the question's video
    fence: Fence
    stretch: Stretch
    frames: list[Frame]
    prompt: PromptIds
    max_tokens: int
    began: float  # monotonic, when the job began
    queue_s: float


class ReasonerJobs:
    """`answer_question`."""

    def __init__(self, settings: Settings, store: Store, engine: Engine) -> None:
        self._settings = settings
        self._store = store
        self._engine = engine
        self._inspector = Inspector(store, settings.jobs)

    def answer_question(self, question_id: str) -> None:
        """Answers the question in a stream of pieces. It ends as done, failed or cancelled, or waits for frames.

        Raises errors that another attempt may not meet.
        """
        fence = self._store.fences.take(question_id)
        try:
            question = self._store.archive.read_question(question_id)
            if not question.settled:
                self._settle_or_wait(question, fence)
        except NotFound:
            log.info("question %s was deleted meanwhile", question_id)
            self._store.answers.announce(question_id, "done")
            self._inspector.inspect_question(question_id)  # takes it off the agenda

    def give_up_question(self, reason: str, question_id: str) -> None:
        """Settles the question as failed."""
        try:
            question = self._store.read_question(question_id)
            if not question.settled:
                message = f"answering failed repeatedly: {reason}; see logs/reasoner.log in data_dir"
                self._fail(question, self._store.fences.take(question_id), "internal", message)
        except NotFound:
            log.info("question %s was deleted meanwhile", question_id)

    def _settle_or_wait(self, question: Question, fence: Fence) -> None:
        try:
            self._answer(question, fence)
        except Unwanted:  # before there was any text
            self._store.settle_question(question.model_copy(update={"status": "cancelled"}), fence)
        except EncoderMissing as error:
            log.warning("question %s waits: %s", question.id, error)
            self._store.set_question_state(question.id, "waiting")
        except RecordLost as error:
            log.warning("question %s waits: %s", question.id, error)
            self._inspector.inspect_question(question.id)
        except (Surroundings, GivenAway, NotFound):
            raise
        except (LongwatchError, ModelError) as error:
            self._fail(question, fence, error.code, str(error))

    def _answer(self, question: Question, fence: Fence) -> None:
        began, queue_s = time.monotonic(), (datetime.now(UTC) - question.created_at).total_seconds()
        video = self._store.read_video(question.video_id)
        holder = self._store.read_holder(video.duplicate_of) if video.duplicate_of else video
        stretch = find_stretch(self._store, question, holder, self._engine.fingerprint)
        if not stretch.is_ready(partial=question.partial):
            self._inspector.inspect_question(question.id)
            return
        if not self._store.answers.begin(fence):
            raise Unwanted
        masks = stretch.masks
        frames = [Frame(slot, holder.grid.time_s(slot)) for slot in slots_in(masks)]
        if not frames:
            raise BadRequest(_describe_empty(question, stretch))
        prompt = self._engine.build_prompt(self._collect_turns(question))
        most = question.options.max_tokens or self._settings.reasoner.max_tokens
        self._engine.require_fit(len(frames), prompt, most)
        gather = Gatherer(
            self._settings,
            self._store,
            self._engine.fingerprint,
            holder,
            masks,
            lambda: self._require_wanted(question.id),
        )
        asked = Asked(question, video.grid, fence, stretch, frames, prompt, most, began, queue_s)
        try:
            answer = self._stream(asked, gather, masks)
        except Unwanted:
            gather.withdraw()
            raise
        status = "cancelled" if answer.finish_reason == "cancelled" else "done"
        answered = question.model_copy(update={"status": status, "answer": answer})
        self._store.settle_question(answered, fence, holder.id)

    def _stream(self, asked: Asked, gather: Gatherer, masks: dict[int, int]) -> Answer:
        """Sends the answer's pieces as they come. Returns the answer, cut short once nobody wants it any more."""
        question, prompt, outcome = asked.question, asked.prompt, Outcome()
        source, rows_name = self._make_source(asked, gather, masks)
        known = self._store.cache.read_rows(rows_name, self._engine.fingerprint)
        if known is None:
            first = self._engine.first_look(question.fusion, len(asked.frames))
            gather.order(prompt.text, len(prompt.before), [asked.frames[place] for place in first])

        def fuse(places: Sequence[int]) -> Array:
            return gather.fuse(prompt.text, len(prompt.before), [asked.frames[place] for place in places])

        options = question.options.model_copy(update={"max_tokens": asked.max_tokens})
        remembered = None if known is None else (known[0], as_float(known[1]))
        pieces = self._engine.answer(source, prompt, question.fusion, options, fuse, outcome, remembered)
        text, held, first_token_s, sent_at = "", "", None, 0.0
        finish_reason: FinishReason | None = None
        for piece in pieces:
            if first_token_s is None:
                first_token_s = asked.queue_s + time.monotonic() - asked.began
            text, held = text + piece, held + piece
            if held and time.monotonic() - sent_at > PIECE_S:
                wanted = self._store.answers.send(asked.fence, held)
                held, sent_at = "", time.monotonic()
                if not wanted:
                    finish_reason = "cancelled"
                    break
        if held:
            self._store.answers.send(asked.fence, held)
        if known is None and outcome.rows is not None:
            rows = outcome.rows.astype(np.float16)
            self._store.cache.write_rows(rows_name, self._engine.fingerprint, outcome.fusion_frames, rows)
        total_s = asked.queue_s + time.monotonic() - asked.began
        timings = Timings(
            queue_s=asked.queue_s,
            fusion_s=outcome.fusion_s,
            prefill_s=outcome.prefill_s,
            first_token_s=first_token_s or total_s,
            total_s=total_s,
        )
        return self._compose(asked, text, finish_reason or outcome.finish_reason, outcome, timings)

    def _make_source(self, asked: Asked, gather: Gatherer, masks: dict[int, int]) -> tuple[TokenSource, str]:
        """Returns the stretch's token source for the engine, and the cache name of the question's rows over it."""
        prompt, mode = asked.prompt, asked.question.fusion
        holder_id, system = asked.stretch.holder.id, prompt.before
        exact = mode == "exact"

        def load() -> tuple[Array, Half]:
            rows = gather.load_system(system) if exact else gather.load_anchor(system)
            return rows, gather.load_tokens()

        frames_id = hashlib.sha256(repr(tuple(masks.items())).encode()).hexdigest()[:24]
        chosen = self._settings.reasoner
        how = f"{mode}-{chosen.sample_frames}-{chosen.focus_frames}-{chosen.focus_baseline:d}"
        key = (holder_id, frames_id, exact, text_id(system))
        return TokenSource(key, len(asked.frames), load), f"{holder_id}:{frames_id}:{how}:{text_id(prompt.text)}"

    def _collect_turns(self, question: Question) -> list[Turn]:
        """Returns the conversation so far, oldest turn first, and the open question."""
        turns: list[Turn] = [(question.text, None)]
        previous = question.previous_question_id
        while previous is not None:
            try:
                earlier = self._store.read_question(previous)
            except NotFound as error:
                raise BadRequest(
                    f"the earlier question {previous} is gone: ask without previous_question_id"
                ) from error
            if earlier.answer is not None:
                turns.insert(0, (earlier.text, earlier.answer.text))
            previous = earlier.previous_question_id
        return turns

    def _compose(
        self, asked: Asked, text: str, finish_reason: FinishReason, outcome: Outcome, timings: Timings
    ) -> Answer:
        frames, question = asked.frames, asked.question
        grid, holder, totals = asked.grid, asked.stretch.holder, asked.stretch.covered.totals
        progress = describe_progress(holder, totals) if totals else None
        return Answer(
            text=text,
            finish_reason=finish_reason,
            start_s=frames[0].t_s,
            end_s=frames[-1].t_s,
            start_at=grid.clock(frames[0].t_s),
            end_at=grid.clock(frames[-1].t_s),
            frames=len(frames),
            frames_missing=asked.stretch.frames_missing,
            gaps=tuple(_clock_gaps(holder, asked.stretch.gaps)) if holder.is_live else (),
            seen=len(frames) / max(len(asked.stretch.slots), 1) if holder.is_live else 1.0,
            probability=outcome.probability,
            fusion=question.fusion,
            fusion_frames=outcome.fusion_frames,
            evidence=list_evidence(
                holder, question.video_id, grid, frames, outcome.scores, self._settings.reasoner.evidence_frames
            ),
            encoded_until_s=progress.encoded_until_s if progress else frames[-1].t_s,
            video_complete=progress.complete if progress else asked.stretch.is_complete,
            tokens=Tokens(text=outcome.text_tokens, vision=outcome.vision_tokens, answer=outcome.answer_tokens),
            timings=timings,
        )

    def _require_wanted(self, question_id: str) -> None:
        """Raises Unwanted if the question was cancelled or the video deleted."""
        if not self._store.answers.is_wanted(question_id):
            raise Unwanted

    def _fail(self, question: Question, fence: Fence, code: str, message: str) -> None:
        log.error("question %s failed (%s): %s", question.id, code, message)
        problem = Problem(code=code, message=message)
        self._store.settle_question(question.model_copy(update={"status": "failed", "problem": problem}), fence)


def _clock_gaps(stream: Video, gaps: Sequence[range]) -> Iterator[Gap]:
    for gap in gaps:
        start, end = (stream.grid.clock(slot / stream.sample_fps) for slot in (gap.start, gap.stop))
        if start is not None and end is not None:
            yield Gap(start=start, end=end)


def _describe_empty(question: Question, stretch: Stretch) -> str:
    """Says why a stretch has no frames to answer from."""
    if stretch.covered.failed:
        reason = next(iter(stretch.covered.failed.values()))
        return f"the frames of this stretch could not be encoded ({reason}); try `longwatch retry {stretch.holder.id}`"
    if stretch.holder.is_live:
        return "the stream has no frames in this stretch: the camera was not captured then"
    problem = stretch.holder.problem
    if problem is not None and not stretch.covered.sampled:
        return f"the video has no frames here: {problem.message}"
    asked = (
        f"from {question.start_s:g} s on"
        if question.end_s is None
        else f"between {question.start_s:g} and {question.end_s:g} s"
    )
    grid, sampled = stretch.holder.grid, stretch.holder.frames_sampled
    last = f", the last at {grid.time_s(sampled - 1):g} s" if sampled else ""
    return (
        f"no frame lies {asked}: there is one every {1 / grid.sample_fps:g} s, the first at {grid.time_s(0):g} s{last}"
    )
