"""The commands for videos: add, list, show, wait, retry, delete."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import show
from cli.client import Client
from cli.errors import Busy, ServiceError, Unreachable, run_each
from cli.options import ApiUrl, AsJson, RecordedAt, VideoId, VideoIds, read_settings
from cli.prefixes import find_video
from cli.readiness import FOR_VIDEOS, missing_parts_said
from cli.status import StatusLine
from cli.tables import known_words, progress_words, status_word

app = typer.Typer()

PATIENCE_S = 30.0  # how long to wait for a service that restarts


@app.command()
def add(
    context: typer.Context,
    sources: Annotated[list[str], typer.Argument(metavar="URL|FILE", help="http(s) addresses, or local files.")],
    title: Annotated[str | None, typer.Option(help="A name to show instead of the source.")] = None,
    recorded_at: RecordedAt = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until all is encoded.")] = False,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Submit videos or images; prints their ids."""
    if title is not None and len(sources) > 1:
        raise typer.BadParameter("one title cannot name several videos", param_hint="--title")
    fields = {name: value for name, value in (("title", title), ("recorded_at", recorded_at)) if value is not None}
    with Client.of(read_settings(context), api_url) as client:
        submitted: list[str] = []

        def submit(source: str) -> None:
            try:
                video = _submit(client, source, fields)
            except Unreachable:
                raise
            except ServiceError as error:
                words = str(error)
                raise ServiceError(words if source in words else f"{source}: {words}") from error
            submitted.append(video["id"])
            if as_json and not wait:
                typer.echo(json.dumps(video))
            elif not as_json:
                typer.echo(video["id"])
            if video["problem"] and not wait:
                raise ServiceError(video["problem"]["message"])

        try:
            run_each(sources, submit)
        finally:
            if wait:
                run_each(submitted, lambda video_id: _wait(client, video_id, as_json=as_json))


@app.command(name="list")
def list_videos(context: typer.Context, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """List all videos, newest first."""
    with Client.of(read_settings(context), api_url) as client:
        rows = client.pages("/v1/videos", "videos")
        if as_json:
            typer.echo(json.dumps(list(rows)))
        else:
            show.videos(rows)


@app.command(name="show")
def show_video(context: typer.Context, video_id: VideoId, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Show a video, its progress, and its latest questions."""
    with Client.of(read_settings(context), api_url) as client:
        found = find_video(client, video_id)
        video = client.call("GET", f"/v1/videos/{found}")
        questions = client.call("GET", f"/v1/videos/{found}/questions")["questions"]
    if as_json:
        typer.echo(json.dumps(video | {"questions": questions}))
    else:
        show.video(video, questions)


@app.command()
def wait(context: typer.Context, video_ids: VideoIds, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Show progress until videos are encoded; fails if one of them fails."""
    with Client.of(read_settings(context), api_url) as client:
        run_each(video_ids, lambda given: _wait(client, find_video(client, given), as_json=as_json))


@app.command()
def retry(context: typer.Context, video_ids: VideoIds, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Ingest failed videos again, and retry segments that could not be encoded."""
    with Client.of(read_settings(context), api_url) as client:

        def start_again(given: str) -> None:
            video = client.call("POST", f"/v1/videos/{find_video(client, given)}/retry")
            typer.echo(json.dumps(video) if as_json else video["id"])

        run_each(video_ids, start_again)


@app.command()
def delete(
    context: typer.Context,
    video_ids: VideoIds,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    api_url: ApiUrl = None,
) -> None:
    """Delete videos with everything that belongs to them. Asks first in a terminal."""
    with Client.of(read_settings(context), api_url) as client:

        def remove(given: str) -> None:
            found = find_video(client, given)
            if not yes and sys.stdin.isatty():
                show.video(client.call("GET", f"/v1/videos/{found}"), [])
                if not typer.confirm("Delete it with all questions and answers?", err=True):
                    return
            client.call("DELETE", f"/v1/videos/{found}")

        run_each(video_ids, remove)


def _submit(client: Client, source: str, fields: dict[str, str]) -> Any:
    """Submits a source, and tries again while the service is busy; returns the video."""
    with StatusLine() as line:
        while True:
            try:
                if source.startswith(("http://", "https://")):
                    return client.call("POST", "/v1/videos", json={"url": source, **fields})
                if Path(source).is_file():
                    if not Path(source).stat().st_size:
                        raise ServiceError(f"{source} is empty")
                    video, is_new = client.upload(Path(source), fields)
                    if not is_new:
                        line.note(f"{source}: {known_words(video, fields)}")
                    return video
                raise ServiceError(f"{source} is neither an http(s) address nor a local file")
            except Busy as error:
                line.update(f"{error}; trying again in {error.retry_after_s:g} s")
                time.sleep(error.retry_after_s)


def wait_for_video(client: Client, video_id: str) -> dict[str, Any]:
    """Shows progress until the video is complete, and returns it. Raises ServiceError if it fails."""
    with StatusLine() as line, missing_parts_said(client, FOR_VIDEOS, line):
        for video in _follow_video(client, video_id):
            line.update(f"{video_id}: {status_word(video)}, {progress_words(video)}")
    if video["problem"]:
        raise ServiceError(f"{video_id}: {video['problem']['message']}")
    words = f"{video_id}: {status_word(video)}, {progress_words(video)}"
    show.note(f"{words}; partly sampled: {video['truncated']}" if video["truncated"] else words)
    return video


def _wait(client: Client, video_id: str, *, as_json: bool) -> None:
    video = wait_for_video(client, video_id)
    if as_json:
        typer.echo(json.dumps(video))


def _follow_video(client: Client, video_id: str) -> Iterator[dict[str, Any]]:
    """The video at each change, until it is complete; waits up to PATIENCE_S for an unreachable service."""
    away_since: float | None = None
    while True:
        try:
            for _, data in client.events("GET", f"/v1/videos/{video_id}/events"):
                away_since = None
                video = json.loads(data)
                yield video
                if video["progress"] and video["progress"]["complete"]:
                    return
        except Unreachable:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_S:
                raise
        time.sleep(1.0)
