"""The command line: `longwatch`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from api import cli_client, show
from configs.loading import CONFIG_VARIABLE, SettingsError, find_config, load_settings
from storage.errors import LongwatchError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
worker = typer.Typer(no_args_is_help=True)
app.add_typer(cli_client.app)  # beside the others, not below a name
app.add_typer(worker, name="worker", help="Run one kind of worker; as many as you like, on any machine.")

WORKERS = {"ingest": "ingest", "encode": "encoder_worker", "reason": "reasoner"}


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
def up(
    context: typer.Context,
    procfile: Annotated[Path | None, typer.Option(help="What to run; empty: the project's own Procfile.")] = None,
) -> None:
    """Run everything on this machine: Redis (unless configured), API and workers."""
    from api.up import up as run

    run(context.obj, procfile)


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
        show.finding(finding.part, finding.words, fine=finding.fine, needed=finding.needed)
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
    line = [sys.executable, "-P", "-m", module, *arguments]  # -P: a folder of that name here is not meant
    os.execv(line[0], line)  # noqa: S606 - no shell: the arguments are ours


if __name__ == "__main__":
    main()
