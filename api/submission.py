"""Accepts videos by address, by path, or as an upload, which the archive keeps until it is ingested."""

import json
import logging
from pathlib import Path

from anyio.to_thread import run_sync
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.context import Service
from api.disk import require_free_disk
from api.problems import TooMany
from api.schemas import UploadFields, VideoRequest
from api.sources import from_request, from_upload
from api.uploads import receive, upload_slot
from storage.deletion import delete_video
from storage.documents import Video
from storage.errors import LongwatchError
from storage.ids import new_video_id

log = logging.getLogger(__name__)


def require_room(service: Service) -> None:
    """Raises TooMany, DiskFull or RedisUnavailable, so that nothing is accepted that cannot be queued and processed."""
    most = service.settings.api.max_unsettled_videos
    if service.intake.count_unsettled_videos() >= most:
        raise TooMany(f"{most} videos are queued or in progress (api.max_unsettled_videos): wait until some are ready")
    require_free_disk(service.settings.data_dir, service.settings.api)


async def take_request(request: Request, service: Service) -> Video:
    """Creates a video from a JSON body. Raises RequestValidationError, and what `from_request` raises."""
    try:
        wanted = VideoRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise _invalid(error) from error
    video = await run_sync(from_request, wanted, service.settings)
    await run_sync(service.intake.add_video, video)
    return video


async def take_upload(request: Request, service: Service) -> tuple[Video, bool]:
    """Receives a form with a file: the video, and whether it is new. Another video may already have its content.

    Raises RequestValidationError, and what `receive` raises.
    """
    video_id = new_video_id()
    path = service.settings.work_file(video_id)
    with upload_slot(service.uploads):
        upload = await receive(request, path, service.settings.api)
    try:
        fields = UploadFields.model_validate_json(json.dumps(upload.fields))
        video = from_upload(video_id, upload, fields, service.settings)
        return await run_sync(_keep, video, path, service)
    except ValidationError as error:
        raise _invalid(error) from error
    finally:
        path.unlink(missing_ok=True)  # by now the archive holds it, or it was refused


def _keep(video: Video, path: Path, service: Service) -> tuple[Video, bool]:
    known = service.intake.claim_upload(video)
    if known is not None:
        return service.intake.fill_in(known, video), False
    try:
        service.store.archive.put_source(video.id, path)
        service.intake.add_video(video)
    except LongwatchError:
        _withdraw(video, service)
        raise
    return video, True


def _withdraw(video: Video, service: Service) -> None:
    """Removes what was stored of a video that could not be accepted; its client gets the error."""
    try:
        delete_video(service.store, video.id)
    except LongwatchError as error:
        log.warning("cannot remove what was received of %s; it stays until the archive is swept: %s", video.id, error)


def _invalid(error: ValidationError) -> RequestValidationError:
    found = error.errors(include_context=False)
    return RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in found])
