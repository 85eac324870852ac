"""Routes of videos: submit, list, look at, delete."""

import hashlib
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sse_starlette import EventSourceResponse

from api.context import Service, ServiceNeeded
from api.description import event_stream, headers, reference, responses
from api.disk import require_free_disk
from api.limits import is_multipart, media_type
from api.paging import Cursor, Limit, check_cursor, paged
from api.problems import UnsupportedMediaType
from api.schemas import SegmentList, SegmentView, UploadFields, VideoPage, VideoRequest, VideoView
from api.sources import from_request, from_upload
from api.streaming import progress_stream
from api.uploads import receive, upload_slot
from storage.errors import BadRequest, NotFound
from storage.ids import VIDEO_ID, new_video_id
from storage.models import Video
from storage.segments import SEGMENT_FRAMES

router = APIRouter(prefix="/v1/videos", tags=["videos"])
Seconds = Annotated[float | None, Query(ge=0, allow_inf_nan=False)]
STORAGE = ("archive-unavailable", "redis-unavailable")
BODIES = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": reference("VideoRequest")},
            "multipart/form-data": {"schema": reference("VideoUpload")},
        },
    }
}
PICTURE: dict[str, Any] = {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}


@router.post(
    "",
    status_code=202,
    response_model=VideoView,
    responses={
        200: {
            "model": VideoView,
            "description": "The upload's content is there already: this video has it",
            "headers": headers("Location"),
        },
        202: {"headers": headers("Location")},
        **responses(
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
            *STORAGE,
        ),
    },
    openapi_extra=BODIES,
)
async def submit_video(request: Request, service: ServiceNeeded) -> Response:
    """Submits a video: JSON with `url` or `path`, or an upload as multipart field `file`.

    Answers 202 with the new video, or 200 where an upload's content is there already.
    """
    await run_sync(service.store.hot.check)  # nothing is taken in that could not be queued
    content_type = request.headers.get("content-type", "")
    if is_multipart(content_type):
        return await _upload(request, service)
    if media_type(content_type) != "application/json":
        raise UnsupportedMediaType("send JSON (application/json) or a file (multipart/form-data, field `file`)")
    try:
        wanted = VideoRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise _invalid(error) from error
    await run_sync(require_free_disk, service.settings.data_dir, service.settings.api)
    video = await run_sync(from_request, wanted, service.settings)
    await run_sync(service.store.add_video, video)
    return await _answered(video, service, 202)


@router.get("", responses=responses("bad-request", "invalid", *STORAGE))
def list_videos(service: ServiceNeeded, cursor: Cursor = None, limit: Limit = None) -> VideoPage:
    """Videos, newest first."""
    check_cursor(cursor, VIDEO_ID)
    videos, behind = paged(service.store.archive.videos(cursor), limit or service.settings.api.page_size)
    return VideoPage(videos=[_view(video, service) for video in videos], next_cursor=behind)


@router.get("/{video_id}", responses=responses("not-found", *STORAGE))
def read_video(video_id: str, service: ServiceNeeded) -> VideoView:
    """One video with its progress."""
    return _view(service.store.archive.video(video_id), service)


@router.delete("/{video_id}", status_code=204, responses=responses("not-found", "conflict", *STORAGE))
def delete_video(video_id: str, service: ServiceNeeded) -> Response:
    """Removes a video with all that belongs to it, cancels its jobs and ends its answers.

    409 while other videos of the same content lean on its frames: delete these first.
    """
    store = service.store
    open_questions = [i for i in store.hot.unfinished() if i.startswith(f"{video_id}_")]
    store.delete_video(video_id)
    for question_id in open_questions:
        store.answers.cancel(question_id)
        store.hot.mark_finished(question_id)
    service.settings.work_file(video_id).unlink(missing_ok=True)
    return Response(status_code=204)


@router.get("/{video_id}/segments", responses=responses("bad-request", "not-found", "invalid", *STORAGE))
def list_segments(video_id: str, service: ServiceNeeded, start_s: Seconds = None, end_s: Seconds = None) -> SegmentList:
    """The segments that overlap a stretch."""
    first_s = start_s or 0.0
    if end_s is not None and end_s <= first_s:
        raise BadRequest(f"end_s ({end_s:g}) must be greater than start_s ({first_s:g})")
    video = service.store.holder(video_id)
    counts = service.store.counts(video.id)
    found = []
    for segment, frames in sorted(counts.frames.items()):
        begin = segment * SEGMENT_FRAMES / video.sample_fps
        end = begin + frames / video.sample_fps
        if end > first_s and (end_s is None or begin < end_s):
            encoded = counts.tokens.get(segment, 0)
            found.append(SegmentView(segment=segment, start_s=begin, end_s=end, frames=frames, frames_encoded=encoded))
    return SegmentList(segments=found)


@router.head("/{video_id}/frames/{t_s}.jpg", include_in_schema=False)
@router.get(
    "/{video_id}/frames/{t_s}.jpg",
    responses={
        200: {"content": PICTURE, "description": "The picture", "headers": headers("ETag")},
        304: {"description": "As in If-None-Match"},
        **responses("not-found", "invalid", *STORAGE),
    },
    response_class=Response,
)
def read_frame(
    video_id: str, t_s: float, service: ServiceNeeded, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """The sampled frame nearest to second `t_s`, as it was encoded: 336x336 JPEG."""
    video = service.store.holder(video_id)
    frames = sum(service.store.counts(video.id).frames.values())
    last_s = frames / video.sample_fps
    if not frames or not 0 <= t_s <= last_s:
        raise NotFound(f"no frame at {t_s:g} s: the video has {last_s:g} s of frames")
    index = min(int(t_s * video.sample_fps), frames - 1)  # frame k stands for the time (k + 0.5) / sample_fps
    picture = service.store.archive.frame(video.id, index)
    etag = f'"{hashlib.sha256(picture).hexdigest()[:32]}"'
    headers = {"cache-control": "private, max-age=3600", "etag": etag}
    if if_none_match is not None and etag in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(picture, media_type="image/jpeg", headers=headers)


@router.get(
    "/{video_id}/events",
    responses={
        200: {"content": event_stream("VideoEvents"), "description": "Events `progress`"},
        **responses("not-found", *STORAGE),
    },
    response_class=EventSourceResponse,
)
async def follow_video(video_id: str, service: ServiceNeeded) -> EventSourceResponse:
    """Progress as server-sent events: `progress` with the video at every change, until all is encoded."""
    await run_sync(service.store.archive.video, video_id)
    return progress_stream(service, video_id)


async def _upload(request: Request, service: Service) -> Response:
    store, settings = service.store, service.settings
    video_id = new_video_id()
    path = settings.work_file(video_id)
    with upload_slot(service.uploads):
        upload = await receive(request, path, settings.api)
    try:
        fields = UploadFields.model_validate(upload.fields)
        video = from_upload(video_id, path, upload, fields.mode, settings)
        known = await run_sync(store.same_content, video)
        if known is not None:
            path.unlink()
            return await _answered(known, service, 200)
        await run_sync(store.add_video, video)
    except ValidationError as error:
        path.unlink(missing_ok=True)
        raise _invalid(error) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return await _answered(video, service, 202)


async def _answered(video: Video, service: Service, status: int) -> JSONResponse:
    view = await run_sync(_view, video, service)
    headers = {"location": f"{router.prefix}/{video.id}"}
    return JSONResponse(view.model_dump(mode="json"), status_code=status, headers=headers)


def _view(video: Video, service: Service) -> VideoView:
    try:
        return VideoView.of(video, service.store.progress(video))
    except NotFound:  # a duplicate whose holder's file is damaged: the log names it
        return VideoView.of(video, None)


def _invalid(error: ValidationError) -> RequestValidationError:
    found = error.errors(include_context=False)
    return RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in found])
