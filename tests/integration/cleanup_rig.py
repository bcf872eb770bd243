"""A store in disorder, for tests of cleanup: all that a cleanup removes, beside what it must not touch."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pushsvc.model.devices import Device
from pushsvc.runtime.providers import addresses
from pushsvc.stages.cleanup import Ages, Cleaned, clean, sweeps
from pushsvc.store import Store, StoreConfig, keys
from pushsvc.store.registry.documents import decode_device
from pushsvc.store.registry.wire import Digests

from .test_registry import device
from .test_store_kit import make_push, moment
from .test_store_replay import fail_all

DAY = 86_400_000
CONFIG = StoreConfig(
    status_ttl=7 * 86400,
    dead_ttl=30 * 86400,
    suppression_ttl=180 * 86400,
    events_ttl=30 * 86400,
    addresses=addresses(),
)
AGES = Ages(tombstones=30 * 86400, suspects=90 * 86400, stale={"fcm": 270 * 86400})

Removed = Counter[tuple[str, str]]


async def run(store: Store, *, dry_run: bool = False, apps: tuple[str, ...] = ("shop",)) -> Removed:
    """A whole cleanup, without rests."""
    plan = sweeps(store.registry, store.leftovers, store.live, apps, AGES, clock=lambda: moment(), dry_run=dry_run)
    cleaned: Cleaned = await clean(plan, share=1.0)
    assert cleaned.place is None
    return Counter(cleaned.removed)


def tombstone(name: str, *, days: int) -> Device:
    at = moment() - days * DAY
    return device(name, state="pruned", pruned_at=at, pruned_for="Unregistered", last_seen_at=at - DAY)


async def make_devices(store: Store, app: str = "shop", times: int = 1) -> Removed:
    """Devices that stay, and devices that do not; what a cleanup makes of them."""
    for lap in range(times):
        found = [
            *(device(f"good-{lap}-{n}", user=f"u{lap}-{n % 7}", topics=("news", f"t{n % 3}")) for n in range(40)),
            *(
                device(f"stale-{lap}-{n}", platform="fcm", last_seen_at=moment() - 271 * DAY, user=f"u{lap}-1")
                for n in range(5)
            ),
            *(device(f"suspect-{lap}-{n}", strikes=1, struck_at=moment() - 91 * DAY, last_seen_at=0) for n in range(4)),
            *(tombstone(f"old-{lap}-{n}", days=31) for n in range(3)),
            *(tombstone(f"young-{lap}-{n}", days=29) for n in range(2)),
        ]
        await store.registry.put_many(app, found)
    return Counter({(app, "stale"): 5 * times, (app, "suspects"): 4 * times, (app, "tombstones"): 3 * times})


def index_key(app: str, index: str, digest: bytes) -> str:
    """Return the key of an index of the registry that has a digest."""
    return f"{keys.devices(app)}{index}:{digest[:2].hex()}"


async def make_orphans(store: Store, app: str = "shop") -> Removed:
    """Make entries in every index that lead nowhere, or to a device that they are not about."""
    digests = Digests(store.hash_key, store.config.addresses)
    nowhere = 900_000
    call = store.link.call

    async def point(index: str, digest: bytes, ordinals: str) -> None:
        await call("HSET", index_key(app, index, digest), digest[2:], ordinals)

    await store.registry.put(app, device("witness", user="w"))
    (witness,) = [n for n, each in (await numbered(store, app)).items() if each == "witness"]
    await point("i", digests.of("lost"), str(nowhere))
    await point("k", digests.of_address(("apns", "lost")), str(nowhere + 1))
    await point("k", digests.of_address(("apns", "not the witness's")), str(witness))
    await point("u", digests.of("lost"), f"{nowhere},{nowhere + 2}")
    await point("u", digests.of("w"), f"{nowhere},{witness},{witness}")
    # In the sparse container of a topic that somebody has, in a dense one, and in one that nobody has.
    await store.registry.subscribe(app, "sparse", "witness")
    await call("HSET", keys.topic(app, "sparse"), str(witness // 4096), pack(witness, witness + 1), "#", 2)
    await call("HSET", keys.topic(app, "lost"), "219", pack(nowhere % 4096), "#", 1)
    await call("HSET", keys.topic(app, "empty"), "#", 3)
    await call("ZADD", keys.tombstones(app, "apns:lost"), 5, nowhere, 6, witness)
    await call("HSET", keys.tombstones(app), "apns:lost", 2)
    return Counter({(app, "orphans"): 1 + 2 + 2 + 2 + 1 + 1 + 1 + 2})


def pack(*ordinals: int) -> bytes:
    return b"".join((n % 4096).to_bytes(2, "big") for n in ordinals)


async def numbered(store: Store, app: str) -> dict[int, str]:
    """Device ids by ordinal."""
    (count,) = await store.link.call("HMGET", keys.device_counts(app), "next")
    found = {}
    for block in range(int(count or 0) // 128 + 1):
        for at, blob in enumerate((await store.link.call("LRANGE", keys.device_block(app, block), 1, -1)) or ()):
            if blob:
                found[block * 128 + at] = decode_device(blob).id
    return found


async def make_aged(store: Store, app: str = "shop", many: int = 3) -> Removed:
    """Dead letters, events, suppressions and marks, `many` too old of each; and statuses without a lifetime."""
    call, link = store.link.call, store.link
    # In order: a stream takes no entry that is older than its last.
    await link.many([("XADD", keys.dead(app, 0), f"{moment() - 31 * DAY + n}-1", "d", b"\x01x") for n in range(many)])
    await call("XADD", keys.dead(app, 0), f"{moment() - 29 * DAY}-1", "d", b"\x01x")
    await link.many([("XADD", keys.events(app, 0), f"{moment() - 31 * DAY + n}-1", "e", b"\x01x") for n in range(many)])
    await call("XADD", keys.events(app, 0), f"{moment() - 29 * DAY}-1", "e", b"\x01x")
    old = [part for n in range(many) for part in (moment() - 181 * DAY - n, b"old%d" % n)]
    await call("ZADD", keys.suppressed(app, 0, "fcm"), *old, moment() - 179 * DAY, b"young")
    old = [part for n in range(many) for part in (moment() - 30 * DAY - n, b"old%d" % n)]
    await call("ZADD", keys.cancelled(app, 0), *old, moment() - 28 * DAY, b"young")
    return Counter({(app, what): many for what in ("dead_letters", "events", "suppressions", "cancelled")})


async def make_statuses(store: Store, app: str = "shop") -> Removed:
    """Statuses and what belongs to them, with and without lifetimes."""
    call = store.link.call

    async def status(push: str, up: int, *, lives: bool, failed: int = 0, parts: str = "") -> None:
        await call("HSET", f"ps:{{{app}.0}}:p:{push}", "st", "done", "n", 1, "up", up, "n:failed", failed)
        for part in parts:
            await call("HSET", f"ps:{{{app}.0}}:{part}:{push}", "x", "1")
        if lives:
            await call("PEXPIRE", f"ps:{{{app}.0}}:p:{push}", DAY)

    await status("good", moment(), lives=True)
    await status("over", moment() - 8 * DAY, lives=False, parts="brt")  # gone as one
    await status("young", moment() - 6 * DAY, lives=False, parts="b")  # lives again, as one
    await status("kept-for-its-letters", moment() - 8 * DAY, lives=False, failed=1)  # lives again
    await status("half", moment(), lives=True, parts="r")  # its part lives again
    await call("HSET", f"ps:{{{app}.0}}:b:gone", "x", "1")  # gone: its push is
    limits = f"apns:all:l:{moment() // 3_600_000}"
    for kind, value in (("v", "gone"), ("i", "aa"), ("replay", "j"), ("lim", limits), ("bucket", "app")):
        await call("HSET", f"ps:{{{app}.0}}:{kind}:{value}", "x", "1")  # live again
    lost = f"ps:{{{app}.0}}:p:lost"  # gone: no delivery of it can be open any more
    await call("HSET", lost, "st", "sending", "n", 2, "up", moment() - 37 * DAY, "n:sent", 1)
    return Counter({(app, "statuses"): 3, (app, "lifetimes"): 3 + 5})


async def make_bystanders(store: Store) -> None:
    """What no cleanup touches: pushes under way and ended, receipts, quarantine, keys of an app that is not ours."""
    await fail_all(store, make_push("failed", 2))
    await store.pushes.accept(make_push("under-way", 3))
    call = store.link.call
    await call("HSET", "ps:{shop.0}:p:under-way-still", "st", "sending", "n", 2, "up", moment() - 20 * DAY, "n:sent", 1)
    await call("HSET", "ps:{shop.0}:p:under-way-unread", "st", "expanding", "n", 0, "up", moment() - 60 * DAY)
    await call("HSET", "ps:{shop.0}:x:under-way-unread", "step", 0)
    await store.link.call("XADD", "ps:{shop.0}:quarantine", "1-1", "b", "old")
    await store.link.call("XADD", "ps:{shop.0}:receipts", "1-1", "r", "old")
    await store.link.call("XADD", "ps:{elsewhere.0}:events", "1-1", "e", "old")
    await store.link.call("SET", "ps:{elsewhere.0}:p:x", "no lifetime")
    await store.link.call("SET", "somebody else's", "no lifetime")


async def dump(store: Store) -> dict[bytes, Any]:
    """Every key of the store with what is in it, lifetimes aside."""
    names: list[bytes] = []
    cursor: str | None = ""
    while cursor is not None:
        found, cursor = await store.link.scan("*", cursor, 1000)
        names += found
    values = await store.link.many([("DUMP", name) for name in sorted(set(names))])
    return dict(zip(sorted(set(names)), values, strict=True))
