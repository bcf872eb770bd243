"""How long `/readyz` takes to say that Redis is away."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pushsvc.errors import StoreUnavailable
from pushsvc.runtime.reload import Current
from pushsvc.runtime.state import conditions
from pushsvc.settings.schema import Settings


async def test_a_redis_whose_connection_ends_while_it_is_asked_is_away_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked once, within the bound: another question would wait for another connection."""
    monkeypatch.setattr(conditions, "ANSWER", 60.0)
    asked = 0

    async def ping() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            await asyncio.Event().wait()
        raise StoreUnavailable("the connection went")

    store: Any = SimpleNamespace(pushes=SimpleNamespace(ping=ping))
    own = conditions.StoreConditions(Current(Settings()), store)

    async with asyncio.timeout(10):
        assert await own.ready() == {"redis": "the connection went"}
