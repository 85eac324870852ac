"""Reads requests and writes responses, which look the same in RTSP and HTTP."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    415: "Unsupported Media Type",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    461: "Unsupported Transport",
    501: "Not Implemented",
}


@dataclass(frozen=True)
class Request:
    """One request without its body."""

    method: str
    url: str
    headers: dict[str, str]  # names in lower case

    def read_path(self) -> list[str]:
        """Returns the parts of the URL's path."""
        return [unquote(part) for part in urlsplit(self.url).path.split("/") if part]


class BadRequest(Exception):
    """What arrived is not a request."""


async def read_request(reader: asyncio.StreamReader, first: bytes = b"") -> Request:
    """Reads a request whose first bytes may have been read already. Its body is thrown away."""
    try:
        head = first + await reader.readuntil(b"\r\n\r\n")
        request_line, *lines = head.decode().strip().split("\r\n")
        method, url, _ = request_line.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        await reader.readexactly(int(headers.get("content-length", 0)))
    except (ValueError, asyncio.LimitOverrunError) as error:
        raise BadRequest(str(error)) from error
    return Request(method, url, headers)


def write_response(protocol: str, status: int, headers: Iterable[tuple[str, str]], body: bytes = b"") -> bytes:
    """Returns a whole response. Only a body has a Content-Length."""
    lines = [f"{protocol} {status} {REASONS[status]}", *(f"{name}: {value}" for name, value in headers)]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
