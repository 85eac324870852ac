"""Keeps events of this host's cameras on its disk until they are published, so that none is lost with Redis away."""

import json
import logging
import secrets
import time
from pathlib import Path

from pydantic import ValidationError

from storage.errors import NotFound
from storage.events import Events
from storage.live_documents import Event

log = logging.getLogger(__name__)
SUFFIX = ".event"


class Outbox:
    """One small file per event in the spool folder of its stream. A file's name is the event's key: it counts once."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool

    def put(self, event: Event) -> None:
        """Keeps the event until `publish`."""
        folder = self._spool / event.stream_id
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        partial = folder / f"{name}.part"
        partial.write_text(event.model_dump_json())
        partial.replace(folder / f"{name}{SUFFIX}")

    def list_streams(self) -> list[str]:
        """The streams that have events to publish."""
        return sorted({file.parent.name for file in self._spool.glob(f"*/*{SUFFIX}")})

    def publish(self, events: Events, stream_id: str) -> None:
        """Publishes the stream's events, oldest first; those of a deleted stream are dropped.

        Raises what else `Events.publish` raises; then the rest stays.
        """
        for file in sorted((self._spool / stream_id).glob(f"*{SUFFIX}")):
            try:
                event = Event.model_validate(json.loads(file.read_text()))
            except (ValidationError, ValueError) as error:
                log.error("%s is damaged and is removed: %s", file, error)
            else:
                try:
                    events.publish(event, f"{stream_id}:{file.stem}")
                except NotFound:
                    log.info("stream %s was deleted meanwhile", stream_id)
            file.unlink(missing_ok=True)
