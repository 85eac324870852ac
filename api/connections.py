"""Limits on connections: a client cannot hold one by sending half a header or by not reading the answer."""

import asyncio
import json
import time
from http import HTTPStatus
from typing import Any

import h11
from fastapi import FastAPI
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.problems import MEDIA_TYPE, problem_body
from configs.settings import ApiSettings

ACCEPTED_AT_ONCE = 128  # asyncio accepts this many before it looks at any of them; each holds a file meanwhile


def server_config(app: FastAPI, settings: ApiSettings, **more: Any) -> Config:
    """The server's configuration for `app`: limited connections, no web sockets."""
    given: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "http": bounded_protocol(settings),
        "ws": "none",
        "backlog": ACCEPTED_AT_ONCE,
        "log_level": "info",
        "timeout_graceful_shutdown": 3,
    }
    return Config(app, **(given | more))


def bounded_protocol(settings: ApiSettings) -> type[H11Protocol]:
    """Uvicorn's own HTTP protocol with the limits of `settings`."""

    class Bounded(_BoundedProtocol):
        limits = settings

    return Bounded


class _BoundedProtocol(H11Protocol):
    """Runs a timer while it handles no request. Within that time a complete header, or the rest of a body, must arrive.

    If there are too many connections, a new one replaces the one that has waited longest. If all others are busy, the
    new connection stays open: `RequestLimit` answers its request.
    """

    limits: ApiSettings
    due_since: float | None = None
    _due: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the timer, and makes room if there are too many connections."""
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self.limits.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timers."""
        super().connection_lost(exc)
        self._stop_waiting()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Stops the timer once a header is complete."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Starts the timer again, unless the next request is already being handled."""
        super().on_response_complete()
        self._stop_waiting()
        self._watch()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write: aborts unless it catches up in time."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self.limits.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has caught up: cancels the abort."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def send_400_response(self, msg: str) -> None:
        """Answers invalid HTTP with a problem too."""
        self._answer("bad-request", msg)

    def give_up(self, detail: str) -> None:
        """Closes a connection whose time is up; says why if part of a header came."""
        self._stop_waiting()
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._answer("timed-out", detail)
        if self.transport.get_write_buffer_size():  # an answer that nobody reads would keep it open
            self.transport.abort()
        self.transport.close()

    def _watch(self) -> None:
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.transport.is_closing():
            self._stop_waiting()
        elif self._due is None:
            self.due_since = time.monotonic()
            limit_s = self.limits.header_timeout_s
            detail = f"no complete request came within {limit_s:g} s (api.header_timeout_s)"
            self._due = self.loop.call_later(limit_s, self.give_up, detail)

    def _stop_waiting(self) -> None:
        self.due_since = None
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _make_room(self) -> None:
        others: list[tuple[float, _BoundedProtocol]] = [
            (each.due_since, each)
            for each in self.connections
            if isinstance(each, _BoundedProtocol) and each is not self and each.due_since is not None
        ]
        if others:
            _, longest = min(others, key=lambda other: other[0])
            longest.give_up("closed for another connection: your request was still incomplete (api.max_connections)")

    def _answer(self, code: str, detail: str) -> None:
        problem: dict[str, Any] = problem_body(code, detail)
        body = json.dumps(problem).encode()
        headers = [("content-type", MEDIA_TYPE), ("content-length", str(len(body))), ("connection", "close")]
        reason = HTTPStatus(problem["status"]).phrase.encode()
        response = h11.Response(status_code=problem["status"], headers=headers, reason=reason)
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
