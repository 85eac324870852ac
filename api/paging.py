"""Pages of a list, newest first; the cursor of the next page is the id of a page's last item."""

import re
from typing import Annotated

from fastapi import Query

from storage.errors import BadRequest, StateRebuilding
from storage.store import Store

Cursor = Annotated[str | None, Query(description="`next_cursor` of the previous page.")]
Limit = Annotated[int | None, Query(ge=1, le=200, description="Items per page. Empty: as configured.")]
Prefix = Annotated[str, Query(pattern="^[0-9a-f_-]*$", max_length=64, description="Only ids that begin with this.")]


def check_page(store: Store, cursor: str | None, ids: re.Pattern[str]) -> None:
    """Raises BadRequest if the cursor is not an id, StateRebuilding while the lists are being rebuilt."""
    if cursor is not None and not ids.fullmatch(cursor):
        raise BadRequest("cursor must be the next_cursor of another page")
    if not store.index.is_ready():
        raise StateRebuilding(
            "the lists are being rebuilt from the archive: try again soon; this needs a live worker (see /readyz)"
        )


def cut_page(ids: list[str], size: int) -> tuple[list[str], str | None]:
    """The first `size` of `size + 1` ids that were read, and the cursor of the next page; None at the end."""
    return ids[:size], ids[size - 1] if len(ids) > size else None
