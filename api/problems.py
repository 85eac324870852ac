"""Answers every error of the API as problem+json (RFC 9457), with a stable `type`."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from storage.errors import LongwatchError
from storage.text import escape_controls

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:longwatch:problem:"  # followed by a code; docs/api.md lists them

# Code -> status and title. Titles are written out, because HTTPStatus words some differently across Python versions.
KINDS = {
    "bad-request": (400, "Bad request"),
    "source-refused": (403, "Source refused"),
    "origin-refused": (403, "Origin refused"),
    "not-found": (404, "Not found"),
    "method-not-allowed": (405, "Method not allowed"),
    "timed-out": (408, "Timed out"),
    "conflict": (409, "Conflict"),
    "newer-version": (409, "Newer version"),
    "too-large": (413, "Too large"),
    "unsupported-media-type": (415, "Unsupported media type"),
    "range-not-satisfiable": (416, "Range not satisfiable"),
    "host-refused": (421, "Host refused"),
    "invalid": (422, "Invalid"),
    "too-many": (429, "Too many"),
    "internal": (500, "Internal error"),
    "file-damaged": (500, "File damaged"),
    "overloaded": (503, "Overloaded"),
    "archive-unavailable": (503, "Archive unavailable"),
    "redis-unavailable": (503, "Redis unavailable"),
    "state-rebuilding": (503, "State rebuilding"),
    "state-damaged": (503, "State damaged"),
    "work-dir-unavailable": (503, "Working folder unavailable"),
    "not-ready": (503, "Not ready"),
    "disk-full": (507, "Disk full"),
}
RETRY_AFTER_S = {429: 5, 503: 5, 507: 60}  # by status: these conditions pass by themselves
HTTP_CODES = {  # raised as HTTPException, by Starlette or BodyLimit
    400: "bad-request",
    404: "not-found",
    405: "method-not-allowed",
    408: "timed-out",
    413: "too-large",
    415: "unsupported-media-type",
}
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


class TooLarge(LongwatchError):
    """The request is larger than the settings allow."""

    code = "too-large"


class TooMany(LongwatchError):
    """There are already as many as the settings allow."""

    code = "too-many"


class UnsupportedMediaType(LongwatchError):
    """This route does not accept bodies of this media type."""

    code = "unsupported-media-type"


class SourceRefused(LongwatchError):
    """The settings do not allow this source."""

    code = "source-refused"


class WorkDirUnavailable(LongwatchError):
    """An upload cannot be written to the working folder."""

    code = "work-dir-unavailable"


def problem_body(code: str, detail: str, **more: Any) -> dict[str, Any]:
    """The members of a problem. An unknown code counts as an internal error: it should not have come this far.

    Details can quote file names and servers' answers, so control characters are escaped.
    """
    status, title = KINDS.get(code, KINDS["internal"])
    return {"type": TYPE_PREFIX + code, "title": title, "status": status, "detail": escape_controls(detail), **more}


def problem(code: str, detail: str, **more: Any) -> JSONResponse:
    """A response of media type application/problem+json."""
    body = problem_body(code, detail, **more)
    return JSONResponse(body, body["status"], retry_header(body["status"]), MEDIA_TYPE)


def retry_header(status: int) -> dict[str, str]:
    """`Retry-After`, if a request that got this status can succeed later."""
    return {"retry-after": str(RETRY_AFTER_S[status])} if status in RETRY_AFTER_S else {}


def install(app: FastAPI) -> None:
    """Makes `app` answer all errors as problems."""

    @app.exception_handler(LongwatchError)
    async def answer_own_error(_: Request, error: LongwatchError) -> JSONResponse:
        response = problem(error.code, str(error))
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("%s: %s", error.code, escape_controls(str(error)))
        return response

    @app.exception_handler(RequestValidationError)
    async def answer_invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            {"at": ".".join(map(str, item["loc"])), "message": item["msg"].removeprefix("Value error, ")}
            for item in error.errors()
        ]
        detail = "; ".join(f"{item['at']}: {item['message']}" for item in errors)
        return problem("invalid", detail, errors=errors)

    @app.exception_handler(HTTPException)
    async def answer_http_error(request: Request, error: HTTPException) -> JSONResponse:
        bare = error.detail == HTTPStatus(error.status_code).phrase
        detail = f"{request.method} {request.url.path}: see /docs for the routes" if bare else str(error.detail)
        response = problem(HTTP_CODES.get(error.status_code, "internal"), detail)
        response.headers.update(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            response.headers["allow"] = ", ".join(allowed_methods(request))
        return response

    @app.exception_handler(ClientDisconnect)
    async def answer_disconnect(request: Request, _: ClientDisconnect) -> JSONResponse:
        path = escape_controls(request.url.path)
        log.info("%s %s: the client disconnected before its body was complete", request.method, path)
        return problem("bad-request", "the body ended early")

    @app.exception_handler(Exception)
    async def answer_unexpected_error(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, escape_controls(request.url.path), exc_info=error)
        return problem("internal", "internal error; logs/api.log in data_dir says what went wrong")


def allowed_methods(request: Request) -> list[str]:
    """All methods that any route accepts at the request's path; Starlette names those of one route only."""
    scope = {key: request.scope[key] for key in ("type", "path", "root_path")}

    def is_accepted(method: str) -> bool:
        method = "GET" if method == "HEAD" else method  # as HeadAsGet does
        return any(route.matches({**scope, "method": method})[0] is Match.FULL for route in request.app.routes)

    return [method for method in METHODS if is_accepted(method)]
