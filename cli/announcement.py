"""Says on `up`'s terminal once that the service is ready: `python -m cli.announcement URL`. supervisord runs it."""

import sys
import time

from cli.client import Client
from cli.errors import ServiceError

CHECK_EVERY_S = 1.0


def is_ready(client: Client) -> bool:
    """Whether the service answers and no part of it is missing."""
    try:
        return not client.missing_parts()
    except ServiceError:
        return False


def main(url: str) -> None:
    """Waits, and prints one line."""
    with Client(url) as client:
        while not is_ready(client):
            time.sleep(CHECK_EVERY_S)
    print(f"ready: {url}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
