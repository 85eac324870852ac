"""`longwatch watch`: asks a standing question about a stream, and prints its events as they come."""

import json
from typing import Annotated, Any, Literal

import typer

from cli import show
from cli.client import Client
from cli.events import follow_events
from cli.options import ApiUrl, AsJson, read_settings
from cli.prefixes import find_stream

app = typer.Typer()


@app.command()
def watch(
    context: typer.Context,
    stream_id: Annotated[str, typer.Argument(metavar="STREAM", help="A stream's id, or a unique beginning of it.")],
    question: Annotated[str, typer.Argument(help="What to ask again and again.")],
    every: Annotated[float, typer.Option(metavar="SECONDS", help="How often.")] = 10.0,
    window: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Over how much each time; default: since the last time.")
    ] = None,
    notify: Annotated[Literal["change", "always", "match"], typer.Option(help="When to print an event.")] = "change",
    equals: Annotated[str | None, typer.Option(metavar="ANSWER", help="Only this answer counts as a match.")] = None,
    min_probability: Annotated[float, typer.Option(metavar="P", help="Ignore less probable answers.")] = 0.0,
    hold: Annotated[int, typer.Option(metavar="N", help="Evaluations in a row that must agree.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the question standing when this command ends.")] = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Ask a standing question about a stream; prints its events until Ctrl-C."""
    body: dict[str, Any] = {
        "question": question,
        "every_s": every,
        "window_s": window,
        "notify": notify,
        "min_probability": min_probability,
        "hold": hold,
    }
    if equals is not None:
        body["match"] = {"equals": equals}
    with Client.of(read_settings(context), api_url) as client:
        found = find_stream(client, stream_id)
        added = client.call("POST", f"/v1/streams/{found}/watches", json=body)
        show.note(f"watch {added['id']}" + ("" if keep else "; it ends with this command (--keep leaves it)"))
        try:
            path = f"/v1/streams/{found}/events"
            for row in follow_events(client, path):
                if row["watch_id"] == added["id"]:
                    typer.echo(json.dumps(row)) if as_json else show.event(row)
        finally:
            if not keep:
                client.call("DELETE", f"/v1/streams/{found}/watches/{added['id']}")
