"""Routes for streams: add a camera, list, read, change, pause, resume, delete, ask."""

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Request, Response

from api import questions
from api.camera_sources import find_changes
from api.context import Service, ServiceNeeded
from api.description import event_stream, headers, responses
from api.disk import require_free_disk
from api.limits import require_json
from api.paging import Cursor, Limit, Prefix, check_page, cut_page
from api.problems import TooMany
from api.schemas import QuestionRequest, StreamChange, StreamRequest
from api.stream_views import StreamPage, StreamView, view_streams
from api.views import QuestionPage, QuestionView, as_json
from jobs.stream_specs import StreamSpec, make_stream
from storage.documents import Video
from storage.errors import Conflict
from storage.ids import VIDEO_ID

router = APIRouter(prefix="/v1/streams", tags=["streams"])
STORAGE = ("newer-version", "file-damaged", "archive-unavailable", "redis-unavailable")
REFUSALS = (
    "bad-request",
    "source-refused",
    "origin-refused",
    "timed-out",
    "too-large",
    "unsupported-media-type",
    "invalid",
    "disk-full",
)
Prefer = Annotated[str | None, Header(description="`wait=N`: wait up to N seconds for the answer (RFC 7240).")]


@router.post(
    "",
    status_code=201,
    response_model=StreamView,
    responses={201: {"headers": headers("Location")}, **responses("too-many", *REFUSALS, *STORAGE)},
    dependencies=[Depends(require_json)],
)
def add_stream(wanted: StreamRequest, service: ServiceNeeded) -> Response:
    """Adds a camera. A capture worker connects to it within seconds; `state` and `problem` say how that went."""
    most = service.settings.cameras.max_streams
    if service.store.index.count_streams() >= most:
        raise TooMany(f"there are {most} streams (cameras.max_streams): delete one first")
    require_free_disk(service.settings.data_dir, service.settings.api)
    stream, credentials = make_stream(StreamSpec.model_validate(wanted.model_dump()), service.settings)
    service.intake.add_stream(stream, credentials)
    location = {"location": f"{router.prefix}/{stream.id}"}
    return Response(as_json(_view(stream, service)), 201, location, "application/json")


@router.get("", responses=responses("bad-request", "invalid", "state-rebuilding", *STORAGE))
def list_streams(service: ServiceNeeded, cursor: Cursor = None, limit: Limit = None, prefix: Prefix = "") -> StreamPage:
    """Lists streams, newest first."""
    store, size = service.store, limit or service.settings.api.page_size
    check_page(store, cursor, VIDEO_ID)
    ids, behind = cut_page(store.index.list_streams(cursor, size + 1, prefix), size)
    views = view_streams(store, store.read_videos(ids), service.settings.cameras)
    return StreamPage(streams=views, next_cursor=behind)


@router.get("/{stream_id}", responses=responses("not-found", *STORAGE))
def read_stream(stream_id: str, service: ServiceNeeded) -> StreamView:
    """Returns a stream with its present state and its gaps."""
    return _view(service.store.read_stream(stream_id), service)


@router.patch(
    "/{stream_id}",
    responses=responses("not-found", "conflict", *REFUSALS, *STORAGE),
    dependencies=[Depends(require_json)],
)
def change_stream(stream_id: str, wanted: StreamChange, service: ServiceNeeded) -> StreamView:
    """Changes a stream. Its capture starts again if the change concerns it."""
    stream = _find_own(stream_id, service)
    known = service.store.archive.read_credentials(stream_id)
    changes, credentials = find_changes(wanted, stream, known, service.settings)
    return _view(service.intake.change_stream(stream_id, changes, credentials), service)


@router.post("/{stream_id}/pause", responses=responses("origin-refused", "not-found", "conflict", *STORAGE))
def pause_stream(stream_id: str, service: ServiceNeeded) -> StreamView:
    """Stops capturing until `resume`. What was captured can still be asked about."""
    _find_own(stream_id, service)
    return _view(service.intake.change_stream(stream_id, {"paused": True}, None), service)


@router.post("/{stream_id}/resume", responses=responses("origin-refused", "not-found", "conflict", *STORAGE))
def resume_stream(stream_id: str, service: ServiceNeeded) -> StreamView:
    """Captures a paused stream again."""
    _find_own(stream_id, service)
    return _view(service.intake.change_stream(stream_id, {"paused": False}, None), service)


@router.delete(
    "/{stream_id}",
    status_code=204,
    responses=responses("origin-refused", "not-found", "conflict", "state-rebuilding", *STORAGE),
)
def delete_stream(stream_id: str, service: ServiceNeeded) -> Response:
    """Deletes a stream with everything that was captured."""
    _find_own(stream_id, service)
    service.intake.delete_video(stream_id)
    return Response(status_code=204)


@router.post(
    "/{stream_id}/questions",
    status_code=202,
    response_model=QuestionView,
    responses={
        200: {
            "model": QuestionView,
            "content": event_stream("QuestionEvents", beside_json=True),
            "description": f"Answered in time. As a stream: {questions.EVENTS}",
            "headers": headers("Location", "Preference-Applied"),
        },
        202: {"headers": headers("Location", "Preference-Applied")},
        **responses(*questions.REFUSALS, *STORAGE),
    },
    dependencies=[Depends(require_json)],
)
async def ask_about_stream(
    stream_id: str, wanted: QuestionRequest, request: Request, service: ServiceNeeded, prefer: Prefer = None
) -> Response:
    """Asks a question about a stretch of a stream: `start` and `end`, or the last seconds (`last_s`).

    Works as for videos. A question about the future waits until its `end`; `gaps` of the answer say what was not seen.
    """
    await run_sync(service.store.read_stream, stream_id)
    return await questions.ask_question(stream_id, wanted, request, service, prefer)


@router.get(
    "/{stream_id}/questions",
    responses=responses("bad-request", "not-found", "invalid", "state-rebuilding", *STORAGE),
)
def list_questions_of_stream(
    stream_id: str, service: ServiceNeeded, cursor: Cursor = None, limit: Limit = None, prefix: Prefix = ""
) -> QuestionPage:
    """Lists the questions about a stream, newest first."""
    service.store.read_stream(stream_id)
    return questions.list_questions(stream_id, service, cursor, limit, prefix)


def _find_own(stream_id: str, service: Service) -> Video:
    """The stream, if requests may change it. Raises NotFound, Conflict."""
    stream = service.store.read_stream(stream_id)
    file = service.settings.cameras.streams_file
    if file is not None and stream.capture is not None and stream.capture.declared and not stream.capture.paused:
        raise Conflict(f"{stream_id} is declared in {file.name} (cameras.streams_file): change it there")
    return stream


def _view(stream: Video, service: Service) -> StreamView:
    return view_streams(service.store, [stream], service.settings.cameras, with_gaps=True)[0]
