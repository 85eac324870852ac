"""Puts the HTTP service together."""

from importlib.metadata import version

from fastapi import FastAPI

from api import health, problems, questions, videos
from api.context import Service
from api.limits import BodyLimit
from configs.settings import Settings
from storage.store import Store

DESCRIPTION = "Answers questions about hours of video. Errors are problem+json (RFC 9457); see docs/api.md."


def create_app(settings: Settings, store: Store) -> FastAPI:
    """The service over an opened store."""
    app = FastAPI(title="Longwatch", version=version("longwatch"), description=DESCRIPTION)
    app.state.service = Service(settings, store)
    app.add_middleware(BodyLimit, body_bytes=settings.api.max_body_bytes, upload_bytes=settings.api.max_upload_bytes)
    problems.install(app)
    for router in (videos.router, questions.router, health.router):
        app.include_router(router)
    return app
