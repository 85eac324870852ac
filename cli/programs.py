"""The commands that turn this process into another of the project's programs: serve, worker, redis, plan.

Those programs are started by name, not imported: some load the model, and `cli` may not import its siblings.
"""

import os
import sys
from typing import Annotated, Literal

import typer

from cli.options import read_settings

app = typer.Typer()
worker = typer.Typer(no_args_is_help=True)
app.add_typer(worker, name="worker", help="Run one kind of worker; as many as you like, on any machine.")


@app.command()
def serve(context: typer.Context) -> None:
    """Run only the API."""
    _become("api", context)


@worker.command()
def ingest(context: typer.Context) -> None:
    """Fetch and sample videos."""
    _become("ingest", context)


@worker.command()
def capture(context: typer.Context) -> None:
    """Capture live cameras."""
    _become("ingest.cameras", context)


@worker.command()
def encode(context: typer.Context) -> None:
    """Compress frames and fuse questions: the vision half."""
    _become("encoder_worker", context)


@worker.command()
def reason(context: typer.Context) -> None:
    """Answer questions: the language half."""
    _become("reasoner", context)


@app.command(hidden=True)
def redis(
    context: typer.Context, role: Annotated[Literal["state", "cache"], typer.Argument(help="What it keeps.")]
) -> None:
    """Run one of the two private Redis servers (`up` runs both)."""
    from cli.redis_server import run

    run(read_settings(context), role)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def plan(context: typer.Context) -> None:
    """Show what fits on a GPU: `longwatch plan --gpu-gb 24`. Without a configuration, that of llava-mini-8b."""
    _exec("llava_mini.plan", *context.args)


def _become(package: str, context: typer.Context) -> None:
    read_settings(context)  # reports wrong settings before anything starts
    _exec(package)


def _exec(module: str, *arguments: str) -> None:
    line = [sys.executable, "-P", "-m", module, *arguments]  # -P: ignores such a folder in the working directory
    os.execv(line[0], line)  # noqa: S606 - no shell: the arguments are ours
