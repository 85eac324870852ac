"""The arguments and options that several commands share."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from cli.times import parse_time, parse_wall_clock
from configs.settings import Settings


def read_settings(context: typer.Context) -> Settings:
    """The settings that the command was called with. Raises SettingsError."""
    load: Callable[[], Settings] = context.obj
    return load()


def _time(text: str) -> float | str:
    try:
        return parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _time_text(text: str) -> str:
    return str(_time(text))


def _wall_clock(text: str) -> str:
    try:
        return parse_wall_clock(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


VIDEO_HELP = "A video's id, or a unique beginning of it."
VideoId = Annotated[str, typer.Argument(metavar="ID", help=VIDEO_HELP)]
VideoIds = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of videos, or unique beginnings of them.")]
QuestionId = Annotated[str, typer.Argument(metavar="QUESTION_ID", help="A question's id, or a unique beginning of it.")]
ApiUrl = Annotated[
    str | None, typer.Option("--api-url", metavar="URL", help="Address of the service; default: api.host and api.port.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Output = Annotated[
    str | None, typer.Option("--output", "-o", metavar="FILE", help="The file to write; - is standard output.")
]
Time = Annotated[
    str, typer.Argument(metavar="TIME", parser=_time_text, help="Seconds, 1:30, 1:02:03, or RFC 3339 (…T13:00:00Z).")
]
From = Annotated[
    Any,
    typer.Option("--from", metavar="TIME", parser=_time, help="Where the stretch begins: 90, 1:30, 1:02:03, RFC 3339."),
]
To = Annotated[Any, typer.Option("--to", metavar="TIME", parser=_time, help="Where it ends; default: the end.")]
RecordedAt = Annotated[
    Any,
    typer.Option(
        "--recorded-at", metavar="RFC3339", parser=_wall_clock, help="When it began, e.g. 2026-11-21T13:00:00+01:00."
    ),
]
