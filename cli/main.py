"""The command line: `longwatch`."""

import os
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from cli import events, pictures, programs, questions, show, streams, videos, watching
from cli.errors import say_error
from cli.flags import hide_types_of_flags
from cli.options import read_settings
from configs.loading import CONFIG_VARIABLE, SettingsError, find_config, load_settings
from storage.errors import LongwatchError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
for group in (videos, questions, events, pictures, programs, watching):
    app.add_typer(group.app)  # as top-level commands, not as a named group
app.add_typer(streams.app, name="stream", help="Live cameras: add, list, show, pause, resume, delete.")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"longwatch {version('longwatch')}")
        raise typer.Exit


@app.callback()
def configure(
    context: typer.Context,
    config: Annotated[str | None, typer.Option(help="YAML file, or the name of a bundled one.")] = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Longwatch answers questions about hours of video."""
    context.obj = partial(load_settings, config)  # read when needed: --help works even if a setting is wrong
    if config:
        os.environ[CONFIG_VARIABLE] = str(find_config(config))  # for the processes that this one becomes or starts


@app.command()
def up(
    context: typer.Context,
    procfile: Annotated[Path | None, typer.Option(help="What to run; default: the project's own Procfile.")] = None,
) -> None:
    """Run everything on this machine: both Redis servers (unless configured), API and workers."""
    from cli.up import run

    run(read_settings(context), procfile)


@app.command()
def doctor(context: typer.Context) -> None:
    """Check every part, and say what to do. Fails if the service cannot work."""
    from cli.doctor import examine

    findings = list(examine(read_settings(context)))
    for finding in findings:
        show.finding(finding.part, finding.words, fine=finding.fine, needed=finding.needed)
    if any(finding.needed and not finding.fine for finding in findings):
        raise typer.Exit(1)


hide_types_of_flags(app)


def main() -> None:
    """The console script. Errors are one clear line; a reader that closes the pipe early is not an error."""
    try:
        try:
            app(prog_name="longwatch")
        finally:
            sys.stdout.flush()
    except (LongwatchError, SettingsError) as error:
        say_error(error)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discards what Python flushes at exit
        sys.exit(1)
