"""Leases end by themselves, and one holder has each target."""

from storage.leases import Leases
from storage.store import Store
from tests.waiting import wait_until


def test_a_lease_has_one_holder_until_it_is_released_or_ends(store: Store) -> None:
    leases = Leases(store.state, "capture")
    assert leases.hold(["a", "b"], "one", 60) == {"a", "b"}
    assert leases.hold(["b", "c"], "two", 0.2) == {"c"}
    assert leases.find_holders(["a", "b", "c", "d"]) == {"a": "one", "b": "one", "c": "two"}
    leases.release(["a", "c"], "one")
    assert leases.find_holders(["a", "b", "c"]) == {"b": "one", "c": "two"}
    wait_until(lambda: leases.hold(["c"], "one", 60) == {"c"}, within_s=10)
    assert leases.hold(["b"], "one", 60) == {"b"}
    assert Leases(store.state, "encode").find_holders(["b"]) == {}
