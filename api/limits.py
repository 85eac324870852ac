"""Refuses bodies that are too large, by what they say and by what they are, before they are read whole."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem

MULTIPART_SLACK_BYTES = 64 * 1024  # boundaries, headers and fields around an uploaded file


class BodyLimit:
    """ASGI middleware: bodies up to `body_bytes`; multipart bodies posted to `upload_path` up to `upload_bytes`."""

    def __init__(self, app: ASGIApp, *, body_bytes: int, upload_bytes: int, upload_path: str) -> None:
        self._app = app
        self._body_bytes = body_bytes
        self._upload_bytes = upload_bytes + MULTIPART_SLACK_BYTES
        self._upload_path = upload_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 413."""
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
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, refusal)  # the one kind that FastAPI lets through from reading a body
            return message

        await self._app(scope, counted, send)

    def _limit(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str]:
        if path == self._upload_path and is_multipart(headers.get(b"content-type", b"").decode("latin-1")):
            return self._upload_bytes, "api.max_upload_bytes"
        return self._body_bytes, "api.max_body_bytes"


def is_multipart(content_type: str) -> bool:
    """Whether a header of this value announces a form with files."""
    return media_type(content_type) == "multipart/form-data"


def media_type(content_type: str) -> str:
    """The header's media type, without parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()
