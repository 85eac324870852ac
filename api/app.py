"""Puts the HTTP service together."""

from importlib.metadata import version

from anyio import CapacityLimiter
from fastapi import FastAPI

from api import docs, events, frames, health, problems, questions, recordings, streams, videos, watches
from api.context import Service
from api.description import describe
from api.event_feed import EventFeed
from api.heads import HeadAsGet
from api.hosts import HostCheck
from api.limits import BodyLimit, RequestLimit
from configs.settings import Settings
from jobs.intake import Intake
from storage.store import Store

DESCRIPTION = (
    "Answers questions about hours of video. Submit a video, watch it being encoded, ask about any stretch. "
    f"Every error is {problems.MEDIA_TYPE} (RFC 9457); its `type` is stable, and `detail` says what to do."
)
FILMS_AT_ONCE = 2  # encoding uses a core
MOST_LISTENERS = 256  # answers streamed at once without delay; each occupies a sleeping thread


def create_app(settings: Settings, store: Store) -> FastAPI:
    """Creates the service over an opened store."""
    api = settings.api
    app = FastAPI(
        title="Longwatch",
        version=version("longwatch"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,  # names the functions of generated clients
    )
    app.state.service = Service(
        settings,
        store,
        Intake(store, settings),
        CapacityLimiter(MOST_LISTENERS),
        CapacityLimiter(api.max_uploads),
        CapacityLimiter(FILMS_AT_ONCE),
        EventFeed(store, settings.events),
    )
    # The last one added is the first to see a request.
    app.add_middleware(HeadAsGet)
    app.add_middleware(BodyLimit, settings=api, upload_path=videos.router.prefix)
    app.add_middleware(HostCheck, settings=api)
    app.add_middleware(RequestLimit, most=api.max_connections)
    problems.install(app)
    routers = (videos.router, frames.source_router, streams.router, watches.router, questions.router, events.router)
    for router in (*routers, recordings.stream_router, health.router, docs.router):
        app.include_router(router)
    for shared in (frames.router, recordings.router):
        app.include_router(shared, prefix=videos.router.prefix)
        app.include_router(
            shared,
            prefix=streams.router.prefix,
            generate_unique_id_function=lambda route: f"{route.name}_of_stream",
        )
    describe(app)
    return app
