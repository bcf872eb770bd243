"""Supersession: a later push with the same `collapse` replaces an earlier one, even if the earlier one is retried.

The provider sees them in the order of their arrival: A is refused for the moment, B is accepted, and A, retried after
its wait, would replace B on the phone. So A ends here without another request once B was accepted, or acknowledged by
the device, as a push service treats messages that it has not delivered yet ("replaces the stored message", RFC 8030
section 5.4): `suppressed`, with the reason `superseded`.

The later one is determined by the time from which on each was to be sent (its acceptance or its `send_at`), then by
its id; a replay of a dead letter keeps its place. The key is app, target and `collapse`, as a keyed digest, in the app
shard of that digest. A target from the registry has a second one by its device, whose token may change while it waits.

    a delivery waits (a retry, a dead letter)    `c:<digest>` says so, until it cannot be sent any more
    one is accepted                              is recorded there if something waits, and notifies the dispatchers of
                                                 the token if that is older: they return what they hold for it
    one is taken again                           ends if something newer was accepted

A is in flight, perhaps until its time-out, before it is known to wait, and B may be accepted meanwhile. So what was
accepted is remembered for about a minute in any case (`latest`), and found when A begins to wait or is taken over from
a process that died. All is recorded before the settlement that it belongs to, so that a crash in between repeats it.
Messages without `collapse` take no part in this: they cost no command and no look-up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, TypeAlias

import msgspec

from ...model.address import Addresses
from ...model.delivery import Arrival, Ended, Settlement, Unconfirmed
from ...model.push import Chunk, Platform, Target
from ...model.routing import platform_of
from ...ports.registry import Holding, Registry
from .. import keys
from ..config import StoreConfig
from ..link.clock import Clock
from ..link.link import Link
from .revocations import Revocations

SUPERSEDED: Final = "superseded"
"""The reason of what ends because a newer one was accepted."""

SLOT: Final = 30_000
"""Milliseconds of one `latest`."""
SLOTS: Final = 3
"""The number of slots that count: from 60 to 90 seconds, longer than a request and a take-over."""
GRACE: Final = 3_600_000
"""Milliseconds for which a wait is remembered after the delivery has expired."""

Place: TypeAlias = tuple[Platform, str, str, str]
"""Platform, kind of the token, the token in the form that equal ones share, and `collapse`; or in place of kind and
token `DEVICE` and the id of the device."""

DEVICE: Final = "device"

_pack = msgspec.msgpack.Encoder().encode


class Supersession:
    """The records and look-ups of one process."""

    def __init__(
        self,
        link: Link,
        config: StoreConfig,
        hash_key: bytes,
        revocations: Revocations,
        registry: Registry,
        clock: Clock,
    ) -> None:
        self._link = link
        self._registry = registry
        self._config = config
        self._hash_key = hash_key
        self._revocations = revocations
        self._clock = clock
        self.apps: set[str] = set()
        """Apps of which this process has met a message with `collapse`: others need no look-up."""

    async def record(self, app: str, settlements: Iterable[Settlement]) -> None:
        """Note what was accepted of these and what waits. Call it before they are settled; twice changes nothing."""
        accepted: dict[int, list[tuple[str, str, str]]] = {}
        waiting: dict[int, list[str | int]] = {}
        now = self._clock()
        for settlement in settlements:
            chunk = settlement.delivery.chunk
            if not chunk.message.collapse or chunk.dry_run:
                continue
            verdict, target = settlement.verdict, settlement.delivery.target
            places = places_of(chunk, target, self._config.addresses)
            if was_accepted(settlement):
                for shard, digest in self._located(app, places):
                    accepted.setdefault(shard, []).append((digest, order_of(chunk), target.token))
            if type(verdict) is not Ended:
                until = chunk.expires_at
            elif verdict.dead_letter:
                until = now + self._config.dead_ttl * 1000
            else:
                continue
            for shard, digest in self._located(app, places):
                waiting.setdefault(shard, []).extend((digest, order_of(chunk), max(0, until - now) + GRACE))
        await self._note(app, accepted, waiting)

    async def arrived(self, app: str, arrivals: Iterable[Arrival]) -> None:
        """Note what devices have acknowledged, which stands for accepted. Call it before that is recorded."""
        named = [arrival for arrival in arrivals if arrival.collapse and arrival.device_id is not None]
        if not named:
            return
        wanted = [Holding(arrival.device_id, platform_of(arrival.platform), "") for arrival in named]
        accepted: dict[int, list[tuple[str, str, str]]] = {}
        for arrival, device in zip(named, await self._registry.holders(app, wanted), strict=True):
            if device is not None:
                target = device.platform, device.kind, device.token, device.id
                places = places_at(*target, arrival.collapse, self._config.addresses)
                order = order_at(arrival.since, arrival.push_id)
                for shard, digest in self._located(app, places):
                    accepted.setdefault(shard, []).append((digest, order, device.token))
        await self._note(app, accepted, {})

    async def _note(
        self,
        app: str,
        accepted: Mapping[int, list[tuple[str, str, str]]],
        waiting: Mapping[int, list[str | int]],
    ) -> None:
        behind: set[str] = set()
        for shard in accepted.keys() | waiting.keys():
            own = accepted.get(shard, [])
            found = await self._script(
                "supersede",
                app,
                shard,
                SLOTS * SLOT,
                _pack(([part for digest, order, _ in own for part in (digest, order)], waiting.get(shard, ()))),
            )
            behind.update(own[int(place)][2] for place in found)
        if behind:
            await self._revocations.tell_tokens(app, behind)

    async def among(self, app: str, chunks: Sequence[Chunk], *, again: bool) -> dict[int, frozenset[int]]:
        """Return which targets of these chunks have been sent something newer: indexes, by the identity of the chunk.

        Examines only what was tried before: later turns, or with `again` what another process has held.
        """
        asked: dict[int, list[tuple[Chunk, Target, str]]] = {}
        for chunk in chunks:
            if chunk.message.collapse:
                self.apps.add(app)
                if again or chunk.turn > 1:
                    for target in chunk.targets:
                        for shard, digest in self._located(app, places_of(chunk, target, self._config.addresses)):
                            asked.setdefault(shard, []).append((chunk, target, digest))
        found: dict[int, set[int]] = {}
        for shard, own in asked.items():
            answer = await self._script("superseding", app, shard, *(digest for _, _, digest in own))
            for (chunk, target, _), newest in zip(own, answer, strict=True):
                if newest.decode() > order_of(chunk):
                    found.setdefault(id(chunk), set()).add(target.index)
        return {place: frozenset(indexes) for place, indexes in found.items()}

    async def _script(self, name: str, app: str, shard: int, *args: Any) -> list[Any]:
        slot = self._clock() // SLOT
        answer: list[Any] = await self._link.script(
            name, [keys.latest(app, shard, slot)], [keys.prefix(app, shard), slot, SLOTS, *args]
        )
        return answer

    def _located(self, app: str, places: Iterable[Place]) -> list[tuple[int, str]]:
        """Return the app shard of each place, and the digest that it is known by."""
        return [self._locate(app, place) for place in places]

    def _locate(self, app: str, place: Place) -> tuple[int, str]:
        digest = blake2b("\0".join(place).encode(), digest_size=10, key=self._hash_key)
        return keys.token_shard(digest.digest(), self._config.shards_of(app)), digest.hexdigest()


def was_accepted(settlement: Settlement) -> bool:
    """Return whether this message replaces earlier ones: a provider accepted it, or it was written to the device."""
    outcome, verdict = settlement.outcome, settlement.verdict
    if isinstance(verdict, Ended):
        return verdict.end == "sent"
    return isinstance(outcome, Unconfirmed) and outcome.within > 0


def places_of(chunk: Chunk, target: Target, addresses: Addresses) -> list[Place]:
    """Return the places of which two messages must have one in common for one to replace the other."""
    collapse = chunk.message.collapse
    return places_at(chunk.platform, target.kind, target.token, target.device_id, collapse, addresses)


def places_at(
    route: Platform, kind: str, token: str, device_id: str | None, collapse: str, addresses: Addresses
) -> list[Place]:
    """Return the same from its parts."""
    platform = platform_of(route)
    found = [(platform, kind, addresses.same_of(platform)(token), collapse)]
    return found if device_id is None else [*found, (platform, DEVICE, device_id, collapse)]


def order_of(chunk: Chunk) -> str:
    """Return a key that orders pushes by the time at which they were to be sent."""
    return order_at(chunk.message.since, chunk.push_id)


def order_at(since: int, push_id: str) -> str:
    """Return the same from its parts."""
    return f"{since:014d}{push_id}"
