"""The API process: `python -m api`."""

import uvicorn

from api.app import create_app
from configs.loading import settings_from_command_line
from configs.privacy import keep_files_private
from configs.settings import Settings
from storage.store import Store


def run(settings: Settings) -> None:
    """Serves until told to stop by a signal."""
    keep_files_private(settings.data_dir)
    app = create_app(settings, Store.open(settings))
    uvicorn.run(app, host=settings.api.host, port=settings.api.port, log_level="info", timeout_graceful_shutdown=3)


if __name__ == "__main__":
    run(settings_from_command_line(__doc__))
