"""Speaks to a running Longwatch over HTTP, for the command line."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from configs.settings import Settings
from storage.errors import LongwatchError

TIMEOUT = httpx.Timeout(30.0, read=None)  # a stream may be silent for as long as a long video is fused
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - listening everywhere: reached on this machine


class ServiceError(LongwatchError):
    """The service does not answer, or answers with a problem."""

    code = "service"


class Unreachable(ServiceError):
    """The service does not answer, or broke off: it may be starting."""


class Client:
    """The routes that the command line uses; raises ServiceError with the problem's own words."""

    def __init__(self, base_url: str) -> None:
        try:
            self._http = httpx.Client(base_url=base_url, timeout=TIMEOUT, trust_env=False)
        except httpx.InvalidURL as error:
            raise ServiceError(f"{base_url!r} is no address: {error}") from error
        self._base_url = base_url

    @classmethod
    def of(cls, settings: Settings, url: str | None = None) -> Self:
        """A client of the service at `url`; without one, of the service that `settings` configure on this machine."""
        host = ANYWHERE.get(settings.api.host, settings.api.host)
        return cls(url or f"http://{host}:{settings.api.port}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(self, method: str, path: str, **request: Any) -> Any:
        """The answer's JSON, None where it is empty."""
        with self._translated():
            response = self._http.request(method, path, **request)
        _raise_problem(response)
        return response.json() if response.content else None

    def upload(self, path: Path) -> Any:
        """Submits a file of this machine."""
        try:
            with path.open("rb") as file:
                return self.call("POST", "/v1/videos", files={"file": (path.name, file)})
        except OSError as error:
            raise ServiceError(f"cannot read {path}: {error}") from error

    def events(self, method: str, path: str, **request: Any) -> Iterator[tuple[str, str]]:
        """(event, data) of a stream of server-sent events; its last event `problem` is raised."""
        headers = {"accept": "text/event-stream"}
        with self._translated(), self._http.stream(method, path, headers=headers, **request) as response:
            if response.is_error:
                response.read()
            _raise_problem(response)
            for event, data in parse_events(split_lines(response.iter_text())):
                if event == "problem":
                    raise ServiceError(json.loads(data)["detail"])
                yield event, data

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            raise Unreachable(f"{self._base_url} does not answer ({error}); start it with `longwatch up`") from error
        except httpx.HTTPError as error:
            raise Unreachable(f"{self._base_url} broke off ({error}); its log says why") from error


def parse_events(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(event, data) from the lines of an event stream (WHATWG HTML, 9.2.6); comments are left out."""
    event, data = "message", list[str]()
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield event, "\n".join(data)
            event, data = "message", []
        elif name == "event":
            event = value
        elif name == "data":
            data.append(value)


def split_lines(texts: Iterable[str]) -> Iterator[str]:
    """Whole lines, ended by a newline as in an event stream; httpx would also split at separators inside a text."""
    rest = ""
    for text in texts:
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield line.removesuffix("\r")


def _raise_problem(response: httpx.Response) -> None:
    if response.is_error:
        try:
            detail = response.json()["detail"]
        except (json.JSONDecodeError, KeyError, TypeError):
            detail = f"{response.status_code} {response.reason_phrase}: is this Longwatch?"
        raise ServiceError(str(detail))
