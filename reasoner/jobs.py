"""The reasoner's job: one question, from its place in the archive to its answer there."""

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from configs.settings import Settings
from llava_mini.errors import ModelError
from llava_mini.prompt import PromptIds, Turn
from reasoner.context import Array, Frame, evidence
from reasoner.engine import Engine, Outcome, Stretch
from reasoner.records import Gatherer
from storage.errors import ArchiveUnavailable, LongwatchError, NotFound, RedisUnavailable
from storage.models import Answer, Evidence, Options, Problem, Question, Timings, Tokens, Video
from storage.store import Store
from storage.worker import is_last_try

log = logging.getLogger(__name__)
WORTH_A_RETRY = (ArchiveUnavailable, RedisUnavailable)


class Asked(NamedTuple):
    """A question with what was found for it."""

    question: Question
    video: Video  # which holds the frames
    frames: Sequence[Frame]
    prompt: PromptIds
    options: Options
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
        except (LongwatchError, ModelError) as error:
            if isinstance(error, WORTH_A_RETRY) and not is_last_try():
                raise
            self._fail(question, error.code, str(error))
        except Exception:
            if is_last_try():
                self._fail(question, "internal", "answering failed repeatedly; the log of `worker reason` says why")
            raise

    def _answer(self, question: Question) -> None:
        queue_s = (datetime.now(UTC) - question.created_at).total_seconds()
        if self._store.answers.begun(question.id):
            self._store.answers.send(question.id, "restart")
        question = question.model_copy(update={"status": "running"})
        self._store.archive.put_question(question)
        video = self._store.holder(question.video_id)
        gather = Gatherer(self._settings, self._store, self._engine.fingerprint, video)
        prompt = self._engine.prompt(self._turns(question))
        most = question.options.max_tokens or self._settings.reasoner.max_tokens
        options = question.options.model_copy(update={"max_tokens": most})
        frames = gather.frames(question.start_s, question.end_s)
        self._engine.require_fit(len(frames), prompt, most)
        asked = Asked(question, video, frames, prompt, options, queue_s)
        outcome = Outcome()
        text, cancelled = self._stream(asked, gather, outcome)
        answer = self._composed(asked, text, "cancelled" if cancelled else outcome.finish_reason, outcome)
        status = "cancelled" if cancelled else "done"
        self._store.settle_question(question.model_copy(update={"status": status, "answer": answer}))

    def _stream(self, asked: Asked, gather: Gatherer, outcome: Outcome) -> tuple[str, bool]:
        """Sends the answer's pieces as they come; the whole text, and whether somebody cancelled."""
        question, frames = asked.question, asked.frames
        began = time.monotonic()
        system = gather.fusion(asked.prompt.before, frames)
        outcome.fusion_s += time.monotonic() - began
        key = (asked.video.id, frames[0].index, frames[-1].index, len(frames))
        stretch = Stretch(key, gather.tokens(frames), system)

        def fuse(places: Sequence[int]) -> Array:
            return gather.fusion(asked.prompt.text, [frames[place] for place in places])

        text = ""
        for piece in self._engine.answer(stretch, asked.prompt, question.fusion, asked.options, fuse, outcome):
            if self._store.answers.cancelled(question.id):
                return text, True
            if piece:
                text += piece
                self._store.answers.send(question.id, "text", piece)
        return text, False

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

    def _composed(self, asked: Asked, text: str, finish_reason: str, outcome: Outcome) -> Answer:
        question, frames = asked.question, asked.frames
        total_s = (datetime.now(UTC) - question.created_at).total_seconds()
        progress = self._store.progress(self._store.archive.video(asked.video.id))
        best = evidence(outcome.scores, self._settings.reasoner.evidence_frames)
        first_token_s = total_s if outcome.first_token_s is None else asked.queue_s + outcome.first_token_s
        return Answer(
            text=text,
            finish_reason=finish_reason,
            start_s=frames[0].t_s,
            end_s=frames[-1].t_s,
            frames=len(frames),
            fusion=question.fusion,
            fusion_frames=outcome.fusion_frames,
            evidence=tuple(
                Evidence(t_s=frames[k].t_s, score=score, picture=_picture(question.video_id, frames[k].t_s))
                for k, score in best
            ),
            encoded_until_s=progress.encoded_until_s,
            video_complete=progress.complete,
            tokens=Tokens(text=outcome.text_tokens, vision=len(frames), answer=outcome.answer_tokens),
            timings=Timings(
                queue_s=asked.queue_s,
                fusion_s=outcome.fusion_s,
                prefill_s=outcome.prefill_s,
                first_token_s=first_token_s,
                total_s=total_s,
            ),
        )

    def _fail(self, question: Question, code: str, message: str) -> None:
        log.error("question %s failed (%s): %s", question.id, code, message)
        problem = Problem(code=code, message=message)
        self._store.settle_question(question.model_copy(update={"status": "failed", "problem": problem}))


def _picture(video_id: str, t_s: float) -> str:
    return f"/v1/videos/{video_id}/frames/{t_s:g}.jpg"
