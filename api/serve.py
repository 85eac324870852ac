"""The API process: `longwatch serve`."""

import resource
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.connections import bounded_protocol
from configs.settings import ApiSettings, Settings
from storage.store import Store

FILES_A_CONNECTION = 2  # its socket, and one to Redis or to a file
OTHER_FILES = 128


def serve(settings: Settings) -> None:
    """Serves until told to stop by a signal."""
    raise_file_limit(settings.api.max_connections * FILES_A_CONNECTION + OTHER_FILES)
    server = uvicorn.Server(server_config(create_app(settings, Store.open(settings)), settings.api))
    with suppress(KeyboardInterrupt):  # which the server sends itself again once it has stopped
        server.run()


def server_config(app: FastAPI, settings: ApiSettings, **more: object) -> uvicorn.Config:
    """How the server runs `app`: bounded connections, no web sockets."""
    given = {
        "host": settings.host,
        "port": settings.port,
        "http": bounded_protocol(settings),
        "ws": "none",
        "log_level": "info",
        "timeout_graceful_shutdown": 3,
    }
    return uvicorn.Config(app, **(given | more))  # type: ignore[arg-type]


def raise_file_limit(wanted: int) -> None:
    """Lets this process open `wanted` files, or as many as the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
