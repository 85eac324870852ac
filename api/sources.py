"""Turns what was submitted into a new video, or says why it cannot be one."""

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
    """The video at an address or a path; raises BadRequest, SourceRefused. What ingest finds there shows later."""
    if wanted.path is not None:
        path = _allowed(wanted.path, settings.ingest)
        return Video(
            kind="path",
            source=escape_controls(path.name),
            location=str(path),
            **_common(new_video_id(), wanted, settings),
        )
    url = wanted.url or ""
    return Video(kind="url", source=_shown(url), location=url, **_common(new_video_id(), wanted, settings))


def from_upload(video_id: str, upload: Upload, fields: UploadFields, settings: Settings) -> Video:
    """The video whose bytes were received; the archive is to hold them."""
    common = _common(video_id, fields, settings)
    return Video(kind="upload", source=upload.name, location="", in_archive=True, sha256=upload.sha256, **common)


def _common(video_id: str, wanted: UploadFields, settings: Settings) -> Any:
    return {
        "id": video_id,
        "title": wanted.title,
        "recorded_at": wanted.recorded_at,
        "sample_fps": settings.ingest.sample_fps,
        "mode": wanted.mode or settings.ingest.mode,
    }


def _allowed(given: str, ingest: IngestSettings) -> Path:
    """The file's real path, symlinks resolved, which lies below an allowed folder."""
    if not Path(given).is_absolute():
        raise BadRequest("path must be absolute, as the ingest worker's machine sees it")
    try:
        path = Path(given).resolve()
        roots = [root.resolve() for root in ingest.allowed_roots]
    except (OSError, ValueError, RuntimeError) as error:  # a NUL inside, or a symlink that leads to itself
        raise BadRequest(f"path cannot be one: {error}") from error
    if not any(path.is_relative_to(root) for root in roots):
        raise SourceRefused(
            f"{given} lies below none of the folders in ingest.allowed_roots: add its folder, or upload"
        )
    return path


def _shown(url: str) -> str:
    """The address without its secrets; raises BadRequest where it is none."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        if usable and url.isprintable() and " " not in url:
            return escape_controls(redact(url))
    except ValueError as error:  # a port that is no number, a bracket that is never closed
        raise BadRequest(f"url cannot be read: {error}") from error
    raise BadRequest("url must be an http or https address without spaces; upload local files, or use `path`")
