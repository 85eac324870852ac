"""The reasoner's job: one question, from its place in the archive to its answer there."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from configs.settings import Settings
from llava_mini.errors import ModelError
from llava_mini.prompt import PromptIds, Turn
from reasoner.context import Array, evidence
from reasoner.engine import Engine, Outcome, Stretch
from reasoner.records import Covered, Gatherer
from storage.errors import ArchiveUnavailable, LongwatchError, NotFound, RedisUnavailable
from storage.models import Answer, Evidence, Problem, Question, Timings, Tokens
from storage.segments import masks_by_segment
from storage.store import Store
from storage.worker import is_last_try

log = logging.getLogger(__name__)
WORTH_A_RETRY = (ArchiveUnavailable, RedisUnavailable)


class Cancelled(Exception):
    """Whoever asked does not want the answer any more."""


@dataclass(frozen=True)
class Asked:
    """A question with what was found for it."""

    question: Question
    holder_id: str  # of the video that holds the frames
    prompt: PromptIds
    max_tokens: int
    covered: Covered
    began: float  # monotonic, when the job began
    queue_s: float


class ReasonerJobs:
    """`answer_question`."""

    def __init__(self, settings: Settings, store: Store, engine: Engine) -> None:
        self._settings = settings
        self._store = store
        self._engine = engine

    def answer_question(self, question_id: str) -> None:
        """Has the question end as done, failed or cancelled, its pieces streamed on the way.

        Raises what is worth a retry; the last try settles the question as failed.
        """
        try:
            question = self._store.archive.question(question_id)
        except NotFound:
            log.info("question %s was deleted meanwhile", question_id)
            return
        if question.settled:
            return
        try:
            self._answer(question)
        except Cancelled:  # before there was anything to say
            self._settle(question.model_copy(update={"status": "cancelled"}))
        except (LongwatchError, ModelError) as error:
            if isinstance(error, WORTH_A_RETRY) and not is_last_try():
                raise
            self._fail(question, error.code, str(error))
        except Exception:
            if is_last_try():
                self._fail(question, "internal", "answering failed repeatedly; the log of `worker reason` says why")
            raise

    def _answer(self, question: Question) -> None:
        began, queue_s = time.monotonic(), (datetime.now(UTC) - question.created_at).total_seconds()
        if self._store.answers.begun(question.id):
            self._store.answers.send(question.id, "restart")
        question = question.model_copy(update={"status": "running"})
        self._store.archive.put_question(question)
        video = self._store.holder(question.video_id)
        prompt = self._engine.prompt(self._turns(question))
        gather = Gatherer(
            self._settings, self._store, self._engine.fingerprint, video, lambda: self._require_wanted(question.id)
        )
        try:
            covered = gather.covered(question.start_s, question.end_s)
            most = question.options.max_tokens or self._settings.reasoner.max_tokens
            self._engine.require_fit(len(covered.frames), prompt, most)
            answer = self._stream(Asked(question, video.id, prompt, most, covered, began, queue_s), gather)
        except Cancelled:
            gather.withdraw()
            raise
        status = "cancelled" if answer.finish_reason == "cancelled" else "done"
        self._settle(question.model_copy(update={"status": status, "answer": answer}))

    def _stream(self, asked: Asked, gather: Gatherer) -> Answer:
        """Sends the answer's pieces as they come; the whole of it, or what there is once somebody cancels."""
        question, outcome = asked.question, Outcome()
        stretch = self._stretch(asked, gather, outcome)
        frames = asked.covered.frames

        def fuse(places: Sequence[int]) -> Array:
            return gather.fusion(asked.prompt.text, [frames[place] for place in places])

        options = question.options.model_copy(update={"max_tokens": asked.max_tokens})
        text, first_token_s, finish_reason = "", None, None
        for piece in self._engine.answer(stretch, asked.prompt, question.fusion, options, fuse, outcome):
            if first_token_s is None:
                first_token_s = asked.queue_s + time.monotonic() - asked.began
            if self._store.answers.cancelled(question.id):
                finish_reason = "cancelled"
                break
            if piece:
                text += piece
                self._store.answers.send(question.id, "text", piece)
        total_s = asked.queue_s + time.monotonic() - asked.began
        timings = Timings(
            queue_s=asked.queue_s,
            fusion_s=outcome.fusion_s,
            prefill_s=outcome.prefill_s,
            first_token_s=first_token_s or total_s,
            total_s=total_s,
        )
        return self._composed(asked, text, finish_reason or outcome.finish_reason, outcome, timings)

    def _stretch(self, asked: Asked, gather: Gatherer, outcome: Outcome) -> Stretch:
        """The tokens and the system prompt's mean; the question's first fusion is ordered in the same pass."""
        frames, prompt = asked.covered.frames, asked.prompt
        tokens = gather.tokens(frames)
        began = time.monotonic()
        first = self._engine.first_look(asked.question.fusion, len(frames))
        gather.order([(prompt.before, frames), (prompt.text, [frames[place] for place in first])])
        system = gather.fusion(prompt.before, frames)
        outcome.fusion_s = time.monotonic() - began
        masks = masks_by_segment(frame.index for frame in frames)
        return Stretch((asked.holder_id, tuple(masks.items())), tokens, system)

    def _turns(self, question: Question) -> list[Turn]:
        """The conversation so far, oldest first, and the open question."""
        turns: list[Turn] = [(question.text, None)]
        previous = question.previous_question_id
        while previous is not None:
            earlier = self._store.archive.question(previous)
            if earlier.answer is not None:
                turns.insert(0, (earlier.text, earlier.answer.text))
            previous = earlier.previous_question_id
        return turns

    def _composed(self, asked: Asked, text: str, finish_reason: str, outcome: Outcome, timings: Timings) -> Answer:
        frames, video_id = asked.covered.frames, asked.question.video_id
        best = evidence(outcome.scores, self._settings.reasoner.evidence_frames)
        return Answer(
            text=text,
            finish_reason=finish_reason,
            start_s=frames[0].t_s,
            end_s=frames[-1].t_s,
            frames=len(frames),
            fusion=asked.question.fusion,
            fusion_frames=outcome.fusion_frames,
            evidence=tuple(
                Evidence(t_s=frames[place].t_s, score=score, picture=_picture(video_id, frames[place].t_s))
                for place, score in best
            ),
            encoded_until_s=asked.covered.encoded_until_s,
            video_complete=asked.covered.video_complete,
            tokens=Tokens(text=outcome.text_tokens, vision=outcome.vision_tokens, answer=outcome.answer_tokens),
            timings=timings,
        )

    def _require_wanted(self, question_id: str) -> None:
        """Raises Cancelled, or NotFound once the question or its video was deleted."""
        self._store.archive.question(question_id)
        if self._store.answers.cancelled(question_id):
            raise Cancelled

    def _fail(self, question: Question, code: str, message: str) -> None:
        log.error("question %s failed (%s): %s", question.id, code, message)
        problem = Problem(code=code, message=message)
        self._settle(question.model_copy(update={"status": "failed", "problem": problem}))

    def _settle(self, question: Question) -> None:
        """Keeps the question's end, unless it was deleted meanwhile: then nothing may bring it back."""
        try:
            self._store.archive.question(question.id)
            self._store.settle_question(question)
        except NotFound:
            log.info("question %s was deleted meanwhile", question.id)
            self._store.answers.send(question.id, "error")


def _picture(video_id: str, t_s: float) -> str:
    return f"/v1/videos/{video_id}/frames/{t_s:g}.jpg"
