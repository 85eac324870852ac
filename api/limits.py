"""Bounds on requests: how many at once, and how large and how slow a body may be, before it is read whole."""

import time

from anyio import move_on_after
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import UnsupportedMediaType, problem
from configs.settings import ApiSettings

MULTIPART_SLACK_BYTES = 64 * 1024  # boundaries, headers and fields around an uploaded file


class RequestLimit:
    """ASGI middleware: up to `most` requests at once, long answers included."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self._app = app
        self._most = most
        self._in_hand = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 503."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._in_hand >= self._most:
            detail = f"{self._most} requests are in hand (api.max_connections); try again later"
            await problem("overloaded", detail)(scope, receive, send)
        else:
            self._in_hand += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._in_hand -= 1


class BodyLimit:
    """ASGI middleware: bodies up to a size and a time; multipart bodies posted to `upload_path` may be uploads."""

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
        limit, setting = self._limit(scope["path"], headers)
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

    def _limit(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str]:
        if path == self._upload_path and is_multipart(headers.get(b"content-type", b"").decode("latin-1")):
            return self._settings.max_upload_bytes + MULTIPART_SLACK_BYTES, "api.max_upload_bytes"
        return self._settings.max_body_bytes, "api.max_body_bytes"


class _Body:
    """A body as it comes: counted, and its sender's time measured; the time that we take is not."""

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
        """The next message. Raises HTTPException, the one kind that FastAPI lets through from reading a body."""
        if self._whole:
            return await self._receive()
        allowed_s = self._settings.body_timeout_s + self._received / self._settings.min_body_bytes_per_s
        began = time.monotonic()
        with move_on_after(allowed_s - self._waited_s) as scope:
            message = await self._receive()
        if scope.cancelled_caught:
            if self.answering:  # nobody reads the body any more: the client counts as gone
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
    """Raises UnsupportedMediaType if the body is not said to be JSON."""
    sent = media_type(request.headers.get("content-type", ""))
    if sent != "application/json":
        raise UnsupportedMediaType(f"send the body as application/json, not as {sent or 'what no header names'}")


def is_multipart(content_type: str) -> bool:
    """Whether a header of this value announces a form with files."""
    return media_type(content_type) == "multipart/form-data"


def media_type(content_type: str) -> str:
    """The header's media type, without parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()
