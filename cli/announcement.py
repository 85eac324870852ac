"""Says on `up`'s terminal once that the service is ready: `python -m cli.announcement URL`. supervisord runs it."""

import sys
import time

from cli.client import Client
from cli.errors import ServiceError

CHECK_EVERY_S = 1.0


def wait_until_ready(client: Client) -> None:
    """Returns once no part of the service is missing."""
    while True:
        try:
            if not client.missing_parts():
                return
        except ServiceError:
            pass  # the API is not up yet
        time.sleep(CHECK_EVERY_S)


def main(url: str) -> None:
    """Waits, and prints one line."""
    with Client(url) as client:
        wait_until_ready(client)
    print(f"ready: {url}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
