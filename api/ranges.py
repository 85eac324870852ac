"""Answers with a file or one range of it (RFC 9110, section 14). Several ranges at once are answered with the whole."""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Any, BinaryIO, NamedTuple

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
    counts = wanted is not None and (if_range is None or if_range.strip() == etag)
    part = _find_part(wanted) if wanted is not None and counts else None
    if part is None:
        headers["content-length"] = str(size)
        return StreamingResponse(stream_chunks(read(0, size)), 200, headers, media_type)
    first, last = part.limit_to(size)
    if first > last:
        refused = problem("range-not-satisfiable", f"the range {wanted!r} lies beyond the file's {size} bytes")
        refused.headers.update({"content-range": f"bytes */{size}", "accept-ranges": "bytes"})
        return refused
    headers |= {"content-length": f"{last - first + 1}", "content-range": f"bytes {first}-{last}/{size}"}
    return StreamingResponse(stream_chunks(read(first, last - first + 1)), 206, headers, media_type)


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


class _Part(NamedTuple):
    """A range as it was asked for."""

    first: int | None  # None: the last `last` bytes
    last: int | None  # None: up to the end

    def limit_to(self, size: int) -> tuple[int, int]:
        """(first byte, last byte) of a file of `size` bytes; the first is greater than the last if there is none."""
        if self.first is None:
            return max(size - (self.last or 0), 0), size - 1
        return self.first, size - 1 if self.last is None else min(self.last, size - 1)


def _find_part(wanted: str) -> _Part | None:
    """The range; None if the header does not name one: then it is ignored."""
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or not (match[1] or match[2]):
        return None
    first, last = (int(match[group]) if match[group] else None for group in (1, 2))
    return None if first is not None and last is not None and last < first else _Part(first, last)
