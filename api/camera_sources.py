"""Turns a request to change a stream into changes of its document and credentials."""

from urllib.parse import urlsplit

from api.schemas import StreamChange
from configs.settings import Settings
from jobs.stream_specs import check_camera_address, split_credentials
from storage.documents import Credentials, Video
from storage.text import escape_controls
from storage.urls import redact

LOGIN = {"username", "password"}
FIELDS = {"name": "title", "decode": "mode"}  # of requests -> of documents


def find_changes(
    wanted: StreamChange, stream: Video, known: Credentials, settings: Settings
) -> tuple[dict[str, object], Credentials | None]:
    """The fields that a request changes, and the new credentials if it changes them.

    A password is never sent to another host: with a new host it must be given again. Raises BadRequest, CameraRefused.
    """
    given = {name: getattr(wanted, name) for name in wanted.model_fields_set - LOGIN - {"url"}}
    changes: dict[str, object] = {
        FIELDS.get(name, name): value for name, value in given.items() if value is not None or name == "name"
    }
    if wanted.url is None and not LOGIN & wanted.model_fields_set:
        return changes, None
    location, credentials = split_credentials(wanted.url or stream.location, wanted.username, wanted.password)
    check_camera_address(location, settings.ingest.camera_networks)
    changes |= {"location": location, "source": escape_controls(redact(location))}
    same_host = urlsplit(location).hostname == urlsplit(stream.location).hostname
    if same_host and not credentials.username and "username" not in wanted.model_fields_set:
        credentials = credentials.model_copy(update={"username": known.username})
    if same_host and not credentials.password and "password" not in wanted.model_fields_set:
        credentials = credentials.model_copy(update={"password": known.password})
    return changes, credentials
