"""The command line: `longwatch`."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from api import show
from api.client import Client, ServiceError
from configs.loading import CONFIG_VARIABLE, SettingsError, find_config, load_settings
from storage.errors import LongwatchError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
worker = typer.Typer(no_args_is_help=True)
app.add_typer(worker, name="worker", help="Run one kind of worker; as many as you like, on any machine.")

WORKERS = {"ingest": "ingest", "encode": "encoder_worker", "reason": "reasoner"}
VideoId = Annotated[str, typer.Argument(metavar="ID")]


@app.callback()
def configured(
    context: typer.Context,
    config: Annotated[str | None, typer.Option(help="YAML file, or the name of a bundled one.")] = None,
) -> None:
    """Longwatch answers questions about hours of video."""
    context.obj = load_settings(config)
    if config:
        os.environ[CONFIG_VARIABLE] = str(find_config(config))  # for the processes that this one becomes or starts


@app.command()
def up(context: typer.Context) -> None:
    """Run everything on this machine: Redis (unless configured), API and workers."""
    from api.up import up as run

    run(context.obj)


@app.command()
def serve(context: typer.Context) -> None:
    """Run the API alone."""
    from api.serve import serve as run

    run(context.obj)


@app.command(hidden=True)
def redis(context: typer.Context) -> None:
    """Run the private Redis alone (the Procfile does)."""
    from api.redis_server import run

    run(context.obj)


@worker.command()
def ingest() -> None:
    """Fetch and sample videos."""
    _become("ingest")


@worker.command()
def encode() -> None:
    """Compress frames and fuse questions: the vision half."""
    _become("encode")


@worker.command()
def reason() -> None:
    """Answer questions: the language half."""
    _become("reason")


@app.command()
def add(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="URL|PATH", help="An http(s) address, or a file of this machine.")],
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until all is encoded.")] = False,
) -> None:
    """Submit a video."""
    client = Client.of(context.obj)
    if source.startswith(("http://", "https://")):
        video = client.call("POST", "/v1/videos", json={"url": source})
    elif Path(source).is_file():
        video = client.upload(Path(source))
    else:
        raise ServiceError(f"{source} is neither an http(s) address nor a file here")
    print(video["id"])
    if wait:
        states = client.events("GET", f"/v1/videos/{video['id']}/events")
        last = show.progress(json.loads(data) for _, data in states)
        if last["problem"]:
            raise ServiceError(last["problem"]["message"])
        if last["truncated"]:
            show.console.print(f"[yellow]{last['truncated']}[/yellow]")


@app.command(name="list")
def list_videos(context: typer.Context) -> None:
    """List all videos, newest first."""
    client, rows, cursor = Client.of(context.obj), [], None
    while True:
        page = client.call("GET", "/v1/videos", params={"cursor": cursor} if cursor else {})
        rows += page["videos"]
        cursor = page["next_cursor"]
        if cursor is None:
            return show.videos(rows)


@app.command()
def ask(
    context: typer.Context,
    video_id: VideoId,
    question: str,
    start_s: Annotated[float, typer.Option("--from", help="Second at which the stretch begins.")] = 0.0,
    end_s: Annotated[float | None, typer.Option("--to", help="Second at which it ends; empty: the end.")] = None,
    fusion: Annotated[str | None, typer.Option(help="focused, sampled or exact; empty: as configured.")] = None,
    follow: Annotated[str | None, typer.Option(help="Id of an answered question to follow up.")] = None,
) -> None:
    """Ask about a video; the answer is printed as it is generated."""
    body: dict[str, Any] = {"question": question, "start_s": start_s, "end_s": end_s, "previous_question_id": follow}
    if fusion:
        body["fusion"] = fusion
    for event, data in Client.of(context.obj).events("POST", f"/v1/videos/{video_id}/questions", json=body):
        if event == "text":
            print(data, end="", flush=True)
        elif event == "restart":
            print("\n(begun anew)")
        elif event == "error":
            raise ServiceError(json.loads(data)["problem"]["message"])
        elif event == "answer":
            print()
            show.grounds(json.loads(data))


@app.command()
def delete(context: typer.Context, video_id: VideoId) -> None:
    """Remove a video with all that belongs to it."""
    Client.of(context.obj).call("DELETE", f"/v1/videos/{video_id}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def plan(context: typer.Context) -> None:
    """What fits on a card: `longwatch plan --gpu-gb 24 --config llava-mini-8b`."""
    _exec("llava_mini.plan", *context.args)


@app.command()
def doctor(context: typer.Context) -> None:
    """Check every part, and say what to do."""
    from api.doctor import examine

    findings = list(examine(context.obj))
    for finding in findings:
        mark = (
            "[green]ok[/green]  " if finding.fine else "[red]no[/red]  " if finding.needed else "[yellow]--[/yellow]  "
        )
        show.console.print(f"{mark}{finding.part:12}{finding.words}", soft_wrap=True)
    if any(finding.needed and not finding.fine for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """The console script: errors are one clear line."""
    try:
        app()
    except (LongwatchError, SettingsError) as error:
        print(f"longwatch: {error}", file=sys.stderr)
        sys.exit(1)


def _become(kind: str) -> None:
    _exec(WORKERS[kind])


def _exec(module: str, *arguments: str) -> None:
    """Becomes another of this project's programs: one that loads the model is not imported here."""
    line = [sys.executable, "-m", module, *arguments]
    os.execv(line[0], line)  # noqa: S606 - no shell: the arguments are ours


if __name__ == "__main__":
    main()
