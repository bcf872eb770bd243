"""Reads the registry of an app key by key and holds every index against the documents: nothing missing, nothing left.

Written from the table in `keys.py`, apart from the code that it judges: it shares the documents' form with it, and the
digests, nothing else.
"""

from __future__ import annotations

import re
from collections import defaultdict
from hashlib import blake2b
from typing import Any

from pushsvc.model.address import Addresses
from pushsvc.model.devices import Device
from pushsvc.store import Store
from pushsvc.store.registry.documents import decode_device

BLOCK, STREAMS, CONTAINER, BITMAP = 128, 32, 4096, 512


async def audit(store: Store, app: str = "shop") -> dict[int, Device]:
    """The documents by ordinal, after every key of the registry was found to have the same."""
    kept = await _dump(store, f"ps:{{{app}.devices}}:")
    found = _documents(kept)
    kept = {name: value for name, value in kept.items() if not _is_other(name, value, found)}
    expected = _expected(found, store.hash_key, store.config.addresses)
    expected["count"] = {"active": str(_active(found)), "next": _text(kept.get("count", {}).get(b"next", b"0"))}
    actual = {name: _read(name, value) for name, value in kept.items() if not name.startswith("d:")}
    actual["count"] = {"active": "0", "next": "0", **actual.get("count", {})}
    assert actual == expected
    assert all(n < int(expected["count"]["next"]) for n in found)
    return found


def _is_other(name: str, value: Any, found: dict[int, Device]) -> bool:
    """Whether it is a key of the live channel, or of the revocations. A stream has its device."""
    kind, _, number = name.partition(":")
    if kind == "streams":
        assert all(int(number) * STREAMS + place in found for place, stream in enumerate(value) if stream)
    return kind in ("streams", "pushes", "gateways", "refused", "live", "moved", "revoked", "heard")


async def _dump(store: Store, prefix: str) -> dict[str, Any]:
    """Every key of the registry, by its name behind the prefix."""
    names = [key async for key in _scan(store) if key.startswith(prefix)]
    kinds = await store.link.many([("TYPE", name) for name in names])
    ask = {
        "hash": ("HGETALL",),
        "list": ("LRANGE", 0, -1),
        "zset": ("ZRANGE", 0, -1, "WITHSCORES"),
        "stream": ("XRANGE", "-", "+"),
    }
    commands = [(ask[_text(kind)][0], name, *ask[_text(kind)][1:]) for name, kind in zip(names, kinds, strict=True)]
    values = await store.link.many(commands)
    return {name.removeprefix(prefix): value for name, value in zip(names, values, strict=True)}


async def _scan(store: Store) -> Any:
    cursor: Any = 0
    while True:
        cursor, names = await store.link.call("SCAN", cursor, "COUNT", 1000)
        for name in names:
            yield _text(name)
        if int(cursor) == 0:
            return


def _documents(kept: dict[str, Any]) -> dict[int, Device]:
    found = {}
    following = int(kept.get("count", {}).get(b"next", 0))
    for name, value in kept.items():
        if not name.startswith("d:"):
            continue
        number = int(name[2:])
        count, *blobs = value
        devices = {number * BLOCK + place: decode_device(blob) for place, blob in enumerate(blobs) if blob}
        assert int(count) == len(devices)
        assert len(blobs) == min(BLOCK, following - number * BLOCK)
        assert devices or len(blobs) < BLOCK
        found.update(devices)
    return found


def _expected(devices: dict[int, Device], hash_key: bytes, addresses: Addresses) -> dict[str, Any]:
    indexes: dict[str, Any] = defaultdict(dict)

    def note(kind: str, text: str, n: int) -> None:
        digest = blake2b(text.encode(), digest_size=12, key=hash_key).digest()
        indexes[f"{kind}:{digest[:2].hex()}"].setdefault(digest[2:], set()).add(n)

    for n, device in devices.items():
        note("i", device.id, n)
        note("k", "\0".join(addresses.identity(device.platform, device.token)), n)
        if device.user is not None:
            note("u", device.user, n)
        for topic in device.topics:
            of_topic = indexes[f"t:{topic}"] or {"#": 0, "members": set()}
            indexes[f"t:{topic}"] = of_topic
            of_topic["#"] += device.state == "active"
            of_topic["members"].add(n)
            indexes["topics"][topic] = 0
        if device.state == "pruned":
            label = f"{device.platform}:{device.pruned_for}"
            indexes[f"x:{label}"][n] = device.pruned_at
            indexes["x"][label] = indexes["x"].get(label, 0) + 1
    return dict(indexes)


def _read(name: str, value: Any) -> Any:
    """A key's value in the shape of `_expected`."""
    match name.partition(":")[0]:
        case "count":
            return {_text(field): _text(number) for field, number in value.items()}
        case "i" | "k" | "u":
            return {field: _ordinals(text) for field, text in value.items()}
        case "t":
            members: set[int] = set()
            for field, blob in value.items():
                if field != b"#":
                    own = _members(int(field), blob)
                    assert own
                    assert not members & own
                    members |= own
            return {"#": int(value[b"#"]), "members": members}
        case "topics":
            return {_text(member): int(score) for member, score in zip(value[::2], value[1::2], strict=True)}
        case "x" if name == "x":
            return {_text(label): int(count) for label, count in value.items()}
        case "x":
            return {int(member): int(score) for member, score in zip(value[::2], value[1::2], strict=True)}
    raise AssertionError(f"nobody knows the key {name}")


def _ordinals(text: bytes) -> set[int]:
    found = [int(part) for part in re.findall(rb"\d+", text)]
    assert len(found) == len(set(found))
    assert b",".join(b"%d" % n for n in found) == text
    return set(found)


def _members(number: int, blob: bytes) -> set[int]:
    if len(blob) == BITMAP:
        lows = [place for place in range(CONTAINER) if blob[place // 8] >> (7 - place % 8) & 1]
    else:
        assert len(blob) < BITMAP
        lows = [int.from_bytes(blob[at : at + 2], "big") for at in range(0, len(blob), 2)]
    assert len(lows) == len(set(lows))
    return {number * CONTAINER + low for low in lows}


def _active(devices: dict[int, Device]) -> int:
    return sum(device.state == "active" for device in devices.values())


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
