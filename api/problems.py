"""Every error of the API as problem+json (RFC 9457), with a `type` that stays the same."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from storage.errors import LongwatchError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:longwatch:problem:"  # followed by a code; docs/api.md lists them

# Code -> status and title. Spelled out, because HTTPStatus words some of them anew from one Python to the next.
KINDS = {
    "bad-request": (400, "Bad request"),
    "source-refused": (403, "Source refused"),
    "not-found": (404, "Not found"),
    "method-not-allowed": (405, "Method not allowed"),
    "conflict": (409, "Conflict"),
    "too-large": (413, "Too large"),
    "invalid": (422, "Invalid"),
    "internal": (500, "Internal error"),
    "archive-unavailable": (503, "Archive unavailable"),
    "redis-unavailable": (503, "Redis unavailable"),
    "work-dir-unavailable": (503, "Working folder unavailable"),
    "not-ready": (503, "Not ready"),
}
HTTP_CODES = {400: "bad-request", 404: "not-found", 405: "method-not-allowed", 413: "too-large"}  # raised by Starlette


class TooLarge(LongwatchError):
    """The request carries more than the settings allow."""

    code = "too-large"


class SourceRefused(LongwatchError):
    """The settings do not allow this source."""

    code = "source-refused"


class WorkDirUnavailable(LongwatchError):
    """An upload cannot be written to the folder that ingest reads."""

    code = "work-dir-unavailable"


def problem_body(code: str, detail: str, **more: Any) -> dict[str, Any]:
    """The members of a problem; an unknown code is one of ours that should not have come this far."""
    status, title = KINDS.get(code, KINDS["internal"])
    return {"type": TYPE_PREFIX + code, "title": title, "status": status, "detail": detail, **more}


def problem(code: str, detail: str, **more: Any) -> JSONResponse:
    """A response of media type application/problem+json."""
    body = problem_body(code, detail, **more)
    return JSONResponse(body, status_code=body["status"], media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Has all errors of `app` answered as problems."""

    @app.exception_handler(LongwatchError)
    async def ours(_: Request, error: LongwatchError) -> JSONResponse:
        response = problem(error.code, str(error))
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("%s: %s", error.code, error)
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            {"at": ".".join(map(str, item["loc"])), "message": item["msg"].removeprefix("Value error, ")}
            for item in error.errors()
        ]
        detail = "; ".join(f"{item['at']}: {item['message']}" for item in errors)
        return problem("invalid", detail, errors=errors)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        bare = error.detail == HTTPStatus(error.status_code).phrase
        detail = f"{request.method} {request.url.path}: see /docs for the routes" if bare else str(error.detail)
        response = problem(HTTP_CODES.get(error.status_code, "internal"), detail)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, _: ClientDisconnect) -> JSONResponse:
        log.info("%s %s: the client went away before its body was complete", request.method, request.url.path)
        return problem("bad-request", "the body ended early")

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem("internal", "something went wrong here; the log of `serve` says what")


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """How OpenAPI describes the problems, named by code, that a route can answer with."""
    described: dict[int | str, dict[str, Any]] = {
        "default": {"description": "Any other error", "content": {MEDIA_TYPE: {"schema": SCHEMA}}}
    }
    for code in (*codes, "internal"):
        status, title = KINDS[code]
        known = described.setdefault(
            status, {"description": title, "content": {MEDIA_TYPE: {"schema": SCHEMA, "examples": {}}}}
        )
        known["content"][MEDIA_TYPE]["examples"][code] = {"value": problem_body(code, "what happened, and what to do")}
    return described


SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri", "description": "Stable: decide by this."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "For people: what failed, where, and what to do."},
        "errors": {
            "type": "array",
            "description": "Of `invalid`: each wrong field.",
            "items": {
                "type": "object",
                "required": ["at", "message"],
                "properties": {"at": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
