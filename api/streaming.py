"""Server-sent events: the pieces of an answer, a video's progress, and what happens to live streams."""

import json
import logging
import time
from collections.abc import AsyncIterator, Mapping

from anyio import move_on_after, sleep
from anyio.to_thread import run_sync
from sse_starlette import EventSourceResponse, ServerSentEvent

from api.context import Service
from api.problems import problem_body
from api.views import VideoView, as_json, view_question, view_videos
from storage.answers import Piece
from storage.documents import Question
from storage.errors import LongwatchError
from storage.store import Store
from storage.text import escape_controls

log = logging.getLogger(__name__)

LOOK_S = 1.0  # how long one read waits for a piece; then Redis is asked for the question's state
ARCHIVE_LOOK_S = 10.0  # how often the archive is asked, in case Redis lost the end


def answer_stream(
    service: Service, question: Question, headers: Mapping[str, str] | None = None
) -> EventSourceResponse:
    """Streams `question`, `waiting`, `text`, `restart` if another attempt begins, then `answer` or `error`."""
    return EventSourceResponse(_end_with_problem(_answer_events(service, question)), headers=headers)


def progress_stream(service: Service, video_id: str) -> EventSourceResponse:
    """Streams `progress` with the whole video at every change, until it is complete."""
    return EventSourceResponse(_end_with_problem(_progress_events(service, video_id)))


def live_stream(service: Service, after_id: str | None, stream_id: str | None) -> EventSourceResponse:
    """Streams the events after this id (None: from now on), of one stream or of all, without end.

    The first thing sent is an id alone, so that a client that got no event yet can resume as well.
    """
    return EventSourceResponse(_end_with_problem(_live_events(service, after_id, stream_id)))


async def _live_events(service: Service, after_id: str | None, stream_id: str | None) -> AsyncIterator[ServerSentEvent]:
    async for found in service.feed.follow(after_id, stream_id):
        if isinstance(found, str):
            yield ServerSentEvent(id=found)
        else:
            yield ServerSentEvent(found.data, event=found.type, id=found.id)


async def wait_settled(service: Service, question: Question, wait_s: float) -> Question:
    """The question once it is settled, or as it is after `wait_s`."""
    if wait_s > 0:
        with move_on_after(wait_s):
            async for found in _follow(service, question):
                if isinstance(found, Question):
                    question = found
    return question


async def _answer_events(service: Service, question: Question) -> AsyncIterator[ServerSentEvent]:
    """Even if Redis loses pieces, those sent since the last `restart` add up to the answer's text."""
    shown = await _view_as_json(service, question)
    yield _event("question", shown)
    sent = ""
    async for found in _follow(service, question):
        if isinstance(found, Question):
            question = found
            view = await _view_as_json(service, question)
            if question.status == "waiting" and view != shown:
                yield _event("waiting", view)
            shown = view
        elif found.kind in ("text", "restart"):
            sent = sent + found.text if found.kind == "text" else ""
            yield _event(found.kind, found.text)
    text = question.answer.text if question.answer else sent
    if not text.startswith(sent):
        yield _event("restart", "")
        sent = ""
    if text != sent:
        yield _event("text", text[len(sent) :])
    yield _event("error" if question.status == "failed" else "answer", shown)


async def _follow(service: Service, question: Question) -> AsyncIterator[Piece | Question]:
    """The pieces of an answer, and the question whenever it may have changed; ends once it is settled."""
    store, cursor, asked_s = service.store, "0", time.monotonic()

    def look() -> list[Piece]:
        return list(store.answers.read(question.id, cursor, LOOK_S))

    while not question.settled:
        found = await run_sync(look, limiter=service.listeners, abandon_on_cancel=True)
        for piece in found:
            cursor = piece.cursor
            yield piece
        if not found or found[-1].kind in ("state", "done"):
            is_done = bool(found) and found[-1].kind == "done"
            thoroughly = is_done or time.monotonic() - asked_s > ARCHIVE_LOOK_S
            asked_s = time.monotonic() if thoroughly else asked_s
            question = await run_sync(_read_again, store, question, thoroughly)
            if question.settled:  # pieces may have come after the last read
                for piece in await run_sync(_read_rest, store, question.id, cursor):
                    yield piece
            yield question


def _read_again(store: Store, question: Question, thoroughly: bool) -> Question:
    """The question as it is now, from Redis; from the archive if `thoroughly`, or if its video is being deleted."""
    (settled,) = store.cache.read_settled([question.id])
    if settled is not None:
        return settled
    if thoroughly or store.index.is_deleted(question.video_id):
        return store.read_question(question.id)
    return store.index.with_states([question])[0]


def _read_rest(store: Store, question_id: str, cursor: str) -> list[Piece]:
    return list(store.answers.read(question_id, cursor))


async def _view_as_json(service: Service, question: Question) -> str:
    return as_json(await run_sync(view_question, service.store, question))


async def _progress_events(service: Service, video_id: str) -> AsyncIterator[ServerSentEvent]:
    shown = ""
    while True:
        view = await run_sync(_view_progress, service.store, video_id)
        without_estimate = view.model_dump_json(exclude={"progress": {"eta_s"}})  # the estimate changes all the time
        if without_estimate != shown:
            yield _event("progress", as_json(view))
            shown = without_estimate
        if view.progress is not None and view.progress.complete:
            return
        await sleep(service.settings.api.progress_interval_s)


def _view_progress(store: Store, video_id: str) -> VideoView:
    return view_videos(store, [store.read_video(video_id)])[0]


async def _end_with_problem(events: AsyncIterator[ServerSentEvent]) -> AsyncIterator[ServerSentEvent]:
    """Passes on the events. If storage fails or the video is deleted, the last one is `problem` with the reason."""
    try:
        async for event in events:
            yield event
    except LongwatchError as error:
        log.warning("a stream ended early: %s", escape_controls(str(error)))
        yield _event("problem", json.dumps(problem_body(error.code, str(error))))


def _event(name: str, data: str) -> ServerSentEvent:
    return ServerSentEvent(data, event=name)
