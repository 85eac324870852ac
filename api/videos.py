"""Routes of videos: submit, list, look at, delete."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sse_starlette import EventSourceResponse
from starlette.datastructures import UploadFile

from api.context import Service, ServiceNeeded
from api.problems import SourceRefused, responses
from api.schemas import VIDEO_EXAMPLE, SegmentList, SegmentView, VideoPage, VideoRequest, VideoView
from api.streaming import progress_events
from api.uploads import receive
from storage.errors import BadRequest, NotFound
from storage.ids import check_video_id, new_video_id
from storage.models import Video
from storage.segments import SEGMENT_FRAMES
from storage.urls import redact

router = APIRouter(prefix="/v1/videos", tags=["videos"])
Seconds = Annotated[float | None, Query(ge=0, allow_inf_nan=False)]
BODIES = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": VideoRequest.model_json_schema(), "example": VIDEO_EXAMPLE},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


@router.post(
    "", status_code=202, response_model=VideoView, responses=responses(400, 403, 413, 422, 503), openapi_extra=BODIES
)
async def submit(request: Request, service: ServiceNeeded) -> Response:
    """Submits a video: JSON with `url` or `path`, or an upload as multipart field `file`.

    Answers 202 with the new video, or 200 where an upload's content is there already.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _upload(request, service)
    if kind != "application/json":
        raise BadRequest("send JSON (content-type: application/json) or a file (multipart/form-data, field `file`)")
    try:
        wanted = VideoRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_context=False)) from error
    video = await run_sync(_new_video, wanted, service)
    return await _submitted(video, service)


@router.get("", responses=responses(422, 503))
def listed(
    service: ServiceNeeded,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
    limit: Annotated[int | None, Query(ge=1, le=200)] = None,
) -> VideoPage:
    """Videos, newest first."""
    size = limit or service.settings.api.page_size
    page: list[VideoView] = []
    for video in service.store.archive.videos(check_video_id(cursor) if cursor else None):
        if len(page) == size:
            return VideoPage(videos=page, next_cursor=page[-1].id)
        page.append(_view(video, service))
    return VideoPage(videos=page, next_cursor=None)


@router.get("/{video_id}", responses=responses(404, 503))
def one(video_id: str, service: ServiceNeeded) -> VideoView:
    """One video with its progress."""
    return _view(service.store.archive.video(video_id), service)


@router.delete("/{video_id}", status_code=204, responses=responses(404, 409, 503))
def delete(video_id: str, service: ServiceNeeded) -> Response:
    """Removes a video with all that belongs to it, and cancels its jobs."""
    video = service.store.archive.video(video_id)
    service.store.delete_video(video_id)
    if video.kind == "upload":
        Path(video.location).unlink(missing_ok=True)
    return Response(status_code=204)


@router.get("/{video_id}/segments", responses=responses(404, 422, 503))
def segments(video_id: str, service: ServiceNeeded, start_s: Seconds = 0.0, end_s: Seconds = None) -> SegmentList:
    """The segments that overlap a stretch."""
    video = service.store.holder(video_id)
    counts = service.store.counts(video.id)
    found = []
    for segment in sorted(counts.frames):
        begin = segment * SEGMENT_FRAMES / video.sample_fps
        end = begin + counts.frames[segment] / video.sample_fps
        if end > (start_s or 0.0) and (end_s is None or begin < end_s):
            encoded = counts.tokens.get(segment, 0)
            found.append(
                SegmentView(
                    segment=segment, start_s=begin, end_s=end, frames=counts.frames[segment], frames_encoded=encoded
                )
            )
    return SegmentList(segments=found)


@router.get("/{video_id}/frames/{t_s}.jpg", responses=responses(404, 422, 503), response_class=Response)
def frame(video_id: str, t_s: float, service: ServiceNeeded) -> Response:
    """The sampled frame nearest to second `t_s`, as it was encoded: 336x336 JPEG."""
    video = service.store.holder(video_id)
    frames = sum(service.store.counts(video.id).frames.values())
    if not frames or not 0 <= t_s <= frames / video.sample_fps:
        raise NotFound(f"no frame at {t_s:g} s: the video has {frames / video.sample_fps:g} s")
    index = min(int(t_s * video.sample_fps), frames - 1)
    picture = service.store.archive.frame(video.id, index)
    headers = {"cache-control": "private, max-age=31536000, immutable"}  # a sampled frame never changes
    return Response(picture, media_type="image/jpeg", headers=headers)


@router.get("/{video_id}/events", responses=responses(404, 503), response_class=EventSourceResponse)
async def events(video_id: str, service: ServiceNeeded) -> EventSourceResponse:
    """Progress as server-sent events, until all is encoded."""
    await run_sync(service.store.archive.video, video_id)
    return EventSourceResponse(progress_events(service.store, video_id, service.settings.api.progress_interval_s))


async def _upload(request: Request, service: Service) -> Response:
    async with request.form(max_files=1, max_fields=4) as form:
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise BadRequest("the multipart body has no file in its field `file`")
        video_id = new_video_id()
        path = service.settings.work_dir / f"{video_id}.video"
        sha256 = await receive(upload, path, service.settings.api.max_upload_bytes)
        name = Path(upload.filename or "upload").name
    video = _video(service, video_id, "upload", name, str(path)).model_copy(update={"sha256": sha256})
    known = await run_sync(service.store.same_content, video)
    if known is not None:
        path.unlink()
        return await _answered(await run_sync(service.store.archive.video, known), service, 200)
    return await _submitted(video, service)


def _new_video(wanted: VideoRequest, service: Service) -> Video:
    mode = wanted.mode
    if wanted.path is not None:
        path = Path(wanted.path).resolve()
        if not any(path.is_relative_to(root.resolve()) for root in service.settings.ingest.allowed_roots):
            raise SourceRefused(f"{wanted.path} lies below none of the folders in ingest.allowed_roots")
        return _video(service, new_video_id(), "path", path.name, str(path), mode)
    url = wanted.url or ""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise BadRequest("url must be an http or https address; upload local files, or use `path`")
    return _video(service, new_video_id(), "url", redact(url), url, mode)


def _video(service: Service, video_id: str, kind: str, source: str, location: str, mode: str | None = None) -> Video:
    ingest = service.settings.ingest
    return Video.model_validate(
        {
            "id": video_id,
            "kind": kind,
            "source": source,
            "location": location,
            "sample_fps": ingest.sample_fps,
            "mode": mode or ingest.mode,
        }
    )


async def _submitted(video: Video, service: Service) -> JSONResponse:
    await run_sync(service.store.add_video, video)
    return await _answered(video, service, 202)


async def _answered(video: Video, service: Service, status: int) -> JSONResponse:
    view = await run_sync(_view, video, service)
    headers = {"location": f"{router.prefix}/{video.id}"}
    return JSONResponse(view.model_dump(mode="json"), status_code=status, headers=headers)


def _view(video: Video, service: Service) -> VideoView:
    return VideoView.of(video, service.store.progress(video))
