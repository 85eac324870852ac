"""The API process: `longwatch serve`."""

import uvicorn

from api.app import create_app
from configs.settings import Settings
from storage.store import Store


def serve(settings: Settings) -> None:
    """Serves until told to stop by a signal."""
    app = create_app(settings, Store.open(settings))
    uvicorn.run(app, host=settings.api.host, port=settings.api.port, log_level="info", timeout_graceful_shutdown=3)
