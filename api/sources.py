"""Turns what was submitted into a new video, or says why it cannot be one."""

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from api.problems import SourceRefused
from api.schemas import SamplingMode, VideoRequest
from api.uploads import Upload
from configs.settings import IngestSettings, Settings
from storage.errors import BadRequest
from storage.ids import new_video_id
from storage.models import Video
from storage.urls import redact


def from_request(wanted: VideoRequest, settings: Settings) -> Video:
    """The video at an address or a path; raises BadRequest, SourceRefused. What ingest finds there shows later."""
    if wanted.path is not None:
        path = _allowed(wanted.path, settings.ingest)
        return _video(settings, new_video_id(), "path", path.name, str(path), wanted.mode)
    url = wanted.url or ""
    return _video(settings, new_video_id(), "url", _shown(url), url, wanted.mode)


def from_upload(video_id: str, path: Path, upload: Upload, mode: SamplingMode | None, settings: Settings) -> Video:
    """The video whose bytes were received into `path`."""
    video = _video(settings, video_id, "upload", upload.name, str(path), mode)
    return video.model_copy(update={"sha256": upload.sha256})


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
            return redact(url)
    except ValueError as error:  # a port that is no number, a bracket that is never closed
        raise BadRequest(f"url cannot be read: {error}") from error
    raise BadRequest("url must be an http or https address without spaces; upload local files, or use `path`")


def _video(
    settings: Settings,
    video_id: str,
    kind: Literal["url", "path", "upload"],
    source: str,
    location: str,
    mode: SamplingMode | None,
) -> Video:
    return Video(
        id=video_id,
        kind=kind,
        source=source,
        location=location,
        sample_fps=settings.ingest.sample_fps,
        mode=mode or settings.ingest.mode,
    )
