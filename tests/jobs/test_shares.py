"""Targets are shared out evenly, and nobody takes more than it can."""

import random

from jobs.shares import plan_share


def test_processes_that_come_and_go_reach_even_shares() -> None:
    random.seed(3)
    targets = [str(k) for k in range(23)]
    holders: dict[str, list[str]] = {"a": []}
    for change in ("", "b", "c", "-a", "d", "-b", "-c"):
        if change.startswith("-"):
            del holders[change[1:]]
        elif change:
            holders[change] = []
        for _ in range(6):
            for name in random.sample(sorted(holders), len(holders)):
                taken = {target for mine in holders.values() for target in mine}
                free = [target for target in targets if target not in taken]
                plan = plan_share(holders[name], free, len(targets), len(holders), 100)
                holders[name] = [t for t in holders[name] if t not in plan.release] + plan.take
        assert sorted(target for mine in holders.values() for target in mine) == sorted(targets)
        assert max(map(len, holders.values())) <= -(-len(targets) // len(holders))


def test_nobody_takes_more_than_it_can() -> None:
    assert plan_share(["a"], ["b", "c", "d"], 4, 1, 2) == (["b"], [])
    assert plan_share(["a", "b", "c"], [], 3, 1, 2) == ([], ["c"])
