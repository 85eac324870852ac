"""Refuses bodies that are too large, by what they say and by what they are, before they are read whole."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem

MULTIPART_SLACK_BYTES = 64 * 1024  # boundaries and headers around an uploaded file


class BodyLimit:
    """ASGI middleware: JSON bodies up to `body_bytes`, multipart bodies up to `upload_bytes`."""

    def __init__(self, app: ASGIApp, body_bytes: int, upload_bytes: int) -> None:
        self._app = app
        self._body_bytes = body_bytes
        self._upload_bytes = upload_bytes + MULTIPART_SLACK_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        multipart = headers.get(b"content-type", b"").startswith(b"multipart/form-data")
        limit, setting = (
            (self._upload_bytes, "api.max_upload_bytes") if multipart else (self._body_bytes, "api.max_body_bytes")
        )
        promised = headers.get(b"content-length", b"")
        refusal = problem("too-large", f"the body is larger than {limit} bytes ({setting})", 413)
        if promised.isdigit() and int(promised) > limit:
            await refusal(scope, receive, send)
            return
        received, began = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _BodyTooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except _BodyTooLarge:
            if not began:
                await refusal(scope, receive, send)


class _BodyTooLarge(Exception):
    pass
