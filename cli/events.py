"""The command for events: shows what happened to live streams, and follows it."""

import json
import time
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import typer

from cli import show
from cli.client import Client
from cli.errors import Unreachable
from cli.options import ApiUrl, AsJson, read_settings
from cli.prefixes import find_video

app = typer.Typer()

SHOWN_EVENTS = 50
RETRY_S = 2.0


@app.command()
def events(
    context: typer.Context,
    stream: Annotated[
        str | None, typer.Option("--stream", metavar="ID", help="Only of this stream (its id, or a beginning of it).")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print events as they come, until Ctrl-C.")] = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Show the latest events of live streams, the newest last. With --follow, those to come."""
    with Client.of(read_settings(context), api_url) as client:
        path = "/v1/events" if stream is None else f"/v1/streams/{find_video(client, stream)}/events"
        if follow:
            for row in follow_events(client, path):
                _print(row, as_json=as_json)
        for row in reversed(list(islice(client.pages(path, "events"), SHOWN_EVENTS))):
            _print(row, as_json=as_json)


def follow_events(client: Client, path: str) -> Iterator[dict[str, Any]]:
    """Yields events for ever. After an interruption it goes on behind the last event. Raises Unreachable at first."""
    last_id = ""

    def note_id(event_id: str) -> None:
        nonlocal last_id
        last_id = event_id

    while True:
        try:
            request = {"params": {"after": last_id}} if last_id else {}
            for _, data in client.events("GET", path, note_id=note_id, **request):
                yield json.loads(data)
            interruption = "the service ended the stream"
        except Unreachable as error:
            if not last_id:
                raise
            interruption = str(error)
        show.note(f"{interruption}; trying again")
        time.sleep(RETRY_S)


def _print(row: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(row))
    else:
        show.event(row)
