"""How late refusals are answered."""

from __future__ import annotations

from hypothesis import given, strategies as st

from pushsvc.live.protocol.slowdown import Slowdown


def test_the_wait_grows_to_its_most() -> None:
    slowdown = Slowdown(first=0.25, most=10.0)
    assert [slowdown.refused(["d"], 0.0) for _ in range(9)] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_the_worst_of_device_and_address_decides() -> None:
    slowdown = Slowdown()
    for _ in range(4):
        slowdown.refused(["address"], 0.0)
    assert slowdown.refused(["device", "address"], 0.0) == 4.0
    assert slowdown.refused(["device"], 0.0) == 0.5


def test_a_client_that_waits_or_is_accepted_begins_anew() -> None:
    slowdown = Slowdown(first=1.0, forget=60.0)
    slowdown.refused(["d"], 0.0)
    assert slowdown.refused(["d"], 60.9) == 2.0
    assert slowdown.refused(["d"], 60.9 + 62.0) == 1.0
    slowdown.refused(["d"], 130.0)
    slowdown.accepted(["d", "unknown"])
    assert slowdown.refused(["d"], 131.0) == 1.0


def test_a_client_that_does_not_wait_is_held_to_a_few_attempts() -> None:
    slowdown, now, attempts = Slowdown(), 0.0, 0
    while now < 3600:
        now += slowdown.refused(["d"], now)
        attempts += 1
    assert attempts < 370


@given(st.lists(st.text(max_size=2), max_size=200))
def test_memory_is_bounded(keys: list[str]) -> None:
    slowdown = Slowdown(capacity=8)
    for number, key in enumerate(keys):
        assert 0 < slowdown.refused([key], float(number)) <= 10.0
        assert len(slowdown) <= 8
    if keys:
        assert slowdown.refused([keys[-1]], float(len(keys))) > 0.25, "the latest is still known"
