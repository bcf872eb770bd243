"""Which node of a cluster has taken over."""

from __future__ import annotations

import pytest

from pushsvc.store.link import primaries
from pushsvc.store.link.primaries import Primaries
from pushsvc.store.link.sentinels import Address

ONE, TWO, THREE = ("a", 1), ("a", 2), ("b", 1)


def info(role: str, name: str) -> bytes:
    """As Redis answers to INFO replication."""
    fields = {"role": role, "connected_slaves": 0, "master_replid": name, "master_replid2": "0" * 40}
    return b"# Replication\r\n" + b"".join(b"%s:%s\r\n" % (f.encode(), str(v).encode()) for f, v in fields.items())


def met(changed: list[Address]) -> Primaries:
    """Two primaries, and all there are."""
    found = Primaries(changed.append)
    found.note(ONE, info("master", "1" * 40))
    found.note(TWO, info("master", "2" * 40))
    found.complete = True
    return found


def test_those_that_are_met_at_first_are_no_others() -> None:
    changed: list[Address] = []
    found = met(changed)
    found.note(ONE, info("master", "1" * 40))
    found.note(THREE, info("slave", "1" * 40))
    assert changed == []


@pytest.mark.parametrize("address", [ONE, THREE], ids=["started again", "promoted"])
def test_another_one_is_announced_once(address: Address) -> None:
    changed: list[Address] = []
    found = met(changed)
    for _ in range(2):
        found.note(address, info("master", "3" * 40))
        found.note(TWO, info("master", "2" * 40))
    assert changed == [address]


def test_where_a_node_does_not_say_its_address_has_to_do() -> None:
    changed: list[Address] = []
    found = met(changed)
    found.note(ONE, None)  # which was too busy, and is the same
    found.note(THREE, None)
    found.note(THREE, None)
    found.note(ONE, info("master", "1" * 40))
    assert changed == [THREE]


def test_a_primary_is_asked_once_in_a_while_and_a_replica_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("pushsvc.store.link.primaries.time.monotonic", lambda: now)
    found = met([])
    assert found.is_due(THREE)
    assert not found.is_due(ONE)
    found.note(ONE, info("slave", "2" * 40))
    assert found.is_due(ONE)
    now += primaries.LOOK
    assert found.is_due(TWO)
