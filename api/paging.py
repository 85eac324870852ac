"""Pages of a list, newest first; an item's id is the cursor behind it."""

import re
from collections.abc import Iterable
from itertools import islice
from typing import Annotated, TypeVar

from fastapi import Query

from storage.errors import BadRequest
from storage.models import Question, Video

Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]
Limit = Annotated[int | None, Query(ge=1, le=200, description="Empty: as configured.")]
Listed = TypeVar("Listed", Video, Question)


def check_cursor(cursor: str | None, ids: re.Pattern[str]) -> None:
    """Raises BadRequest where the cursor is no id."""
    if cursor is not None and not ids.fullmatch(cursor):
        raise BadRequest("cursor must be the next_cursor of another page")


def paged(items: Iterable[Listed], size: int) -> tuple[list[Listed], str | None]:
    """The first `size` items, and the cursor behind them: None where there are no more."""
    found = list(islice(items, size + 1))
    return found[:size], found[size - 1].id if len(found) > size else None
