"""Shows no type for options without a value in the help of commands; Typer shows `<bool>`."""

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption


def _hide_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if isinstance(parameter, TyperOption) and parameter.is_flag and parameter.metavar is None:
            parameter.metavar = ""
    return parameters


class Command(TyperCommand):
    """A command whose help shows no type for flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with `--help`."""
        return _hide_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands whose help shows no type for flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with `--help`."""
        return _hide_types(super().get_params(ctx))


def hide_types_of_flags(app: typer.Typer) -> None:
    """Applies to all commands and groups of `app`."""
    app.info.cls = Group
    for command in app.registered_commands:
        command.cls = Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            hide_types_of_flags(group.typer_instance)
