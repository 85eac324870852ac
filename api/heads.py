"""Answers HEAD as GET without the body, on every route: a client may ask for the header of whatever it can fetch."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """ASGI middleware: routes see GET. A stream ends at once: to it the client is gone, for its answer is complete."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on; of HEAD, the answer's header alone is sent back."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        answered = False

        async def send_header(message: Message) -> None:
            nonlocal answered
            if not answered:
                answered = True
                await send(message)
                await send({"type": "http.response.body"})

        await self._app({**scope, "method": "GET"}, receive, send_header)
