"""Shares targets (cameras, streams) out among processes. Pure."""

from collections.abc import Sequence
from typing import NamedTuple


class Change(NamedTuple):
    """What a process does to get its share."""

    take: list[str]
    release: list[str]


def plan_share(mine: Sequence[str], free: Sequence[str], total: int, processes: int, most: int) -> Change:
    """The targets to take from `free`, or to release so that others get their share.

    `total` targets are shared by `processes`, this one included. Nobody takes more than `most`.
    """
    share = min(-(-total // max(processes, 1)), most)
    if len(mine) > share:
        return Change([], list(mine[share:]))
    return Change(list(free[: share - len(mine)]), [])
