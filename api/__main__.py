"""The API process: `python -m api`."""

import resource
from contextlib import suppress

import uvicorn

from api.app import create_app
from api.connections import ACCEPTED_AT_ONCE, server_config
from configs.loading import settings_from_command_line
from configs.privacy import keep_files_private
from configs.settings import Settings
from storage.store import Store

FILES_A_CONNECTION = 2  # its socket, and one for Redis or a file
OTHER_FILES = 2 * ACCEPTED_AT_ONCE  # connections accepted before others are closed to make room, and our own files


def run(settings: Settings) -> None:
    """Serves until told to stop by a signal."""
    keep_files_private(settings.data_dir)
    raise_file_limit(settings.api.max_connections * FILES_A_CONNECTION + OTHER_FILES)
    server = uvicorn.Server(server_config(create_app(settings, Store.open(settings)), settings.api))
    with suppress(KeyboardInterrupt):  # the server raises the signal again once it has stopped
        server.run()


def raise_file_limit(wanted: int) -> None:
    """Lets this process open `wanted` files, or as many as the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


if __name__ == "__main__":
    run(settings_from_command_line(__doc__))
