"""Every error of the API as problem+json (RFC 9457), with a `type` that stays the same."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from storage.errors import LongwatchError

log = logging.getLogger(__name__)

TYPE_PREFIX = "urn:longwatch:problem:"  # followed by a code; docs/api.md lists them
STATUS = {
    "not-found": HTTPStatus.NOT_FOUND,
    "bad-request": HTTPStatus.BAD_REQUEST,
    "conflict": HTTPStatus.CONFLICT,
    "source-refused": HTTPStatus.FORBIDDEN,
    "too-large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "archive-unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "redis-unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "not-ready": HTTPStatus.SERVICE_UNAVAILABLE,
}


class TooLarge(LongwatchError):
    """The request carries more than the settings allow."""

    code = "too-large"


class SourceRefused(LongwatchError):
    """The settings do not allow this source."""

    code = "source-refused"


class NotReady(LongwatchError):
    """A part of the service is missing; the message names it."""

    code = "not-ready"


def problem(code: str, detail: str, status: int, **more: Any) -> JSONResponse:
    """A response of media type application/problem+json."""
    body = {"type": TYPE_PREFIX + code, "title": HTTPStatus(status).phrase, "status": int(status), "detail": detail}
    return JSONResponse(body | more, status_code=status, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Has all errors of `app` answered as problems."""

    @app.exception_handler(LongwatchError)
    async def ours(_: Request, error: LongwatchError) -> JSONResponse:
        status = STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("%s: %s", error.code, error)
        return problem(error.code, str(error), status)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = [{"at": ".".join(map(str, item["loc"])), "message": item["msg"]} for item in error.errors()]
        detail = "; ".join(f"{item['at']}: {item['message']}" for item in errors)
        return problem("invalid", detail, HTTPStatus.UNPROCESSABLE_ENTITY, errors=errors)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        response = problem(code, str(error.detail), error.status_code)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem("internal", "something went wrong here; the log of `serve` says what", 500)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How OpenAPI describes the problems a route can answer with."""
    schema = {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "examples": [TYPE_PREFIX + "not-found"]},
            "title": {"type": "string", "examples": ["Not Found"]},
            "status": {"type": "integer", "examples": [404]},
            "detail": {"type": "string", "examples": ["no video 20261121-020851123-4f2a9c"]},
        },
    }
    content = {"application/problem+json": {"schema": schema}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}
