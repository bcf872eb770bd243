"""The registry knows a token by its identity: whatever its device is called, and in whatever form it was stored."""

from __future__ import annotations

import asyncio

from pushsvc.model.devices import ToAll
from pushsvc.ports.registry import MOST_OF_USER, Holding
from pushsvc.store import Store

from .registry_audit import audit
from .test_registry import device, everyone
from .test_store_kit import Backend, World, moment

BACKENDS: tuple[Backend, ...] = ("memory", "redis")


async def test_an_fcm_token_and_its_installation_are_one_device(world: World) -> None:
    store = await world.store()
    registry = store.registry
    await registry.put("shop", device("old", platform="fcm", token="F:APA91b-1", user="u"))
    later = device("new", platform="fcm", token="F", kind="fid", user="u")
    assert await registry.put("shop", later) == (later, True)
    assert await registry.get("shop", "old") is None
    assert await registry.of_user("shop", "u") == [later]
    for token in ("F", "F:APA91b-1", "F:APA91b-2"):
        assert await registry.holders("shop", [Holding(None, "fcm", token)]) == [later]
    if isinstance(store, Store):
        await audit(store)


async def test_a_token_that_changes_its_device_is_met_once_by_who_pages(world: World) -> None:
    store = await world.store()
    registry = store.registry
    await registry.put_many("shop", [device(f"d{n}", topics=("t",)) for n in range(300)])
    page = await registry.members("shop", ToAll(), after="", limit=128)
    met = [each.token for each in page.devices]
    moving = ["d0", "d100", "d150", "d299"]
    for name in moving:
        await registry.put("shop", device(f"renamed-{name}", token=device(name).token))
    # A device that is there already, and takes over the token of another.
    await registry.put("shop", device("d5", token=device("d6").token))
    while page.cursor is not None:
        page = await registry.members("shop", ToAll(), after=page.cursor, limit=128)
        met += [each.token for each in page.devices]
    assert sorted(met) == sorted(device(f"d{n}").token for n in range(300))
    names = await everyone(registry, ToAll())
    assert {f"renamed-{name}" for name in moving} | {"d5"} <= set(names)
    assert not {*moving, "d6"} & set(names)
    if isinstance(store, Store):
        await audit(store)


async def test_tombstones_keep_no_phone_out(world: World) -> None:
    registry = (await world.store()).registry
    stones = [
        device(f"d{n}", user="u", state="pruned", pruned_at=moment() - n, pruned_for="Unregistered")
        for n in range(MOST_OF_USER)
    ]
    await registry.put_many("shop", stones)
    await registry.put("shop", device("phone", user="u"))
    found = {each.id for each in await registry.of_user("shop", "u")}
    assert len(found) == MOST_OF_USER
    assert "phone" in found
    assert f"d{MOST_OF_USER - 1}" not in found  # the oldest made room


async def test_many_registrations_of_one_device_at_once_all_get_through(world: World) -> None:
    registry = (await world.store()).registry
    await asyncio.gather(*(registry.put("shop", device("d", user=f"u{n}")) for n in range(40)))
    assert await registry.count("shop") == 1
