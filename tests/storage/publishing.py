"""Publishes events in a process of its own: `python -m tests.storage.publishing SETTINGS STREAM NAME COUNT`.

With a fifth argument the process kills itself at that step of the last event: `reserved`, `written` or `committed`.
"""

import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from configs.settings import Settings
from storage.events import Events
from storage.live_documents import Event
from storage.store import Store


def make_event(stream_id: str, **values: Any) -> Event:
    """An event without an id."""
    base = {"id": "", "type": "gap", "stream_id": stream_id, "at": datetime.now(UTC)}
    return Event.model_validate(base | values)


def die_at(step: str, after: int) -> None:
    """Makes the process kill itself when it is about to take a step for the `after`-th time."""
    names = {"reserved": "_write", "written": "_commit", "committed": "_publish"}
    name, calls = names[step], 0
    method: Callable[..., Any] = getattr(Events, name)

    def dying(self: Events, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < after:
            return method(self, *args, **kwargs)
        if step == "committed":
            method(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(Events, name, dying)


def main(settings: str, stream_id: str, name: str, count: str, step: str = "") -> None:
    """Publishes `count` events with the keys NAME-0, NAME-1, ..."""
    store = Store.open(Settings.model_validate_json(settings))
    if step:
        die_at(step, int(count))
    for number in range(int(count)):
        store.events.publish(make_event(stream_id, message=f"{name}-{number}"), f"{name}-{number}")


if __name__ == "__main__":
    main(*sys.argv[1:])
