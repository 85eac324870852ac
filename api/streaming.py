"""Server-sent events: the pieces of an answer, and a video's progress."""

import json
import logging
from collections.abc import AsyncIterator

from anyio import move_on_after, sleep
from anyio.to_thread import run_sync
from sse_starlette import EventSourceResponse, ServerSentEvent

from api.context import Service
from api.problems import problem_body
from api.schemas import QuestionView, VideoView
from storage.answers import LAST, Piece
from storage.errors import LongwatchError
from storage.models import Question

log = logging.getLogger(__name__)

LOOK_S = 1.0  # per look at the stream of pieces; then the archive is asked, in case Redis forgot the last one


def answer_stream(service: Service, question: Question) -> EventSourceResponse:
    """`question` first, `text` pieces, `restart` where another worker begins anew, at last `answer` or `error`."""
    return EventSourceResponse(_ended_by_problem(_answer_events(service, question)))


def progress_stream(service: Service, video_id: str) -> EventSourceResponse:
    """`progress` with the whole video at every change, until it is complete."""
    return EventSourceResponse(_ended_by_problem(_progress_events(service, video_id)))


async def wait_settled(service: Service, question: Question, wait_s: float) -> Question:
    """The question once it is settled, or as it is after `wait_s`."""
    if wait_s <= 0:
        return question
    with move_on_after(wait_s):
        async for _ in _pieces(service, question.id):
            continue
    return await run_sync(service.store.archive.question, question.id)


async def _answer_events(service: Service, question: Question) -> AsyncIterator[ServerSentEvent]:
    yield _event("question", QuestionView.of(question).model_dump_json())
    if not question.settled:
        async for piece in _pieces(service, question.id):
            yield _event(piece.kind, piece.text)
        question = await run_sync(service.store.archive.question, question.id)
    elif question.answer is not None and question.answer.text:  # who joins late gets the text at once
        yield _event("text", question.answer.text)
    yield _event("error" if question.status == "failed" else "answer", QuestionView.of(question).model_dump_json())


async def _pieces(service: Service, question_id: str) -> AsyncIterator[Piece]:
    """What the reasoner has sent and sends, without the last piece; ends once the question is settled."""
    store, cursor = service.store, "0"

    def look() -> list[Piece]:
        return list(store.answers.read(question_id, cursor, LOOK_S))

    while True:
        found = await run_sync(look, limiter=service.listeners, abandon_on_cancel=True)
        for piece in found:
            if piece.kind in LAST:
                return
            cursor = piece.cursor
            yield piece
        if not found and (await run_sync(store.archive.question, question_id)).settled:
            return


async def _progress_events(service: Service, video_id: str) -> AsyncIterator[ServerSentEvent]:
    store, shown = service.store, ""
    while True:
        video = await run_sync(store.archive.video, video_id)
        progress = await run_sync(store.progress, video)
        text = VideoView.of(video, progress).model_dump_json()
        if text != shown:
            yield _event("progress", text)
            shown = text
        if progress.complete:
            return
        await sleep(service.settings.api.progress_interval_s)


async def _ended_by_problem(events: AsyncIterator[ServerSentEvent]) -> AsyncIterator[ServerSentEvent]:
    """The events; where storage fails or the video is deleted meanwhile, a last one `problem` with the reason."""
    try:
        async for event in events:
            yield event
    except LongwatchError as error:
        log.warning("a stream ended early: %s", error)
        yield _event("problem", json.dumps(problem_body(error.code, str(error))))


def _event(name: str, data: str) -> ServerSentEvent:
    return ServerSentEvent(data, event=name)
