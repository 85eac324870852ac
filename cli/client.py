"""Talks to a running Longwatch over HTTP."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from cli.errors import Busy, ServiceError, Unreachable
from cli.event_stream import parse_events, split_lines
from configs.settings import Settings

QUICK = httpx.Timeout(4.0)  # for what a live service answers at once: the user learns within 5 s that it hangs
ORDINARY = httpx.Timeout(4.0, read=60.0)  # a remote archive can be slow
STREAM = httpx.Timeout(4.0, read=40.0)  # the service pings at least every 15 s
SLOW = httpx.Timeout(4.0, read=None, write=60.0)  # the answer waits for an upload or a deletion to be complete
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - a service that listens everywhere is reached locally
RETRY_AFTER_S = 5.0  # if a busy service does not say


class Client:
    """The routes that the command line uses; raises ServiceError with the problem's detail."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        try:
            self._http = httpx.Client(base_url=base_url, timeout=ORDINARY, trust_env=False)
        except httpx.InvalidURL as error:
            raise ServiceError(f"{base_url!r} is not a valid address: {error}") from error
        self._alive = False  # once it has answered anything

    @classmethod
    def of(cls, settings: Settings, url: str | None = None) -> Self:
        """A client for the service at `url`, or else for the one that `settings` configure on this machine."""
        host = ANYWHERE.get(settings.api.host, settings.api.host)
        return cls(url or f"http://{f'[{host}]' if ':' in host else host}:{settings.api.port}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(self, method: str, path: str, **request: Any) -> Any:
        """The answer's JSON; None if it is empty."""
        return self._read(self._send(method, path, **request))

    def pages(self, path: str, name: str) -> Iterator[dict[str, Any]]:
        """All items of a list, read page by page; `name` is the list's field in the answer."""
        cursor: str | None = None
        while True:
            page = self.call("GET", path, params={"cursor": cursor} if cursor else None)
            yield from page[name]
            cursor = page["next_cursor"]
            if not cursor:
                return

    def upload(self, path: Path, fields: dict[str, str]) -> tuple[Any, bool]:
        """Uploads a local file; returns the video, and whether its content is new."""
        try:
            with path.open("rb") as file:
                response = self._send("POST", "/v1/videos", files={"file": (path.name, file)}, data=fields)
        except OSError as error:
            raise ServiceError(f"cannot read {path}: {error}") from error
        return self._read(response), response.status_code != httpx.codes.OK

    def download(self, path: str, params: dict[str, str] | None = None) -> tuple[bytes, httpx.URL, str]:
        """(content, final address after redirects, media type) of a picture."""
        with self._translate_errors():
            self._require_answers()
            response = self._http.get(path, params=params, follow_redirects=True)
        _raise_problem(response)
        return response.content, response.url, response.headers.get("content-type", "").partition(";")[0]

    def events(
        self, method: str, path: str, *, note_id: Callable[[str], None] | None = None, **request: Any
    ) -> Iterator[tuple[str, str]]:
        """(event, data) of a stream of server-sent events; raises ServiceError for an event `problem`.

        `note_id` gets the id of each event after it was handled.
        """
        headers = {"accept": "text/event-stream"}
        with self._translate_errors():
            self._require_answers()
            with self._http.stream(method, path, headers=headers, timeout=STREAM, **request) as response:
                if response.is_error:
                    response.read()
                _raise_problem(response)
                for event, data in parse_events(split_lines(response.iter_text()), note_id):
                    if event == "problem":
                        raise _problem_error(json.loads(data))
                    yield event, data

    def missing_parts(self) -> dict[str, str]:
        """The missing parts of the service: part -> what to do. Raises Unreachable if it does not answer soon."""
        with self._translate_errors():
            response = self._http.get("/readyz", timeout=QUICK)
        if not response.is_error:
            return {}
        try:
            return {str(part["part"]): str(part["message"]) for part in response.json()["missing"]}
        except (json.JSONDecodeError, KeyError, TypeError):
            _raise_problem(response)
            raise

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Sends a request; raises ServiceError if the answer is a problem."""
        with self._translate_errors():
            self._require_answers()
            timeout = SLOW if method == "DELETE" or "files" in request else ORDINARY
            response = self._http.request(method, path, timeout=timeout, **request)
        _raise_problem(response)
        return response

    def _read(self, response: httpx.Response) -> Any:
        if not response.content:
            return None
        try:
            return response.json()
        except json.JSONDecodeError as error:
            raise ServiceError(f"{self.base_url} does not answer in JSON: is this Longwatch?") from error

    def _require_answers(self) -> None:
        """Raises TimeoutException soon if the service hangs; the request that follows may rightly take long."""
        if not self._alive:
            self._http.get("/healthz", timeout=QUICK)
            self._alive = True

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Translates httpx's errors. After one, the service must show again that it answers."""
        try:
            yield
        except httpx.HTTPError as error:
            self._alive = False
            raise self._translate(error) from error

    def _translate(self, error: httpx.HTTPError) -> ServiceError:
        if isinstance(error, httpx.UnsupportedProtocol):
            return ServiceError(f"{self.base_url!r} is not a valid address: {error}")
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return Unreachable(
                f"no service answers at {self.base_url} ({str(error) or 'timed out'}); start it with `longwatch up`, "
                "or say where it is with --api-url"
            )
        if isinstance(error, httpx.TimeoutException):
            return Unreachable(
                f"the service at {self.base_url} does not answer in time: it hangs or is overloaded; "
                "logs/api.log in its data_dir says why; if this persists, restart it"
            )
        return Unreachable(
            f"the service at {self.base_url} closed the connection ({error or type(error).__name__}); "
            "logs/api.log in its data_dir says why"
        )


def _problem_error(problem: dict[str, Any]) -> ServiceError:
    """The error for a stream that ended with a problem: one that passes by itself counts as an interruption."""
    kind = Unreachable if problem.get("status") == httpx.codes.SERVICE_UNAVAILABLE else ServiceError
    return kind(str(problem["detail"]))


def _raise_problem(response: httpx.Response) -> None:
    if not response.is_error:
        return
    try:
        detail = str(response.json()["detail"])
    except (json.JSONDecodeError, KeyError, TypeError):
        detail = f"{response.status_code} {response.reason_phrase} from {response.url}: is this Longwatch?"
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        after = response.headers.get("retry-after", "")
        raise Busy(detail, float(after) if after.isdecimal() else RETRY_AFTER_S)
    raise ServiceError(detail)
