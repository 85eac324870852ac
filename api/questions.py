"""Routes for questions: ask, wait or stream, look up, cancel."""

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Request, Response

from api.asking import keep_question
from api.context import Service, ServiceNeeded
from api.description import EVENT_STREAM, event_stream, headers, responses
from api.limits import require_json
from api.paging import Cursor, Limit, Prefix, check_page, cut_page
from api.schemas import QuestionRequest
from api.streaming import answer_stream, wait_settled
from api.views import QuestionPage, QuestionView, as_json, view_question
from storage.documents import Question
from storage.ids import QUESTION_ID

router = APIRouter(prefix="/v1", tags=["questions"])
Prefer = Annotated[str | None, Header(description="`wait=N`: wait up to N seconds for the answer (RFC 7240).")]
STORAGE = ("newer-version", "file-damaged", "archive-unavailable", "redis-unavailable")
EVENTS = "Events `question`, `waiting`, `text`, `restart`, then `answer` or `error` with the whole question"
REFUSALS = (
    "bad-request",
    "origin-refused",
    "not-found",
    "timed-out",
    "conflict",
    "too-large",
    "unsupported-media-type",
    "invalid",
    "too-many",
)


@router.post(
    "/videos/{video_id}/questions",
    status_code=202,
    response_model=QuestionView,
    responses={
        200: {
            "model": QuestionView,
            "content": event_stream("QuestionEvents", beside_json=True),
            "description": f"Answered in time. As a stream: {EVENTS}",
            "headers": headers("Location", "Preference-Applied"),
        },
        202: {"headers": headers("Location", "Preference-Applied")},
        **responses(*REFUSALS, *STORAGE),
    },
    dependencies=[Depends(require_json)],
)
async def ask_question(
    video_id: str, wanted: QuestionRequest, request: Request, service: ServiceNeeded, prefer: Prefer = None
) -> Response:
    """Asks a question about a stretch of a video. It waits until the stretch, or with `partial` its start, is encoded.

    With `Accept: text/event-stream` the answer is streamed. With `Prefer: wait=N` the request waits for it, up to
    N seconds. Otherwise it returns 202, and `Location` says where to look.
    """
    question = await run_sync(keep_question, video_id, wanted, service)
    location = {"location": f"{router.prefix}/questions/{question.id}"}
    if EVENT_STREAM in request.headers.get("accept", ""):
        return answer_stream(service, question, location)
    wait_s = preferred_wait_s(prefer, service.settings.api.max_wait_s)
    question = await wait_settled(service, question, wait_s or 0.0)
    applied = {} if wait_s is None else {"preference-applied": f"wait={wait_s:g}"}
    return await _respond(question, service, 200 if question.settled else 202, location | applied)


@router.get(
    "/videos/{video_id}/questions",
    responses=responses("bad-request", "not-found", "invalid", "state-rebuilding", *STORAGE),
)
def list_questions(
    video_id: str, service: ServiceNeeded, cursor: Cursor = None, limit: Limit = None, prefix: Prefix = ""
) -> QuestionPage:
    """Lists the questions about a video, newest first."""
    store, size = service.store, limit or service.settings.api.page_size
    check_page(store, cursor, QUESTION_ID)
    video = store.read_video(video_id)
    store.count_video(video)  # restores the list of its questions if Redis lost it
    ids, behind = cut_page(store.index.list_questions(video_id, cursor, size + 1, prefix), size)
    views = [view_question(store, question, video) for question in store.read_questions(ids)]
    return QuestionPage(questions=views, next_cursor=behind)


@router.get(
    "/questions/{question_id}",
    responses={
        200: {
            "content": event_stream("QuestionEvents", beside_json=True),
            "description": f"As a stream: {EVENTS}",
        },
        **responses("not-found", *STORAGE),
    },
    response_model=QuestionView,
)
async def read_question(question_id: str, request: Request, service: ServiceNeeded) -> Response:
    """Returns a question with its answer; with `Accept: text/event-stream`, streams it from the beginning."""
    question = await run_sync(service.store.read_question, question_id)
    if EVENT_STREAM in request.headers.get("accept", ""):
        return answer_stream(service, question)
    return await _respond(question, service, 200, {})


@router.delete("/questions/{question_id}", responses=responses("origin-refused", "not-found", *STORAGE))
def cancel_question(question_id: str, service: ServiceNeeded) -> QuestionView:
    """Cancels a question. A running one stops after the current piece, any other ends at once; a settled one stays."""
    return view_question(service.store, service.intake.cancel_question(question_id))


def preferred_wait_s(prefer: str | None, most_s: float) -> float | None:
    """The seconds in `Prefer: wait=N` (RFC 7240), at most `most_s`; None if there is no such preference."""
    for part in (prefer or "").replace(";", ",").split(","):
        name, _, value = part.partition("=")
        value = value.strip().strip('"')
        if name.strip().lower() == "wait" and value.isascii() and value.isdigit():
            return min(float(value), most_s)
    return None


async def _respond(question: Question, service: Service, status: int, more: dict[str, str]) -> Response:
    view = await run_sync(view_question, service.store, question)
    return Response(as_json(view), status, more, "application/json")
