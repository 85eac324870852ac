"""Turns a request for a stream into its document and credentials, or says why that is impossible."""

import ipaddress
from datetime import UTC, datetime
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from api.problems import SourceRefused
from api.schemas import StreamChange, StreamRequest
from configs.private_hosts import parse_private_host
from configs.settings import Settings
from storage.documents import Capture, Credentials, Video
from storage.errors import BadRequest
from storage.ids import new_video_id
from storage.text import escape_controls
from storage.urls import redact

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}  # RFC 7826, 4.2; RFC 9110, 4.2


def new_stream(wanted: StreamRequest, settings: Settings, *, declared: bool = False) -> tuple[Video, Credentials]:
    """The stream's document, and its credentials, which no document contains. Raises BadRequest, SourceRefused."""
    location, credentials = split_credentials(wanted.url, wanted.username, wanted.password)
    check_camera_address(location, settings.ingest.camera_networks)
    now = datetime.now(UTC).replace(microsecond=0)
    stream = Video(
        id=new_video_id(),
        kind="stream",
        status="live",
        source=escape_controls(redact(location)),
        title=wanted.name,
        location=location,
        created_at=now,
        recorded_at=now,  # the grid's anchor
        sample_fps=wanted.sample_fps or settings.ingest.sample_fps,
        mode=wanted.decode or settings.ingest.mode,
        capture=Capture(
            transport=wanted.transport,
            record=wanted.record,
            static_threshold=wanted.static_threshold,
            retention=wanted.retention,
            declared=declared,
        ),
    )
    return stream, credentials


def find_changes(
    wanted: StreamChange, stream: Video, known: Credentials, settings: Settings
) -> tuple[dict[str, object], Credentials | None]:
    """The fields that a request changes, and the new credentials if it changes them. Raises as `new_stream`."""
    given = wanted.model_dump(exclude_unset=True, exclude={"url", "username", "password", "retention"})
    changes: dict[str, object] = {FIELDS.get(name, name): value for name, value in given.items()}
    if "retention" in wanted.model_fields_set and wanted.retention is not None:
        changes["retention"] = wanted.retention
    if not {"url", "username", "password"} & wanted.model_fields_set:
        return changes, None
    user = wanted.username if "username" in wanted.model_fields_set else None if wanted.url else known.username
    word = wanted.password if "password" in wanted.model_fields_set else None if wanted.url else known.password
    location, credentials = split_credentials(wanted.url or stream.location, user, word)
    if wanted.url is not None:
        check_camera_address(location, settings.ingest.camera_networks)
        changes |= {"location": location, "source": escape_controls(redact(location))}
        if not credentials.username and not {"username", "password"} & wanted.model_fields_set:
            same_host = urlsplit(location).hostname == urlsplit(stream.location).hostname
            credentials = known if same_host else credentials  # a password is never sent to another host
    return changes, credentials


FIELDS = {"name": "title", "decode": "mode"}  # of requests -> of documents


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
    """Raises SourceRefused for an address outside `ingest.camera_networks`. The capturing host resolves names."""
    parts = urlsplit(location)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    allowed = [parse_private_host(entry) for entry in networks]
    if not allowed:
        raise SourceRefused("no cameras are allowed: list their networks in ingest.camera_networks, such as 10.0.0.0/8")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if not any(entry.covers(host, address, port) for entry in allowed):
        raise SourceRefused(f"{host} port {port} is not in ingest.camera_networks: add it there if it is a camera")
