"""Routes of questions: ask, wait or stream, look up, cancel."""

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse

from api.context import Service, ServiceNeeded
from api.problems import responses
from api.schemas import QuestionList, QuestionRequest, QuestionView
from api.streaming import answer_events, wait_settled
from storage.errors import BadRequest, Conflict
from storage.ids import new_question_id
from storage.models import Options, Question

router = APIRouter(prefix="/v1", tags=["questions"])
Prefer = Annotated[str | None, Header(description="`wait=N`: wait up to N seconds for the answer.")]
EVENT_STREAM = "text/event-stream"


@router.post(
    "/videos/{video_id}/questions",
    status_code=202,
    response_model=QuestionView,
    responses={200: {"model": QuestionView, "description": "Answered in time"}, **responses(400, 404, 409, 422, 503)},
)
async def ask(
    video_id: str, wanted: QuestionRequest, request: Request, service: ServiceNeeded, prefer: Prefer = None
) -> Response:
    """Asks a question about a stretch of a video.

    With `Accept: text/event-stream` the answer is streamed; with `Prefer: wait=N` it is waited for, up to N seconds;
    else 202 with where to look.
    """
    wait_s = _wait_s(prefer, service)
    question = await run_sync(_asked, video_id, wanted, service)
    if EVENT_STREAM in request.headers.get("accept", ""):
        return EventSourceResponse(answer_events(service.store, question))
    question = await wait_settled(service.store, question, wait_s)
    headers = {"location": f"{router.prefix}/questions/{question.id}"}
    if prefer is not None and wait_s:
        headers["preference-applied"] = f"wait={wait_s:g}"
    body = QuestionView.of(question).model_dump(mode="json")
    return JSONResponse(body, status_code=200 if question.settled else 202, headers=headers)


@router.get("/videos/{video_id}/questions", responses=responses(404, 503))
def listed(video_id: str, service: ServiceNeeded) -> QuestionList:
    """All questions about a video, oldest first."""
    archive = service.store.archive
    archive.video(video_id)
    return QuestionList(questions=[QuestionView.of(archive.question(i)) for i in archive.question_ids(video_id)])


@router.get("/questions/{question_id}", responses=responses(404, 503), response_model=QuestionView)
async def one(question_id: str, request: Request, service: ServiceNeeded) -> Response:
    """A question with its answer; with `Accept: text/event-stream` its stream, from the beginning."""
    question = await run_sync(service.store.archive.question, question_id)
    if EVENT_STREAM in request.headers.get("accept", ""):
        return EventSourceResponse(answer_events(service.store, question))
    return JSONResponse(QuestionView.of(question).model_dump(mode="json"))


@router.delete("/questions/{question_id}", responses=responses(404, 503))
def cancel(question_id: str, service: ServiceNeeded) -> QuestionView:
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


def _asked(video_id: str, wanted: QuestionRequest, service: Service) -> Question:
    most = service.settings.api.max_question_chars
    if len(wanted.question) > most:
        raise BadRequest(f"the question is longer than {most} characters (api.max_question_chars)")
    store = service.store
    video = store.holder(video_id)
    if video.status == "failed" and not store.counts(video.id).frames:
        reason = video.problem.message if video.problem else "it failed"
        raise Conflict(f"there is nothing to ask about: {reason}")
    if wanted.previous_question_id is not None:
        previous = store.archive.question(wanted.previous_question_id)
        if previous.video_id != video_id or previous.status != "done":
            raise BadRequest("previous_question_id must be an answered question about the same video")
    question = Question(
        id=new_question_id(video_id),
        video_id=video_id,
        text=wanted.question.strip(),
        start_s=wanted.start_s,
        end_s=wanted.end_s,
        fusion=wanted.fusion or service.settings.reasoner.fusion,
        options=Options(
            temperature=wanted.temperature, top_p=wanted.top_p, max_tokens=wanted.max_tokens, seed=wanted.seed
        ),
        previous_question_id=wanted.previous_question_id,
    )
    store.add_question(question)
    return question


def _wait_s(prefer: str | None, service: Service) -> float:
    """The seconds in `Prefer: wait=N` (RFC 7240), at most as many as configured; other preferences are left aside."""
    for part in (prefer or "").replace(";", ",").split(","):
        name, _, value = part.strip().partition("=")
        if name.strip().lower() == "wait" and value.strip().isdecimal():
            return min(float(value), service.settings.api.max_wait_s)
    return 0.0
