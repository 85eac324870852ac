"""Answers with a file or one range of it (RFC 9110, section 14). Several ranges at once are answered with the whole."""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Any, BinaryIO

from anyio import CancelScope, CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Header
from fastapi.responses import Response, StreamingResponse

from api.problems import problem

CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)

Range = Annotated[str | None, Header(description="One range of bytes, such as `bytes=0-1023`.")]
IfRange = Annotated[str | None, Header(description="An ETag: the range counts only if it is still this one.")]
Read = Callable[[int, int], Iterator[bytes]]  # (first byte, count) -> the bytes in pieces


def respond_with_part(
    size: int, etag: str, media_type: str, read: Read, wanted: str | None, if_range: str | None, more: Mapping[str, str]
) -> Response:
    """The response for a file of `size` bytes that `read` reads: 200, 206, or 416."""
    headers = {**more, "accept-ranges": "bytes", "etag": etag}
    known = if_range is None or if_range.strip() == etag
    part = _find_part(wanted, size) if wanted is not None and known else (0, size)
    if part is None:
        refused = problem("range-not-satisfiable", f"the range {wanted!r} lies beyond the file's {size} bytes")
        refused.headers.update({"content-range": f"bytes */{size}", "accept-ranges": "bytes"})
        return refused
    first, count = part
    headers["content-length"] = str(count)
    status = 200
    if part != (0, size) or (wanted is not None and known and _RANGE.fullmatch(wanted.strip())):
        status = 206
        headers["content-range"] = f"bytes {first}-{first + count - 1}/{size}"
    return StreamingResponse(stream_chunks(read(first, count)), status, headers, media_type)


def read_part(open_file: Callable[[], AbstractContextManager[BinaryIO]], first: int, count: int) -> Iterator[bytes]:
    """A part of a file, in pieces."""
    with open_file() as file:
        file.seek(first)
        while count > 0 and (chunk := file.read(min(count, CHUNK_BYTES))):
            count -= len(chunk)
            yield chunk


async def stream_chunks(chunks: Iterator[bytes], limiter: CapacityLimiter | None = None) -> AsyncIterator[bytes]:
    """The chunks, each made in a thread; `limiter` bounds how many at once. Closes `chunks` if the client leaves."""
    close: Callable[[], Any] | None = getattr(chunks, "close", None)
    try:
        while (chunk := await run_sync(next, chunks, None, limiter=limiter)) is not None:
            yield chunk
    finally:
        if close is not None:
            with CancelScope(shield=True):
                await run_sync(close)


def _find_part(wanted: str, size: int) -> tuple[int, int] | None:
    """(first byte, count); the whole file if the header is not one range; None if it cannot be satisfied."""
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or not (match[1] or match[2]):
        return 0, size
    if not match[1]:  # the last so many bytes
        count = min(int(match[2]), size)
        return (size - count, count) if count else None
    first, last = int(match[1]), min(int(match[2] or size), size - 1)
    if match[2] and int(match[2]) < first:
        return 0, size  # invalid, so it is ignored
    return (first, last - first + 1) if first < size else None
