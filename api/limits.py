"""Limits on requests: how many at once, and how large and how slow a body may be, checked while it is read."""

import time

from anyio import move_on_after
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import UnsupportedMediaType, problem
from configs.settings import ApiSettings

MULTIPART_SLACK_BYTES = 64 * 1024  # boundaries, headers and fields around an uploaded file


class RequestLimit:
    """ASGI middleware: allows up to `most` requests at once, streams included."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self._app = app
        self._most = most
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 503."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._running >= self._most:
            detail = f"the service already handles {self._most} requests (api.max_connections); try again later"
            await problem("overloaded", detail)(scope, receive, send)
        else:
            self._running += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._running -= 1


class BodyLimit:
    """ASGI middleware: limits the size and the time of bodies. Forms with files for `upload_path` count as uploads."""

    def __init__(self, app: ASGIApp, *, settings: ApiSettings, upload_path: str) -> None:
        self._app = app
        self._settings = settings
        self._upload_path = upload_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 413 or 408."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        limit, setting = self._find_limit(scope["path"], headers)
        refusal = f"the body is larger than {limit} bytes ({setting})"
        promised = headers.get(b"content-length", b"")
        if promised.isdigit() and int(promised) > limit:
            await problem("too-large", refusal)(scope, receive, send)
            return
        body = _Body(receive, self._settings, limit, refusal)

        async def watched(message: Message) -> None:
            body.answering = True
            await send(message)

        await self._app(scope, body.receive, watched)

    def _find_limit(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str]:
        if path == self._upload_path and is_multipart(headers.get(b"content-type", b"").decode("latin-1")):
            return self._settings.max_upload_bytes + MULTIPART_SLACK_BYTES, "api.max_upload_bytes"
        return self._settings.max_body_bytes, "api.max_body_bytes"


class _Body:
    """A body as it arrives. Counts its bytes, and the time spent waiting for the sender but not our own."""

    def __init__(self, receive: Receive, settings: ApiSettings, limit_bytes: int, refusal: str) -> None:
        self._receive = receive
        self._settings = settings
        self._limit_bytes = limit_bytes
        self._refusal = refusal
        self._received = 0
        self._waited_s = 0.0
        self._whole = False
        self.answering = False

    async def receive(self) -> Message:
        """The next message. Raises HTTPException: FastAPI passes on no other error from reading a body."""
        if self._whole:
            return await self._receive()
        allowed_s = self._settings.body_timeout_s + self._received / self._settings.min_body_bytes_per_s
        began = time.monotonic()
        with move_on_after(allowed_s - self._waited_s) as scope:
            message = await self._receive()
        if scope.cancelled_caught:
            if self.answering:  # the body is no longer read: the client counts as gone
                return {"type": "http.disconnect"}
            limits = "api.body_timeout_s, api.min_body_bytes_per_s"
            raise HTTPException(408, f"only {self._received} bytes of the body came in {allowed_s:.0f} s ({limits})")
        self._waited_s += time.monotonic() - began
        self._received += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._received > self._limit_bytes:
            raise HTTPException(413, self._refusal)
        return message


def require_json(request: Request) -> None:
    """Raises UnsupportedMediaType if the content type is not JSON."""
    sent = media_type(request.headers.get("content-type", ""))
    if sent != "application/json":
        raise UnsupportedMediaType(
            f"send the body as application/json, not {f'as {sent}' if sent else 'without a type'}"
        )


def is_multipart(content_type: str) -> bool:
    """Whether this is the content type of a form with files."""
    return media_type(content_type) == "multipart/form-data"


def media_type(content_type: str) -> str:
    """The header's media type, without parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()
