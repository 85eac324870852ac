"""The commands for live streams: `longwatch stream add|list|show|pause|resume|delete`."""

import json
import sys
from typing import Annotated, Any, Literal

import typer

from cli import show
from cli.client import Client
from cli.errors import run_each
from cli.options import ApiUrl, AsJson, read_settings
from cli.prefixes import find_stream

app = typer.Typer(no_args_is_help=True)

StreamId = Annotated[str, typer.Argument(metavar="ID", help="A stream's id, or a unique beginning of it.")]
StreamIds = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of streams, or unique beginnings of them.")]


@app.command()
def add(
    context: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="rtsp, rtsps, or http(s) with live MPEG-TS or MJPEG.")],
    name: Annotated[str | None, typer.Option(help="A name to show.")] = None,
    username: Annotated[str | None, typer.Option(help="The password is asked for, or read from a pipe.")] = None,
    transport: Annotated[Literal["tcp", "udp"], typer.Option(help="Of RTSP.")] = "tcp",
    fps: Annotated[float | None, typer.Option(help="Frames kept a second; default: as configured.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Keep the coded video too.")] = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Add a camera; prints its id. A password in the URL would be seen in process lists: use --username."""
    body: dict[str, Any] = {"url": url, "transport": transport, "record": record}
    body |= {key: value for key, value in (("name", name), ("sample_fps", fps), ("username", username)) if value}
    if username:
        body["password"] = _read_password()
    with Client.of(read_settings(context), api_url) as client:
        stream = client.call("POST", "/v1/streams", json=body)
    typer.echo(json.dumps(stream) if as_json else stream["id"])


@app.command(name="list")
def list_streams(context: typer.Context, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """List all streams, newest first."""
    with Client.of(read_settings(context), api_url) as client:
        rows = client.pages("/v1/streams", "streams")
        if as_json:
            typer.echo(json.dumps(list(rows)))
        else:
            show.streams(rows)


@app.command(name="show")
def show_stream(context: typer.Context, stream_id: StreamId, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Show a stream's state, its gaps and its standing questions."""
    with Client.of(read_settings(context), api_url) as client:
        found = find_stream(client, stream_id)
        stream = client.call("GET", f"/v1/streams/{found}")
        watches = client.call("GET", f"/v1/streams/{found}/watches")["watches"]
    if as_json:
        typer.echo(json.dumps(stream | {"watches": watches}))
    else:
        show.stream(stream, watches)


@app.command()
def pause(context: typer.Context, stream_ids: StreamIds, api_url: ApiUrl = None) -> None:
    """Stop capturing; what was captured stays."""
    _call_each(context, stream_ids, api_url, "pause")


@app.command()
def resume(context: typer.Context, stream_ids: StreamIds, api_url: ApiUrl = None) -> None:
    """Capture paused streams again."""
    _call_each(context, stream_ids, api_url, "resume")


@app.command()
def delete(
    context: typer.Context,
    stream_ids: StreamIds,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    api_url: ApiUrl = None,
) -> None:
    """Delete streams with everything that was captured. Asks first in a terminal."""
    with Client.of(read_settings(context), api_url) as client:

        def remove(given: str) -> None:
            found = find_stream(client, given)
            if not yes and sys.stdin.isatty():
                show.stream(client.call("GET", f"/v1/streams/{found}"), [])
                if not typer.confirm("Delete it with all frames, events and answers?", err=True):
                    return
            client.call("DELETE", f"/v1/streams/{found}")

        run_each(stream_ids, remove)


def _call_each(context: typer.Context, stream_ids: list[str], api_url: str | None, action: str) -> None:
    with Client.of(read_settings(context), api_url) as client:
        run_each(stream_ids, lambda given: client.call("POST", f"/v1/streams/{find_stream(client, given)}/{action}"))


def _read_password() -> str:
    """Asks for the password in a terminal; else reads the first line of standard input."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password of the camera", hide_input=True, err=True, default="", show_default=False))
    return sys.stdin.readline().rstrip("\n")
