"""Supersession: a later push with the same `collapse` replaces an earlier one, wherever the earlier one waits.

The provider sees them in the order of their arrival: A is refused for the moment, or waits in a slower lane, B is
accepted, and A, sent after that, would replace B on the phone. So A ends here without another request once B was
accepted, or acknowledged by the device, as a push service treats messages that it has not delivered yet ("replaces the
stored message", RFC 8030 section 5.4): `suppressed`, with the reason `superseded`.

The later one is determined by the time from which on each was to be sent (its acceptance or its `send_at`), then by
its id; a replay of a dead letter keeps its place. The key is app, target and `collapse`, as a keyed digest, in the app
shard of that digest. A target from the registry has a second one by its device, whose token may change while it waits.

    a delivery waits (a dispatcher has taken      `w:<digest>` says so, until it ends
    it, it is retried, it is a dead letter)
    one is accepted                               is recorded there if something waits, and notifies the dispatchers of
                                                  the token if one has an older: they return what they hold for it
    one is taken                                  ends if something newer was accepted

What no dispatcher has taken yet waits in a lane without a record of it. So what was accepted is remembered in any case
(`latest`), and found when A is taken, even after hours: the last 50,000 digests of an app shard for half a day at
least, and all for 45 seconds. What is in flight at two dispatchers at once is in the hands of the provider. All is
recorded before the settlement that it belongs to, so that a crash in between repeats it. Messages without `collapse`
take no part in this: they cost no command and no look-up.

A broadcast that is taken for the first time waits in one place, that of its `collapse`, however many targets it has.
Nearly always no newer one of this `collapse` was accepted, and then its targets are not looked up. Whatever is accepted
while it waits there notifies the dispatchers: they return what they have for that token, and find out why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, TypeAlias

import msgspec

from ...model.address import Addresses
from ...model.codec import is_large
from ...model.delivery import Arrival, Ended, Settlement, Unconfirmed
from ...model.push import Chunk, Platform, Target
from ...model.routing import platform_of
from ...ports.entries import EntryRef
from ...ports.registry import Holding, Registry
from .. import keys
from ..link.together import all_of
from ..part import StoreContext, StorePart
from .revocations import Revocations

STEP: Final = 500
"""Digests that one step looks up, which blocks the server for about a millisecond."""
GRACE: Final = 3_600_000
"""Milliseconds for which a wait is remembered after the delivery has expired."""

Place: TypeAlias = tuple[Platform, str, str, str]
"""Platform, kind of the token, the token in the form that equal ones share, and `collapse`; or in place of kind and
token `DEVICE` and the id of the device."""

DEVICE: Final = "device"

_pack = msgspec.msgpack.Encoder().encode


class _Noted:
    """What is reported to one app shard: see supersede.lua."""

    def __init__(self) -> None:
        self.accepted: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
        """By `collapse` and order the digests of what was accepted, and their tokens."""
        self.waiting: list[str | int] = []
        self.over: list[str] = []

    def accept(self, collapse: str, order: str, digest: str, token: str) -> None:
        digests, tokens = self.accepted.setdefault((collapse, order), ([], []))
        digests.append(digest)
        tokens.append(token)


class Supersession(StorePart):
    """The records and look-ups of one process."""

    def __init__(self, context: StoreContext, revocations: Revocations, registry: Registry) -> None:
        super().__init__(context)
        self._registry = registry
        self._revocations = revocations
        self.apps: set[str] = set()
        """Apps of which this process has met a message with `collapse`: others need no look-up."""
        self.held: dict[EntryRef, tuple[str, str]] = {}
        """Digest and order of each broadcast that this process has."""

    async def record(self, app: str, settlements: Iterable[Settlement], finished: Sequence[EntryRef]) -> None:
        """Note what was accepted of these, what waits and what has ended. Call it before they are settled and these
        entries finished; twice changes nothing."""
        noted: defaultdict[int, _Noted] = defaultdict(_Noted)
        now = self._clock()
        for settlement in settlements:
            chunk, verdict, target = settlement.delivery.chunk, settlement.verdict, settlement.delivery.target
            collapse = chunk.message.collapse
            if not collapse or chunk.dry_run:
                continue
            order, accepted = order_of(chunk), was_accepted(settlement)
            until = chunk.expires_at
            if type(verdict) is Ended:
                until = now + self._config.dead_ttl * 1000 if verdict.dead_letter else 0
            for shard, digest in self._located(app, places_of(chunk, target, self._config.addresses)):
                own = noted[shard]
                if accepted:
                    own.accept(collapse, order, digest, target.token)
                if until:
                    own.waiting += (digest, order, max(0, until - now) + GRACE)
                elif not accepted:
                    own.over += (digest, order)
        for held in (self.held[ref] for ref in finished if ref in self.held):
            for shard in range(self._config.shards_of(app)):
                noted[shard].over += held
        await self._note(app, noted)
        self.forget(finished)

    def forget(self, refs: Iterable[EntryRef]) -> None:
        """Note that this process does not have these entries any more. Who takes them over removes what is left."""
        for ref in refs:
            self.held.pop(ref, None)

    async def arrived(self, app: str, arrivals: Iterable[Arrival]) -> None:
        """Note what devices have acknowledged, which stands for accepted. Call it before that is recorded."""
        named = [arrival for arrival in arrivals if arrival.collapse and arrival.device_id is not None]
        if not named:
            return
        wanted = [Holding(arrival.device_id, platform_of(arrival.platform), "") for arrival in named]
        noted: defaultdict[int, _Noted] = defaultdict(_Noted)
        for arrival, device in zip(named, await self._registry.holders(app, wanted), strict=True):
            if device is not None:
                target = device.platform, device.kind, device.token, device.id
                places = places_at(*target, arrival.collapse, self._config.addresses)
                order = order_at(arrival.since, arrival.push_id)
                for shard, digest in self._located(app, places):
                    noted[shard].accept(arrival.collapse, order, digest, device.token)
        await self._note(app, noted)

    async def _note(self, app: str, noted: Mapping[int, _Noted]) -> None:
        behind: set[str] = set()
        for shard, own in noted.items():
            found, _ = await self._supersede(app, shard, own, [self._config.consumer])
            tokens = [token for _, some in own.accepted.values() for token in some] if found else []
            behind.update(tokens[int(place)] for place in found)
        if behind:
            await self._revocations.announce_tokens(app, behind)

    async def among(
        self, app: str, taken: Iterable[tuple[EntryRef, Chunk]], departed: Sequence[str] = ()
    ) -> dict[int, frozenset[int]]:
        """Note that these chunks were taken, perhaps from one of these dispatchers, and return which of their targets
        have been sent something newer: indexes, by the identity of the chunk."""
        taken = [each for each in taken if each[1].message.collapse and not each[1].dry_run]
        if not taken:
            return {}
        self.apps.add(app)
        broadcasts = [each for each in taken if is_broadcast(each[1])]
        asked: defaultdict[int, list[tuple[Chunk, Target, str]]] = defaultdict(list)
        replaced = await self._replaced(app, broadcasts, departed)
        for chunk in [chunk for _, chunk in taken if not is_broadcast(chunk)] + replaced:
            for target in chunk.targets:
                for shard, digest in self._located(app, places_of(chunk, target, self._config.addresses)):
                    asked[shard].append((chunk, target, digest))
        found: defaultdict[int, set[int]] = defaultdict(set)
        steps = [(each, own[start : start + STEP]) for each, own in asked.items() for start in range(0, len(own), STEP)]
        for shard, some in steps:
            held = [(chunk, digest, order_of(chunk)) for chunk, _, digest in some]
            answer = await self._hold(app, shard, held, departed)
            for (chunk, target, _), newest in zip(some, answer, strict=True):
                if newest > order_of(chunk):
                    found[id(chunk)].add(target.index)
        return {place: frozenset(indexes) for place, indexes in found.items()}

    async def _replaced(
        self, app: str, broadcasts: Sequence[tuple[EntryRef, Chunk]], departed: Sequence[str]
    ) -> list[Chunk]:
        """Note that these were taken, and return those of which a newer one may have been accepted for some target."""
        if not broadcasts:
            return []
        for ref, chunk in broadcasts:
            self.held[ref] = self._digest(chunk.message.collapse).hexdigest(), held_as(chunk, ref)
        held = [(chunk, *self.held[ref]) for ref, chunk in broadcasts]
        answers = await all_of(self._hold(app, shard, held, departed) for shard in range(self._config.shards_of(app)))
        newest = [max(some) for some in zip(*answers, strict=True)]
        return [chunk for (_, chunk), order in zip(broadcasts, newest, strict=True) if order > order_of(chunk)]

    async def _hold(
        self, app: str, shard: int, held: Iterable[tuple[Chunk, str, str]], departed: Sequence[str]
    ) -> list[str]:
        """Note under these digests and orders that chunks were taken, and return the newest orders that were accepted
        there."""
        own, now = _Noted(), self._clock()
        for chunk, digest, order in held:
            own.waiting += (digest, order, max(0, chunk.expires_at - now) + GRACE)
        _, answer = await self._supersede(app, shard, own, departed, holder=self._config.consumer)
        return [newest.decode() for newest in answer]

    async def _supersede(
        self, app: str, shard: int, own: _Noted, leaving: Sequence[str], holder: str = ""
    ) -> tuple[list[int], list[bytes]]:
        """Run supersede.lua. Return the places of the accepted tokens for which a dispatcher holds something older, and
        for each that waits the newest accepted order."""
        accepted = [
            (self._digest(collapse).hexdigest(), order, digests)
            for (collapse, order), (digests, _) in own.accepted.items()
        ]
        lists = _pack((accepted, own.waiting, own.over, leaving))
        names = [keys.latest(app, shard), keys.latest_before(app, shard)]
        arguments = [keys.prefix(app, shard), self._clock(), lists, holder]
        found, newest = await self._link.script("supersede", names, arguments)
        return found, newest

    def _located(self, app: str, places: Iterable[Place]) -> list[tuple[int, str]]:
        """Return the app shard of each place, and the digest that it is known by."""
        return [self._locate(app, place) for place in places]

    def _locate(self, app: str, place: Place) -> tuple[int, str]:
        digest = self._digest(*place)
        return keys.token_shard(digest.digest(), self._config.shards_of(app)), digest.hexdigest()

    def _digest(self, *parts: str) -> blake2b:
        return blake2b("\0".join(parts).encode(), digest_size=10, key=self._hash_key)


def is_broadcast(chunk: Chunk) -> bool:
    """Return whether this chunk waits in the place of its `collapse` while a dispatcher has it. What is retried of it
    waits in those of its targets."""
    return is_large(chunk.total) and chunk.turn == 1


def held_as(chunk: Chunk, ref: EntryRef) -> str:
    """Return the order of an entry there: one that ends leaves the others of its push."""
    return f"{order_of(chunk)} {chunk.channel} {ref.entry_id}"


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
