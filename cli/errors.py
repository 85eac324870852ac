"""The errors of the command line, and how commands report them.

LongwatchError
 ├─ ServiceError        the service answers with a problem
 │   ├─ Unreachable     the service does not answer, or closed the connection: it may be starting
 │   └─ Busy            the service is busy; says when to try again
 ├─ NoMatch             an id or its beginning matches nothing, or several items
 └─ CannotWrite         a local file cannot be written
"""

import sys
from collections.abc import Callable, Iterable

import typer

from cli.safe_text import escape_lines
from storage.errors import LongwatchError


class ServiceError(LongwatchError):
    """The service answers with a problem."""

    code = "service"


class Unreachable(ServiceError):
    """The service does not answer, or closed the connection: it may be starting."""


class Busy(ServiceError):
    """The service is busy."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NoMatch(LongwatchError):
    """An id or its beginning matches nothing, or several items."""

    code = "no-match"


class CannotWrite(LongwatchError):
    """A local file cannot be written."""

    code = "cannot-write"


def say_error(error: Exception) -> None:
    """Prints an error on stderr, in the format of all commands."""
    print(f"longwatch: {escape_lines(str(error))}", file=sys.stderr, flush=True)  # noqa: T201


def run_each(items: Iterable[str], act: Callable[[str], None]) -> None:
    """Runs `act` on every item, prints each error, and exits with 1 if there was one. Stops at once on Unreachable."""
    failed = False
    for item in items:
        try:
            act(item)
        except Unreachable:
            raise
        except LongwatchError as error:
            say_error(error)
            failed = True
    if failed:
        raise typer.Exit(1)
