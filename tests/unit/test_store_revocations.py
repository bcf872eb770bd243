"""The wait for dispatchers: a cancel is confirmed however late the last of them drops it, and whatever Redis does."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from pushsvc.errors import StoreUnavailable
from pushsvc.store import StoreConfig
from pushsvc.store.part import StoreContext
from pushsvc.store.revoke.revocations import PATIENCE, Revocations

from .virtual_time import run


class Link:
    """Two dispatchers, one of which is gone; `away` while Redis does not answer."""

    def __init__(self) -> None:
        self.heard = {b"gone": b"1-0", b"alive": b"9-0"}
        self.away = False
        self.confirmed: list[str] = []

    async def call(self, *words: Any) -> dict[bytes, bytes]:
        if self.away:
            raise StoreUnavailable("Redis is away")
        return dict(self.heard)

    async def script(self, name: str, keys: list[str], words: list[str]) -> None:
        self.confirmed += words[1:]


def waiting(link: Link, **config: Any) -> Revocations:
    return Revocations(StoreContext(cast(Any, link), StoreConfig(**config), b"", lambda: 0))


@pytest.mark.parametrize(
    ("struck_off", "takeover"), [(40.0, 30.0), (80.0, 30.0), (300.0, 100.0)], ids=["soon", "late", "long takeover"]
)
@pytest.mark.parametrize("outage", [False, True])
def test_a_cancel_is_confirmed_when_the_last_dispatcher_is_struck_off(
    struck_off: float, takeover: float, outage: bool
) -> None:
    async def main() -> None:
        link = Link()
        revocations = waiting(link, alive_ttl=takeover)
        assert not await revocations.applied("shop", 0, "9-0", "push")
        if outage:
            link.away = True
            await asyncio.sleep(5)
            link.away = False
        await asyncio.sleep(struck_off)
        assert link.confirmed == []
        del link.heard[b"gone"]
        await asyncio.sleep(2)
        assert link.confirmed == ["push"]
        await revocations.aclose()

    run(main())


def test_only_callers_that_wait_fail_while_redis_is_away() -> None:
    async def main() -> None:
        link = Link()
        revocations = waiting(link)
        assert not await revocations.applied("shop", 0, "9-0", "earlier")
        link.away = True
        began = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailable):
            await revocations.applied("shop", 0, "9-0", "later")
        assert asyncio.get_running_loop().time() - began < PATIENCE / 4
        link.away = False
        del link.heard[b"gone"]
        await asyncio.sleep(2)
        assert sorted(link.confirmed) == ["earlier", "later"]
        await revocations.aclose()

    run(main())
