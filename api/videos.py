"""Routes for videos: submit, list, read, retry, delete."""

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from sse_starlette import EventSourceResponse

from api.context import Service, ServiceNeeded
from api.description import event_stream, headers, reference, responses
from api.limits import is_multipart, media_type
from api.paging import Cursor, Limit, Prefix, check_page, cut_page
from api.problems import UnsupportedMediaType
from api.streaming import progress_stream
from api.submission import require_room, take_request, take_upload
from api.views import VideoPage, VideoView, as_json, view_videos
from storage.documents import Video
from storage.ids import VIDEO_ID

router = APIRouter(prefix="/v1/videos", tags=["videos"])
STORAGE = ("newer-version", "file-damaged", "archive-unavailable", "redis-unavailable")
REFUSALS = (
    "bad-request",
    "source-refused",
    "origin-refused",
    "timed-out",
    "too-large",
    "unsupported-media-type",
    "invalid",
    "too-many",
    "work-dir-unavailable",
    "disk-full",
)
BODIES = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": reference("VideoRequest")},
            "multipart/form-data": {"schema": reference("VideoUpload")},
        },
    }
}


@router.post(
    "",
    status_code=202,
    response_model=VideoView,
    responses={
        200: {
            "model": VideoView,
            "description": "This video already has the upload's content",
            "headers": headers("Location"),
        },
        202: {"headers": headers("Location")},
        **responses(*REFUSALS, *STORAGE),
    },
    openapi_extra=BODIES,
)
async def submit_video(request: Request, service: ServiceNeeded) -> Response:
    """Submits a video or an image: JSON with `url` or `path`, or an upload as multipart field `file`.

    Answers 202 with the new video, or 200 with the video that already has an upload's content.
    """
    content_type = request.headers.get("content-type", "")
    if not is_multipart(content_type) and media_type(content_type) != "application/json":
        raise UnsupportedMediaType("send JSON (application/json) or a file (multipart/form-data, field `file`)")
    await run_sync(require_room, service)
    if is_multipart(content_type):
        video, is_new = await take_upload(request, service)
    else:
        video, is_new = await take_request(request, service), True
    return await _respond(video, service, 202 if is_new else 200)


@router.get("", responses=responses("bad-request", "invalid", "state-rebuilding", *STORAGE))
def list_videos(service: ServiceNeeded, cursor: Cursor = None, limit: Limit = None, prefix: Prefix = "") -> VideoPage:
    """Lists videos, newest first."""
    store, size = service.store, limit or service.settings.api.page_size
    check_page(store, cursor, VIDEO_ID)
    ids, behind = cut_page(store.index.list_videos(cursor, size + 1, prefix), size)
    return VideoPage(videos=view_videos(store, store.read_videos(ids)), next_cursor=behind)


@router.get("/{video_id}", responses=responses("not-found", *STORAGE))
def read_video(video_id: str, service: ServiceNeeded) -> VideoView:
    """Returns a video with its progress."""
    return view_videos(service.store, [service.store.read_video(video_id)])[0]


@router.post(
    "/{video_id}/retry",
    status_code=202,
    response_model=VideoView,
    responses={
        202: {"headers": headers("Location")},
        **responses("origin-refused", "not-found", "conflict", "state-rebuilding", *STORAGE),
    },
)
async def retry_video(video_id: str, service: ServiceNeeded) -> Response:
    """Ingests a failed video again, and retries segments that could not be encoded."""
    return await _respond(await run_sync(service.intake.retry_video, video_id), service, 202)


@router.delete(
    "/{video_id}",
    status_code=204,
    responses=responses("origin-refused", "not-found", "conflict", "state-rebuilding", *STORAGE),
)
def delete_video(video_id: str, service: ServiceNeeded) -> Response:
    """Deletes a video with everything that belongs to it, and ends its answers.

    409 while other videos with the same content use its frames: delete those first.
    """
    service.intake.delete_video(video_id)
    return Response(status_code=204)


@router.get(
    "/{video_id}/events",
    responses={
        200: {"content": event_stream("VideoEvents"), "description": "Events `progress`"},
        **responses("not-found", *STORAGE),
    },
    response_class=EventSourceResponse,
)
async def follow_video(video_id: str, service: ServiceNeeded) -> EventSourceResponse:
    """Streams server-sent events: `progress` with the video at every change, until it is complete."""
    await run_sync(service.store.read_video, video_id)
    return progress_stream(service, video_id)


async def _respond(video: Video, service: Service, status: int) -> Response:
    (view,) = await run_sync(view_videos, service.store, [video])
    location = {"location": f"{router.prefix}/{video.id}"}
    return Response(as_json(view), status, location, "application/json")
