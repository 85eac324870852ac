"""What can go wrong between the command line and the service, and how a command says it.

LongwatchError
 ├─ ServiceError        the service answers with a problem
 │   ├─ Unreachable     the service does not answer, or broke off: it may be starting
 │   └─ Busy            the service has enough to do for now; says when to try again
 ├─ NoMatch             an id or its beginning fits nothing, or too much
 └─ CannotWrite         a file of this machine cannot be written
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
    """The service does not answer, or broke off: it may be starting."""


class Busy(ServiceError):
    """The service has enough to do for now."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NoMatch(LongwatchError):
    """An id or its beginning fits nothing, or too much."""

    code = "no-match"


class CannotWrite(LongwatchError):
    """A file of this machine cannot be written."""

    code = "cannot-write"


def say_error(error: Exception) -> None:
    """One error on stderr, as every command says it."""
    print(f"longwatch: {escape_lines(str(error))}", file=sys.stderr, flush=True)  # noqa: T201


def run_each(items: Iterable[str], act: Callable[[str], None]) -> None:
    """Does all of them, says which failed, and fails if any did; a service that is away ends it at once."""
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
