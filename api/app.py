"""Puts the HTTP service together."""

from importlib.metadata import version

from anyio import CapacityLimiter
from fastapi import FastAPI

from api import health, problems, questions, videos
from api.context import Service
from api.limits import BodyLimit
from configs.settings import Settings
from storage.store import Store

DESCRIPTION = (
    "Answers questions about hours of video. Submit a video, watch it being encoded, ask about any stretch. "
    f"Every error is {problems.MEDIA_TYPE} (RFC 9457); its `type` is stable, `detail` says what to do."
)
MOST_LISTENERS = 256  # answers followed at once without delay; each takes a sleeping thread


def create_app(settings: Settings, store: Store) -> FastAPI:
    """The service over an opened store."""
    app = FastAPI(title="Longwatch", version=version("longwatch"), description=DESCRIPTION)
    app.state.service = Service(settings, store, CapacityLimiter(MOST_LISTENERS))
    app.add_middleware(
        BodyLimit,
        body_bytes=settings.api.max_body_bytes,
        upload_bytes=settings.api.max_upload_bytes,
        upload_path=videos.router.prefix,
    )
    problems.install(app)
    for router in (videos.router, questions.router, health.router):
        app.include_router(router)
    return app
