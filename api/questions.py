"""Routes of questions: ask, wait or stream, look up, cancel."""

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse

from api.context import Service, ServiceNeeded
from api.description import EVENT_STREAM, event_stream, headers, responses
from api.limits import require_json
from api.paging import Cursor, Limit, check_cursor, paged
from api.schemas import QuestionPage, QuestionRequest, QuestionView
from api.streaming import answer_stream, wait_settled
from storage.errors import BadRequest, Conflict, NotFound
from storage.ids import QUESTION_ID, new_question_id
from storage.models import Options, Question
from storage.store import Store

router = APIRouter(prefix="/v1", tags=["questions"])
Prefer = Annotated[str | None, Header(description="`wait=N`: wait up to N seconds for the answer (RFC 7240).")]
STORAGE = ("archive-unavailable", "redis-unavailable")
EVENTS = "Events `question`, `text`, `restart`, then `answer` or `error` with the whole question"


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
        **responses(
            "bad-request",
            "origin-refused",
            "not-found",
            "timed-out",
            "conflict",
            "too-large",
            "unsupported-media-type",
            "invalid",
            *STORAGE,
        ),
    },
    dependencies=[Depends(require_json)],
)
async def ask_question(
    video_id: str, wanted: QuestionRequest, request: Request, service: ServiceNeeded, prefer: Prefer = None
) -> Response:
    """Asks a question about a stretch of a video.

    With `Accept: text/event-stream` the answer is streamed; with `Prefer: wait=N` it is waited for, up to N seconds;
    else 202 with where to look.
    """
    question = await run_sync(_asked, video_id, wanted, service)
    if EVENT_STREAM in request.headers.get("accept", ""):
        return answer_stream(service, question)
    wait_s = preferred_wait_s(prefer, service.settings.api.max_wait_s)
    question = await wait_settled(service, question, wait_s or 0.0)
    headers = {"location": f"{router.prefix}/questions/{question.id}"}
    if wait_s is not None:
        headers["preference-applied"] = f"wait={wait_s:g}"
    body = QuestionView.of(question).model_dump(mode="json")
    return JSONResponse(body, status_code=200 if question.settled else 202, headers=headers)


@router.get("/videos/{video_id}/questions", responses=responses("bad-request", "not-found", "invalid", *STORAGE))
def list_questions(video_id: str, service: ServiceNeeded, cursor: Cursor = None, limit: Limit = None) -> QuestionPage:
    """Questions about a video, newest first."""
    check_cursor(cursor, QUESTION_ID)
    archive = service.store.archive
    archive.video(video_id)
    questions, behind = paged(archive.questions(video_id, cursor), limit or service.settings.api.page_size)
    return QuestionPage(questions=[QuestionView.of(question) for question in questions], next_cursor=behind)


@router.get(
    "/questions/{question_id}",
    responses={
        200: {"content": event_stream("QuestionEvents", beside_json=True), "description": f"As a stream: {EVENTS}"},
        **responses("not-found", *STORAGE),
    },
    response_model=QuestionView,
)
async def read_question(question_id: str, request: Request, service: ServiceNeeded) -> Response:
    """A question with its answer; with `Accept: text/event-stream` its stream, from the beginning."""
    question = await run_sync(service.store.archive.question, question_id)
    if EVENT_STREAM in request.headers.get("accept", ""):
        return answer_stream(service, question)
    return JSONResponse(QuestionView.of(question).model_dump(mode="json"))


@router.delete("/questions/{question_id}", responses=responses("not-found", *STORAGE))
def cancel_question(question_id: str, service: ServiceNeeded) -> QuestionView:
    """Stops a question after the piece at hand; one that still waits ends at once. A settled one stays as it is."""
    store = service.store
    question = store.archive.question(question_id)
    if not question.settled:
        store.answers.cancel(question_id)
        store.queues.drop_answer(question_id)
        question = store.archive.question(question_id)
        if question.status == "queued":
            question = question.model_copy(update={"status": "cancelled"})
            store.settle_question(question)
    return QuestionView.of(question)


def preferred_wait_s(prefer: str | None, most_s: float) -> float | None:
    """The seconds in `Prefer: wait=N` (RFC 7240), at most `most_s`; None where there is no such preference."""
    for part in (prefer or "").replace(";", ",").split(","):
        name, _, value = part.partition("=")
        value = value.strip().strip('"')
        if name.strip().lower() == "wait" and value.isascii() and value.isdigit():
            return min(float(value), most_s)
    return None


def _asked(video_id: str, wanted: QuestionRequest, service: Service) -> Question:
    settings, store = service.settings, service.store
    most = settings.api.max_question_chars
    if len(wanted.question) > most:
        raise BadRequest(f"the question is longer than {most} characters (api.max_question_chars)")
    _require_frames(video_id, wanted.start_s, store)
    if wanted.previous_question_id is not None:
        _require_answered(wanted.previous_question_id, video_id, store)
    question = Question(
        id=new_question_id(video_id),
        video_id=video_id,
        text=wanted.question.strip(),
        start_s=wanted.start_s,
        end_s=wanted.end_s,
        fusion=wanted.fusion or settings.reasoner.fusion,
        options=Options(
            temperature=wanted.temperature, top_p=wanted.top_p, max_tokens=wanted.max_tokens, seed=wanted.seed
        ),
        previous_question_id=wanted.previous_question_id,
    )
    store.add_question(question)
    return question


def _require_frames(video_id: str, start_s: float, store: Store) -> None:
    """Raises Conflict or BadRequest where no frame will ever be there to ask about."""
    video = store.holder(video_id)
    if not video.settled:
        return
    seconds = sum(store.counts(video.id).frames.values()) / video.sample_fps
    if not seconds:
        reason = f"{video.problem.message} ({video.problem.code})" if video.problem else "the video has no frames"
        raise Conflict(f"there is nothing to ask about: {reason}")
    if start_s >= seconds:
        raise BadRequest(f"start_s ({start_s:g}) lies beyond the end: the video has {seconds:g} s of frames")


def _require_answered(previous_id: str, video_id: str, store: Store) -> None:
    try:
        previous = store.archive.question(previous_id)
    except NotFound as error:
        raise BadRequest(f"previous_question_id: {error}") from error
    if previous.video_id != video_id or previous.status != "done":
        raise BadRequest("previous_question_id must be an answered question about the same video")
