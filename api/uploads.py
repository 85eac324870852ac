"""Writes an uploaded file to the working folder as it arrives, and hashes it on the way."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from anyio import CapacityLimiter, WouldBlock
from anyio.to_thread import run_sync
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.disk import require_free_disk
from api.problems import TooLarge, TooMany, WorkDirUnavailable
from configs.settings import ApiSettings
from storage.errors import BadRequest

CHUNK_BYTES = 1 << 20  # written in one go, in a worker thread
LONGEST_FIELD_BYTES, MOST_FIELDS = 1024, 8
LONGEST_NAME_CHARS = 200


class Upload(NamedTuple):
    """A received file: the client's name for it, its hash, and the form's other fields."""

    name: str
    sha256: str
    fields: dict[str, str]


@contextmanager
def upload_slot(slots: CapacityLimiter) -> Iterator[None]:
    """Holds one of the slots for uploads; raises TooMany if all are taken."""
    upload = object()
    try:
        slots.acquire_on_behalf_of_nowait(upload)
    except WouldBlock as error:
        most = f"{slots.total_tokens:g} files are being received (api.max_uploads)"
        raise TooMany(f"{most}; try again later") from error
    try:
        yield
    finally:
        slots.release_on_behalf_of(upload)


async def receive(request: Request, into: Path, settings: ApiSettings) -> Upload:
    """Writes the form's file (field `file`) to `into`; leaves nothing behind if it raises.

    Raises TooLarge, DiskFull, BadRequest, WorkDirUnavailable, and Starlette's ClientDisconnect and HTTPException.
    """
    boundary = parse_options_header(request.headers.get("content-type", ""))[1].get(b"boundary")
    if not boundary:
        raise BadRequest("the content-type has no boundary: let the HTTP client set it")
    with _translate_errors(into.parent):
        into.parent.mkdir(parents=True, exist_ok=True)
        require_free_disk(into.parent, settings, int(request.headers.get("content-length", 0)))
        with into.open("xb") as file:
            try:
                return await _receive_form(request, _Form(file, boundary, settings))
            except BaseException:
                into.unlink()
                raise


async def _receive_form(request: Request, form: "_Form") -> Upload:
    pending = bytearray()
    async for chunk in request.stream():
        pending += chunk
        if len(pending) >= CHUNK_BYTES:
            await run_sync(form.write, bytes(pending))
            pending.clear()
    await run_sync(form.write, bytes(pending))
    return await run_sync(form.finish)


@contextmanager
def _translate_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise BadRequest(f"the multipart body cannot be read: {error}") from error
    except OSError as error:
        raise WorkDirUnavailable(f"cannot write to {folder}: {error}; check data_dir and its free space") from error


class _Form:
    """Parses a multipart body as it arrives: writes its file to disk, and collects its short fields."""

    def __init__(self, file: BinaryIO, boundary: bytes, settings: ApiSettings) -> None:
        self._file = file
        self._settings = settings
        self._digest = hashlib.sha256()
        self._size = 0
        self._file_name: str | None = None
        self._fields: dict[str, bytearray] = {}
        self._field: bytearray | None = None  # None while the current part is the file
        self._header_name, self._header_value, self._disposition = b"", b"", b""
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_header_field": self._on_header_name,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_part,
                "on_part_data": self._on_data,
                "on_end": self._on_end,
            },
        )

    def write(self, body: bytes) -> None:
        """Parses the next bytes of the body."""
        self._parser.write(body)
        require_free_disk(Path(self._file.name).parent, self._settings)

    def finish(self) -> Upload:
        """Returns what arrived, once it is on disk; raises BadRequest if it is incomplete."""
        if not self._ended:
            raise BadRequest("the multipart body ended early")
        if self._file_name is None or not self._size:
            raise BadRequest("the multipart body has no file, or an empty one, in its field `file`")
        self._file.flush()
        os.fsync(self._file.fileno())
        fields = {name: value.decode(errors="replace") for name, value in self._fields.items()}
        return Upload(self._file_name, self._digest.hexdigest(), fields)

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name, self._header_value = b"", b""

    def _on_part(self) -> None:
        options = parse_options_header(self._disposition)[1]
        self._disposition = b""
        name = options.get(b"name", b"").decode(errors="replace")
        if b"filename" in options:
            if name != "file" or self._file_name is not None:
                raise BadRequest("send one file, in the field `file`")
            self._file_name = shown_name(options[b"filename"].decode(errors="replace"))
            self._field = None
        else:
            if name in self._fields or len(self._fields) == MOST_FIELDS:
                raise BadRequest(f"the field {name!r} occurs twice, or there are more than {MOST_FIELDS} fields")
            self._field = self._fields[name] = bytearray()

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if self._field is not None:
            self._field += piece
            if len(self._field) > LONGEST_FIELD_BYTES:
                raise BadRequest(f"a form field is longer than {LONGEST_FIELD_BYTES} bytes")
            return
        self._size += len(piece)
        if self._size > self._settings.max_upload_bytes:
            raise TooLarge(f"the file is larger than {self._settings.max_upload_bytes} bytes (api.max_upload_bytes)")
        self._digest.update(piece)
        self._file.write(piece)

    def _on_end(self) -> None:
        self._ended = True


def shown_name(name: str) -> str:
    """The last part of a client's file name, without unprintable characters."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(letter for letter in last if letter.isprintable())[:LONGEST_NAME_CHARS] or "upload"
