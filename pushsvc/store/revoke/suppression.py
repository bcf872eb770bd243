"""Tokens known to be dead: looked up for all targets of a read in one round trip, added and removed by feedback.

A token belongs to one environment of its provider, so each route has a list of its own. Evidence that a token is good,
from a registration or an operator, and operations on the token itself, such as an erasure, apply to all lists.

The place of a token is the app shard of its digest, not that of the push through which it was reported: a push of any
shard finds it with one question. The list stores digests under the store's own key, so that it reveals no token.

A token of a user who is being erased is marked in the same list, with a score above every time: during the erasure
nothing is sent to it, and afterwards nothing that was accepted before its end (for `OPEN_MOST`), wherever it waited. So
the mark adds no cost to a read, and what is accepted later is a push like any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ...model.devices import Device
from ...model.push import Chunk, Platform
from .. import keys
from ..config import OPEN_MOST
from ..hashing import token_digest
from ..part import StoreContext, StorePart
from .revocations import Revocations

RENEWABLE_TTL: Final = 86_400
"""The maximum number of seconds for which a token is suppressed that can become valid again."""
ERASED_AT: Final = 1 << 50
"""Added to the instant at which the erasure of a token ended; the score of a dead token is the instant alone."""
ERASING_AT: Final = 1 << 51
"""Added to the start time of an erasure that is in progress."""


class Listed(NamedTuple):
    """The entries of a list for the tokens of some chunks."""

    dead: frozenset[str]
    erased: Mapping[str, float]
    """By token, the time in Unix ms before which accepted pushes are not sent; infinite during the erasure."""

    def covers(self, token: str, at: int) -> bool:
        """Return whether a push that was accepted at `at` is covered by the erasure of the token's user."""
        return bool(self.erased) and at < self.erased.get(token, 0)


NONE_LISTED: Final = Listed(frozenset(), {})
ERASED: Final = "erased"
"""The reason in the row of what an erasure has cancelled."""


def accepted_at(chunk: Chunk) -> int:
    """Return when the chunk's push was accepted, in Unix ms, from the time in its id; see RFC 9562, 5.7."""
    text = chunk.push_id
    if len(text) != 36 or text[14] != "7":
        return chunk.starts_at
    return int(text[:8] + text[9:13], 16)


def outlived(key: str, now: int) -> tuple[Any, ...]:
    """Return the command that removes outdated marks of erasures from a list."""
    return "ZREMRANGEBYSCORE", key, ERASED_AT, f"({ERASED_AT + max(0, now - OPEN_MOST)}"


class Suppression(StorePart):
    def __init__(self, context: StoreContext, revocations: Revocations) -> None:
        super().__init__(context)
        self._addresses = context.config.addresses
        self._revocations = revocations

    @property
    def oldest(self) -> int:
        """The instant before which a suppression has expired."""
        return self._clock() - self._config.suppression_ttl * 1000

    def counted_from(self, platform: Platform, token: str, at: int) -> int:
        """Return as of which time a token is suppressed that a provider reported at `at` as dead. A token that can
        become valid again is tried again after a while: an earlier time leaves the list earlier."""
        ttl = self._config.suppression_ttl
        return at - 1000 * max(0, ttl - RENEWABLE_TTL) if self._addresses.is_renewable(platform, token) else at

    def locate(self, app: str, token: str) -> tuple[int, bytes]:
        """Return the app shard of a token, and the digest it is known by."""
        digest = token_digest(self._hash_key, token)
        return keys.token_shard(digest, self._config.shards_of(app)), digest

    async def add(self, app: str, tokens: Sequence[tuple[Platform, str, int]], *, wait: bool = False) -> None:
        """Suppress each token on the list of its route, as of a time in Unix ms, and remove outdated entries.
        Dispatchers are notified; with `wait`, this waits for them."""
        found: dict[str, list[int | bytes]] = {}
        for platform, token, at in tokens:
            shard, digest = self.locate(app, token)
            since = self.counted_from(platform, token, at)
            found.setdefault(keys.suppressed(app, shard, platform), []).extend((since, digest))
        commands: list[tuple[Any, ...]] = []
        for key, pairs in found.items():
            commands += (("ZADD", key, *pairs), ("ZREMRANGEBYSCORE", key, "-inf", f"({self.oldest}"))
        await self._link.many(commands)
        await self.announce(app, [token for _, token, _ in tokens], wait=wait)

    async def announce(self, app: str, tokens: Sequence[str], *, wait: bool = False) -> None:
        """Notify the dispatchers of tokens that have been suppressed."""
        await self._revocations.announce_tokens(app, tokens, wait=wait)

    # --- erasure ----------------------------------------------------------------------------------

    async def erasing(self, app: str, tokens: Sequence[tuple[Platform, str]], *, wait: bool = False) -> bool:
        """Send nothing to these tokens until `erased` is called. Returns whether all dispatchers have applied it.
        Dispatchers are notified; with `wait`, this waits for them."""
        now = self._clock()
        found: dict[str, list[int | bytes]] = {}
        for key, digest in self._places(app, tokens):
            found.setdefault(key, []).extend((ERASING_AT + now, digest))
        await self._link.many([("ZADD", key, *pairs) for key, pairs in found.items()])
        return await self._revocations.announce_tokens(app, [token for _, token in tokens], wait=wait)

    async def erased(self, app: str, tokens: Sequence[tuple[Platform, str]]) -> None:
        """End the erasure: pushes that are accepted from the next millisecond on are sent. In this one, those that were
        accepted before cannot be distinguished from those that come after.

        A token that was registered meanwhile keeps the time of its registration. Outdated marks are removed from the
        lists.
        """
        places = list(self._places(app, tokens))
        scores = await self._link.many([("ZSCORE", key, digest) for key, digest in places])
        now = self._clock()
        commands: list[tuple[Any, ...]] = []
        for (key, digest), score in zip(places, scores, strict=True):
            if score is None or not ERASED_AT <= float(score) < ERASING_AT:
                commands.append(("ZADD", key, ERASED_AT + now + 1, digest))
        await self._link.many([*commands, *(outlived(key, now) for key in {key: None for key, _ in places})])

    async def marks(self, key: str, *, until: int) -> dict[bytes, int]:
        """Return the marks of erasures in progress that began until an instant, in Unix ms: digests with scores."""
        flat = await self._link.call("ZRANGEBYSCORE", key, ERASING_AT, ERASING_AT + until, "WITHSCORES")
        return {digest: int(float(score)) for digest, score in zip(flat[::2], flat[1::2], strict=True)}

    async def end_marks(self, key: str, marks: Mapping[bytes, int], now: int) -> None:
        """End the erasure of these marks, as `erased` does, where none has changed."""
        pairs = [part for digest, score in marks.items() for part in (digest, score)]
        await self._link.script("unmark", [key], [ERASED_AT + now + 1, *pairs])

    def _places(self, app: str, tokens: Iterable[tuple[Platform, str]]) -> Iterable[tuple[str, bytes]]:
        """Return the places of the tokens on the list of every route of their platforms."""
        for platform, token in tokens:
            shard, digest = self.locate(app, token)
            for route in self._addresses.routes_of(platform):
                yield keys.suppressed(app, shard, route), digest

    # --- what is on the list ----------------------------------------------------------------------

    async def known(self, app: str, tokens: Sequence[tuple[Platform, str]]) -> int:
        return len(await self._dead(app, tokens))

    async def remove(self, app: str, tokens: Sequence[tuple[Platform, str]]) -> int:
        dead = await self._dead(app, tokens)
        return sum(await self._link.many([("ZREM", key, digest) for key, digest in dead]))

    async def _dead(self, app: str, tokens: Iterable[tuple[Platform, str]]) -> list[tuple[str, bytes]]:
        """Return the places of those tokens that are dead, and not marked by an erasure."""
        places = list(self._places(app, tokens))
        scores = await self._link.many([("ZSCORE", key, digest) for key, digest in places])
        return [
            place for place, score in zip(places, scores, strict=True) if score is not None and float(score) < ERASED_AT
        ]

    @staticmethod
    def counting(app: str, shard: int, route: Platform) -> tuple[Any, ...]:
        """Return the command that counts the suppressed tokens of a route in a shard."""
        return "ZCOUNT", keys.suppressed(app, shard, route), "-inf", f"({ERASED_AT}"

    async def sizes(self, app: str, route: Platform) -> list[int]:
        """Return the length of a route's list in each shard, marks of erasures included."""
        shards = range(self._config.shards_of(app))
        return await self._link.many([("ZCARD", keys.suppressed(app, shard, route)) for shard in shards])

    async def among(self, app: str, route: Platform, chunks: Sequence[Chunk], sizes: Sequence[int]) -> Listed:
        """Return what is known of the tokens of these chunks. Asks only the shards whose list is not empty."""
        if not any(sizes):
            return NONE_LISTED
        questions: dict[int, tuple[list[str], list[bytes]]] = {}
        for chunk in chunks:
            for target in chunk.targets:
                shard, digest = self.locate(app, target.token)
                if sizes[shard]:
                    tokens, digests = questions.setdefault(shard, ([], []))
                    tokens.append(target.token)
                    digests.append(digest)
        answers = await self._link.many(
            [("ZMSCORE", keys.suppressed(app, shard, route), *digests) for shard, (_, digests) in questions.items()]
        )
        oldest = self.oldest
        found = {
            token: float(score)
            for (tokens, _), scores in zip(questions.values(), answers, strict=True)
            for token, score in zip(tokens, scores, strict=True)
            if score is not None and float(score) >= oldest
        }
        if not found:
            return NONE_LISTED
        return Listed(
            frozenset(token for token, score in found.items() if score < ERASED_AT),
            {
                token: score - ERASED_AT if score < ERASING_AT else math.inf
                for token, score in found.items()
                if score >= ERASED_AT
            },
        )

    async def lift(self, app: str, devices: Iterable[Device], *, always: bool = False) -> None:
        """Remove these devices' tokens from the lists if they were suppressed before their registration, or with
        `always`.

        An erasure in progress then covers only pushes that were accepted before they were registered again.
        """
        asked: dict[str, tuple[list[bytes], list[int]]] = {}
        for device in devices:
            shard, digest = self.locate(app, device.token)
            for route in self._addresses.routes_of(device.platform):
                digests, since = asked.setdefault(keys.suppressed(app, shard, route), ([], []))
                digests.append(digest)
                since.append(device.registered_at)
        answers = await self._link.many([("ZMSCORE", key, *digests) for key, (digests, _) in asked.items()])
        commands: list[tuple[Any, ...]] = []
        for (key, (digests, since)), scores in zip(asked.items(), answers, strict=True):
            listed = [
                (digest, registered_at, float(score))
                for digest, registered_at, score in zip(digests, since, scores, strict=True)
                if score is not None
            ]
            for digest, registered_at, score in listed:
                if score >= ERASING_AT and score - ERASING_AT <= registered_at:
                    commands.append(("ZADD", key, ERASED_AT + registered_at, digest))
            lifted = [
                digest
                for digest, registered_at, score in listed
                if score < ERASED_AT and (always or score <= registered_at)
            ]
            if lifted:
                commands.append(("ZREM", key, *lifted))
        await self._link.many(commands)
