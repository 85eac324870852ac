"""The commands that speak to a running Longwatch: add, list, show, ask, delete."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from api import show
from api.client import Client, ServiceError, Unreachable
from storage.ids import check_video_id

app = typer.Typer()

PATIENCE_S = 30.0  # a service that restarts is waited for


def _finite(seconds: float | None) -> float | None:
    if seconds is not None and not math.isfinite(seconds):
        raise typer.BadParameter("give a number of seconds")
    return seconds


VideoId = Annotated[
    str, typer.Argument(metavar="ID", help="The id that `add` and `list` print.", callback=check_video_id)
]
ApiUrl = Annotated[str | None, typer.Option(help="Where Longwatch answers; empty: api.host and api.port.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command()
def add(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="URL|PATH", help="An http(s) address, or a file of this machine.")],
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until all is encoded.")] = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Submit a video."""
    with Client.of(context.obj, api_url) as client:
        if source.startswith(("http://", "https://")):
            video = client.call("POST", "/v1/videos", json={"url": source})
        elif Path(source).is_file():
            video = client.upload(Path(source))
        else:
            raise ServiceError(f"{source} is neither an http(s) address nor a file here")
        if not as_json:
            typer.echo(video["id"])
        if wait:
            video = show.progress(_videos(client, video["id"]))
        if as_json:
            typer.echo(json.dumps(video))
        if video["problem"]:
            raise ServiceError(video["problem"]["message"])
        if wait and video["truncated"]:
            show.note(f"sampled in part: {video['truncated']}")


@app.command(name="list")
def list_videos(context: typer.Context, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """List all videos, newest first."""
    with Client.of(context.obj, api_url) as client:
        rows = list(_listed(client))
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        show.videos(rows)


@app.command(name="show")
def show_video(context: typer.Context, video_id: VideoId, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Show one video, how far it is, and what was asked about it lately."""
    with Client.of(context.obj, api_url) as client:
        video = client.call("GET", f"/v1/videos/{video_id}")
        questions = client.call("GET", f"/v1/videos/{video_id}/questions")["questions"]
    if as_json:
        typer.echo(json.dumps(video | {"questions": questions}))
    else:
        show.video(video, questions)


@app.command()
def ask(
    context: typer.Context,
    video_id: VideoId,
    question: str,
    start_s: Annotated[
        float, typer.Option("--from", help="Second at which the stretch begins.", callback=_finite)
    ] = 0.0,
    end_s: Annotated[
        float | None, typer.Option("--to", help="Second at which it ends; empty: the end.", callback=_finite)
    ] = None,
    fusion: Annotated[str | None, typer.Option(help="focused, sampled or exact; empty: as configured.")] = None,
    follow: Annotated[
        str | None, typer.Option(metavar="QUESTION_ID", help="An answered question to follow up.")
    ] = None,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Ask about a video; the answer is printed as it is generated. Ctrl-C cancels the question."""
    body: dict[str, Any] = {"question": question, "start_s": start_s, "end_s": end_s, "previous_question_id": follow}
    if fusion:
        body["fusion"] = fusion
    with Client.of(context.obj, api_url) as client, _cancelling(client) as asked:
        for event, data in client.events("POST", f"/v1/videos/{video_id}/questions", json=body):
            if event == "text" and not as_json:
                typer.echo(data, nl=False)
            elif event == "restart" and not as_json:
                typer.echo("\n(begun anew)")
            elif event in ("question", "answer", "error"):
                asked.update(json.loads(data))
    if asked.get("problem"):
        raise ServiceError(asked["problem"]["message"])
    if as_json:
        typer.echo(json.dumps(asked))
    else:
        typer.echo()
        show.grounds(asked)


@app.command()
def delete(context: typer.Context, video_id: VideoId, api_url: ApiUrl = None) -> None:
    """Remove a video with all that belongs to it."""
    with Client.of(context.obj, api_url) as client:
        client.call("DELETE", f"/v1/videos/{video_id}")


def _listed(client: Client) -> Iterator[dict[str, Any]]:
    """All videos, page by page."""
    params: dict[str, str] | None = {}
    while params is not None:
        page = client.call("GET", "/v1/videos", params=params)
        yield from page["videos"]
        params = {"cursor": page["next_cursor"]} if page["next_cursor"] else None


def _videos(client: Client, video_id: str) -> Iterator[dict[str, Any]]:
    """The video at each change, until it is complete; a service that is away for a while is waited for."""
    away_since: float | None = None
    while True:
        try:
            for _, data in client.events("GET", f"/v1/videos/{video_id}/events"):
                away_since = None
                yield json.loads(data)
            return
        except Unreachable:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_S:
                raise
            time.sleep(1.0)


@contextmanager
def _cancelling(client: Client) -> Iterator[dict[str, Any]]:
    """The question that is being asked, once its id is known; cancelled where the user leaves early."""
    asked: dict[str, Any] = {}
    try:
        yield asked
    except KeyboardInterrupt:
        if asked:
            client.call("DELETE", f"/v1/questions/{asked['id']}")
        raise
