"""Starts the whole service for the demo, and stops it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.client import Client
from cli.errors import ServiceError

READY_WITHIN_S = 120.0
STOP_WITHIN_S = 20.0


@contextmanager
def running(data_dir: Path, keep: bool) -> Iterator[tuple[Client, str]]:
    """Runs `longwatch up` with its own data on a free port; yields (client, address). `keep` leaves it running."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "LONGWATCH_DATA_DIR": str(data_dir),
        "LONGWATCH_API__PORT": str(port),
        "LONGWATCH_INGEST__ALLOWED_PRIVATE_HOSTS": '["127.0.0.1"]',
        "LONGWATCH_INGEST__CAMERA_NETWORKS": '["127.0.0.1"]',
    }
    process = subprocess.Popen([sys.executable, "-m", "cli", "up"], env=environment, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    finished = False
    try:
        client = Client(address)
        _wait_ready(client, process, data_dir)
        yield client, address
        finished = True
    finally:
        if not (keep and finished):
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_WITHIN_S)


def _wait_ready(client: Client, process: subprocess.Popen[bytes], data_dir: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            missing = "; ".join(client.missing_parts().values())
        except ServiceError as error:
            missing = str(error)
        if not missing:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServiceError(f"the service did not start ({missing}); its logs are in {data_dir / 'logs'}")
        time.sleep(0.3)
