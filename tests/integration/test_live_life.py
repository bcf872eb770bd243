"""A device that uses the live channel is in use: no cleanup prunes it; over every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import replace

from pushsvc.model.devices import Device
from pushsvc.ports.live import LiveRoute
from pushsvc.rules.life import lives_on
from pushsvc.stages.cleanup import Ages, clean, sweeps
from pushsvc.store import Store, keys
from pushsvc.store.registry.documents import encode_device

from .servers import Server
from .test_live_contract import HOUR, LASTING, A, connected
from .test_store_kit import AnyStore, World, moment, new_world

DAY: Final = 24 * HOUR
AGES: Final = Ages(tombstones=30 * 86400, suspects=90 * 86400, stale={"fcm": 270 * 86400}, stale_else=270 * 86400)
SILENT: Final = 300 * DAY


def silent(name: str, **named: Any) -> Device:
    """A device that was registered long ago, and not seen since."""
    token, since = named.pop("token", f"token of {name}"), moment() - SILENT
    return Device(
        **{"id": name, "platform": "fcm", "token": token, "registered_at": since, "last_seen_at": since} | named
    )


async def opened(world: World, devices: Sequence[Device]) -> AnyStore:
    store = await world.store()
    await store.registry.put_many("shop", devices)
    for gateway in ("gate-a", "gate-b"):
        await store.live.beat(gateway, {"shop": 0})
    return store


async def clean_devices(store: AnyStore, *, dry_run: bool = False) -> dict[tuple[str, str], int]:
    leftovers: Any = None  # no other sweep is taken
    plan = sweeps(store.registry, leftovers, store.live, ["shop"], AGES, clock=lambda: moment(), dry_run=dry_run)
    return dict((await clean(plan[:1], share=1.0)).removed)


async def known(store: AnyStore) -> dict[str, Device]:
    return {device.id: device for device in (await store.registry.page("shop", after="", limit=100)).devices}


async def test_a_cleanup_prunes_who_was_silent_and_nobody_else(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        struck = {"last_seen_at": moment() - 200 * DAY, "strikes": 2, "struck_at": moment() - 100 * DAY}
        devices = [
            *map(silent, ("connected", "called", "left", "open", "lapsed", "silent")),
            silent("struck and connected", **struck),
            silent("struck", **struck),
            silent(
                "an old tombstone, online", state="pruned", pruned_at=moment() - 40 * DAY, pruned_for="Unregistered"
            ),
        ]
        store = await opened(world, devices)
        live = store.live
        for name in ("connected", "struck and connected"):
            await connected(live, name)
        assert await live.admits("shop", "called", issued_at=moment()) is None
        for name, route in (("left", A), ("open", A), ("lapsed", LiveRoute("gate-b", 1))):
            await connected(live, name, route)
        await connected(live, "an old tombstone, online")
        # As if they had connected as long ago.
        await store.registry.put_many("shop", [each for each in devices if each.id in ("left", "open", "lapsed")])
        assert await live.disconnect("shop", "left", A)
        await live.leave("gate-b", ["shop"])
        expected = {("shop", "stale"): 2, ("shop", "suspects"): 1}
        assert await clean_devices(store, dry_run=True) == expected
        assert await clean_devices(store) == expected
        found = await known(store)
        assert {name: each.pruned_for for name, each in found.items() if each.state == "pruned"} == {
            "silent": "stale",
            "lapsed": "stale",
            "struck": "suspect",
            "an old tombstone, online": "Unregistered",
        }
        for device in found.values():
            if device.state == "active":
                assert device.last_seen_at >= moment(), device.id
        assert await clean_devices(store) == {}


async def test_a_device_that_was_pruned_for_silence_is_back_when_it_connects(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        fate: dict[str, Any] = {"state": "pruned", "pruned_at": moment() - DAY, "topics": ("news",)}
        stale = silent("stale", pruned_for="stale", **fate)
        suspect = silent("suspect", pruned_for="suspect", strikes=2, struck_at=moment() - SILENT, **fate)
        dead = silent("dead", pruned_for="Unregistered", **fate)
        called = silent("called", pruned_for="stale", **fate)
        lately = replace(
            dead, id="lately", token="lately", last_seen_at=moment() - HOUR // 2, pruned_at=moment() - HOUR // 4
        )
        store = await opened(world, [stale, suspect, dead, called, lately])
        assert await store.registry.count("shop") == 0
        for device in (stale, suspect, dead, lately):
            await connected(store.live, device.id)
        assert await store.live.admits("shop", "called", issued_at=moment()) is None
        assert await store.registry.count("shop") == await store.registry.topic_size("shop", "news") == 3
        found = await known(store)
        for device in (dead, lately):  # its provider called the token dead, which a connect does not refute
            alive = found[device.id]
            assert alive == replace(device, last_seen_at=alive.last_seen_at)
            assert lives_on(alive)
        for device in (stale, suspect, called):
            back = found[device.id]
            assert back.last_seen_at >= moment()
            assert back == silent(device.id, topics=("news",), last_seen_at=back.last_seen_at)


def documents() -> list[Device]:
    return [
        silent("as registered", last_seen_at=moment() - DAY, registered_at=moment() - DAY),
        silent("at the beginning of time", registered_at=0, last_seen_at=0),
        silent("seen before it was registered", registered_at=moment() - DAY, last_seen_at=moment() - 40 * DAY),
        silent(
            "6f1c1a52-3f0e-4f0c-9d1c-3b7a5f7b1c2d",
            platform="apns",
            token="8f3c" * 16,
            user="ab" * 20,
            tags={"plan": "pro", "score": 1.5, "vip": True, "many": ("a", "b"), "n": -7},
            locale="de-DE",
            timezone="Europe/Berlin",
            app_version="3.2",
            environment="sandbox",
            topics=("news", "sport"),
            strikes=1,
            struck_at=moment() - 2 * DAY,
        ),
        silent("long", platform="web", token="t" * 300, user="ü" * 60, kind="fid"),
        silent("of an hour ago", last_seen_at=moment() - HOUR),
    ]


async def test_a_sign_of_life_changes_nothing_else_and_is_noted_once_an_hour(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        late = silent("of now", last_seen_at=moment())
        old = documents()
        store = await opened(world, [*old, late])
        for device in (*old, late):
            assert await store.live.admits("shop", device.id, issued_at=moment()) is None
        found = await known(store)
        assert found.pop("of now") == late
        for device in old:
            assert found[device.id].last_seen_at >= moment()
            assert replace(found[device.id], last_seen_at=device.last_seen_at) == device
        for device in (*old, late):
            await connected(store.live, device.id)
        assert {name: each for name, each in (await known(store)).items() if name != late.id} == found


async def test_documents_that_cannot_be_read_stay_what_they_are(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        store = await opened(world, [silent("newer")])
        if not isinstance(store, Store):
            return
        block = keys.device_block("shop", 0)
        good = encode_device(silent("newer"))
        for blob in (b"\x03" + good[1:], good[:9], b"\x02\xc1", b"\x02", b"\x02" + b"\x9e" + b"\xa1a" * 14):
            await store.link.call("LSET", block, 1, blob)
            assert await store.live.admits("shop", "newer", issued_at=moment()) is None
            await connected(store.live, "newer")
            assert await store.link.call("LINDEX", block, 1) == blob
