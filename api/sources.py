"""Turns a submission into a new video, or says why that is impossible."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from api.problems import SourceRefused
from api.schemas import UploadFields, VideoRequest
from api.uploads import Upload
from configs.settings import IngestSettings, Settings
from storage.documents import Video
from storage.errors import BadRequest
from storage.ids import new_video_id
from storage.text import escape_controls
from storage.urls import redact


def from_request(wanted: VideoRequest, settings: Settings) -> Video:
    """The video at an address or a path; raises BadRequest, SourceRefused. Ingest looks at its content later."""
    if wanted.path is not None:
        path = _resolve_allowed(wanted.path, settings.ingest)
        return Video(
            kind="path",
            source=escape_controls(path.name),
            location=str(path),
            **_common_fields(new_video_id(), wanted, settings),
        )
    url = wanted.url or ""
    return Video(kind="url", source=_redact_url(url), location=url, **_common_fields(new_video_id(), wanted, settings))


def from_upload(video_id: str, upload: Upload, fields: UploadFields, settings: Settings) -> Video:
    """The video whose bytes were received; the caller puts them into the archive."""
    common = _common_fields(video_id, fields, settings)
    return Video(kind="upload", source=upload.name, location="", in_archive=True, sha256=upload.sha256, **common)


def _common_fields(video_id: str, wanted: UploadFields, settings: Settings) -> Any:
    return {
        "id": video_id,
        "title": wanted.title,
        "recorded_at": wanted.recorded_at,
        "sample_fps": settings.ingest.sample_fps,
        "mode": wanted.mode or settings.ingest.mode,
    }


def _resolve_allowed(given: str, ingest: IngestSettings) -> Path:
    """The file's path with symlinks resolved; raises BadRequest, or SourceRefused if no allowed folder contains it."""
    if not Path(given).is_absolute():
        raise BadRequest("path must be absolute, as the ingest worker's machine sees it")
    try:
        path = Path(given).resolve()
        roots = [root.resolve() for root in ingest.allowed_roots]
    except (OSError, ValueError, RuntimeError) as error:  # a NUL character, or a symlink loop
        raise BadRequest(f"path is invalid: {error}") from error
    if not any(path.is_relative_to(root) for root in roots):
        raise SourceRefused(
            f"{given} is not below any folder in ingest.allowed_roots: add its folder, or upload the file"
        )
    return path


def _redact_url(url: str) -> str:
    """The address without its secrets; raises BadRequest if it is invalid."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        if usable and url.isprintable() and " " not in url:
            return escape_controls(redact(url))
    except ValueError as error:  # a port that is not a number, or an unclosed bracket
        raise BadRequest(f"url is invalid: {error}") from error
    raise BadRequest("url must be an http or https address without spaces; upload local files, or use `path`")
