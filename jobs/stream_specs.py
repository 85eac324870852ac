"""Turns the description of a stream into its document and credentials, whether a request or a file describes it."""

import ipaddress
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field

from configs.private_hosts import parse_private_host
from configs.settings import Settings
from storage.documents import Capture, Credentials, Retention, Video
from storage.errors import BadRequest, LongwatchError
from storage.ids import new_video_id
from storage.text import escape_controls
from storage.urls import redact

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}  # RFC 7826, 4.2; RFC 9110, 4.2


class CameraRefused(LongwatchError):
    """The settings do not allow cameras at this address."""

    code = "source-refused"


class StreamSpec(BaseModel):
    """A camera to capture."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(max_length=4096)
    name: str | None = Field(None, min_length=1, max_length=200)
    username: str | None = Field(None, max_length=1024)
    password: str | None = Field(None, max_length=1024, repr=False)
    transport: Literal["tcp", "udp"] = "tcp"
    sample_fps: float | None = Field(None, gt=0, le=60)
    decode: Literal["exact", "keyframes"] | None = None
    record: bool = False
    retention: Retention = Retention()
    static_threshold: float = Field(0.0, ge=0, le=255)
    paused: bool = False


def make_stream(spec: StreamSpec, settings: Settings, *, declared: bool = False) -> tuple[Video, Credentials]:
    """The stream's document, and its credentials, which no document contains. Raises BadRequest, CameraRefused."""
    location, credentials = split_credentials(spec.url, spec.username, spec.password)
    check_camera_address(location, settings.ingest.camera_networks)
    now = datetime.now(UTC).replace(microsecond=0)
    stream = Video(
        id=new_video_id(),
        kind="stream",
        status="live",
        source=escape_controls(redact(location)),
        title=spec.name,
        location=location,
        created_at=now,
        recorded_at=now,  # the grid's anchor
        sample_fps=spec.sample_fps or settings.ingest.sample_fps,
        mode=spec.decode or settings.ingest.mode,
        capture=Capture(
            transport=spec.transport,
            record=spec.record,
            static_threshold=spec.static_threshold,
            retention=spec.retention,
            paused=spec.paused,
            declared=declared,
        ),
    )
    return stream, credentials


def split_credentials(url: str, username: str | None, password: str | None) -> tuple[str, Credentials]:
    """The address without user and password, and these two. Raises BadRequest."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise BadRequest(f"url is invalid: {error}") from error
    if not usable or not url.isprintable() or " " in url:
        raise BadRequest(f"url must be an address without spaces of {', '.join(PORTS)}")
    inside = parts.username is not None or parts.password is not None
    if inside and (username or password):
        raise BadRequest("the user name is given twice: leave it out of url")
    if inside:
        username, password = unquote(parts.username or ""), unquote(parts.password or "")
    location = urlunsplit(SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
    return location, Credentials(username=username or "", password=password or "")


def check_camera_address(location: str, networks: tuple[str, ...]) -> None:
    """Raises CameraRefused for an address outside `ingest.camera_networks`. The capturing host resolves names."""
    parts = urlsplit(location)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    allowed = [parse_private_host(entry) for entry in networks]
    if not allowed:
        raise CameraRefused("no cameras are allowed: list their networks in ingest.camera_networks, such as 10.0.0.0/8")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if not any(entry.covers(host, address, port) for entry in allowed):
        raise CameraRefused(f"{host} port {port} is not in ingest.camera_networks: add it there if it is a camera")
