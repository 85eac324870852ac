"""What every route receives: the settings, the store and the intake of this process."""

from typing import Annotated, NamedTuple

from anyio import CapacityLimiter
from fastapi import Depends, Request

from api.event_feed import EventFeed
from configs.settings import Settings
from jobs.intake import Intake
from storage.store import Store


class Service(NamedTuple):
    """Opened once in `create_app`, passed to every route."""

    settings: Settings
    store: Store
    intake: Intake
    listeners: CapacityLimiter  # threads that wait for pieces of answers; separate, so that other routes never wait
    uploads: CapacityLimiter  # uploads received at once
    films: CapacityLimiter  # threads that encode films of pictures
    feed: EventFeed  # of all streams, for all listeners


def service_of(request: Request) -> Service:
    """The service that handles the request."""
    service: Service = request.app.state.service
    return service


ServiceNeeded = Annotated[Service, Depends(service_of)]
