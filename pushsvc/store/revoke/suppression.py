"""Tokens known to be dead: looked up for all targets of a read in one round trip, added and lifted by feedback.

A token belongs to one environment of its provider, so each route has a list of its own. Whatever says that a token is
good, a registration or an operator, and whatever concerns the token itself, as an erasure does, is of all of them.

A token's place is the app shard of its digest, not that of the push through which we learnt of it: a push of any
shard finds it with one question. Kept as digests under the store's own key, so that the list tells nobody a token.

A token of a user who is erased is marked in the same list, at a score above every instant: while the erasure goes on
nothing is sent to it, and afterwards nothing that was accepted before its end (`ERASED_FOR`), wherever that waited. So
the mark costs a read nothing that the list does not cost anyway, and what is accepted later is a push like any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ...model.devices import Device
from ...model.identity import names_installation
from ...model.push import Chunk, Platform
from ...model.routing import routes_of
from .. import keys
from ..config import StoreConfig
from ..hashing import token_digest
from ..link.clock import Clock
from ..link.link import Link
from .revocations import Revocations

INSTALLATION_TTL: Final = 86_400
"""Seconds for which the id of a Firebase installation is suppressed, at most."""
ERASED_FOR: Final = 29 * 86_400_000
"""Milliseconds for which what was accepted before an erasure ended is kept from being sent: the longest `ttl`, and a
day."""
ERASED_AT: Final = 1 << 50
"""Added to the instant at which the erasure of a token ended; the score of a dead token is the instant alone."""
ERASING_AT: Final = 1 << 51
"""Added to the instant at which one began that goes on."""


class Listed(NamedTuple):
    """What a list says of the tokens of some chunks."""

    dead: frozenset[str]
    erased: Mapping[str, float]
    """By token, the instant before which what was accepted is not sent, in Unix ms; infinite while the erasure goes
    on."""

    def covers(self, token: str, at: int) -> bool:
        """Whether what was accepted at that instant goes with the user whose token it was."""
        return bool(self.erased) and at < self.erased.get(token, 0)


NONE_LISTED: Final = Listed(frozenset(), {})
ERASED: Final = "erased"
"""The reason in the row of what an erasure has cancelled."""


def accepted_at(chunk: Chunk) -> int:
    """When its push was accepted, in Unix ms, which is the time in its id; see RFC 9562, 5.7."""
    text = chunk.push_id
    if len(text) != 36 or text[14] != "7":
        return chunk.starts_at
    return int(text[:8] + text[9:13], 16)


def outlived(key: str, now: int) -> tuple[Any, ...]:
    """The command by which marks of erasures that have had their time leave a list."""
    return "ZREMRANGEBYSCORE", key, ERASED_AT, f"({ERASED_AT + max(0, now - ERASED_FOR)}"


class Suppression:
    def __init__(
        self, link: Link, config: StoreConfig, hash_key: bytes, revocations: Revocations, clock: Clock
    ) -> None:
        self._link = link
        self._config = config
        self._hash_key = hash_key
        self._revocations = revocations
        self._clock = clock

    @property
    def oldest(self) -> int:
        """Suppressed before this instant counts no more."""
        return self._clock() - self._config.suppression_ttl * 1000

    def counted_from(self, platform: Platform, token: str, at: int) -> int:
        """As of which instant a token is suppressed of which a provider said at `at` that it is dead.

        The id of a Firebase installation names the app on its phone also after the app has registered anew, so it is
        tried again after a while: an earlier instant leaves the list earlier.
        """
        ttl = self._config.suppression_ttl
        return at - 1000 * max(0, ttl - INSTALLATION_TTL) if names_installation(platform, token) else at

    def shards_of(self, app: str) -> int:
        return self._config.shards_of(app)

    def locate(self, app: str, token: str) -> tuple[int, bytes]:
        """The app shard of a token, and the digest it is known by."""
        digest = token_digest(self._hash_key, token)
        return keys.token_shard(digest, self._config.shards_of(app)), digest

    async def add(self, app: str, tokens: Sequence[tuple[Platform, str, int]], *, wait: bool = False) -> None:
        """Suppress each token on the list of a route, as of an instant in Unix ms; what is too old to count leaves its
        list. Dispatchers are told, and waited for where that is asked."""
        found: dict[str, list[int | bytes]] = {}
        for platform, token, at in tokens:
            shard, digest = self.locate(app, token)
            since = self.counted_from(platform, token, at)
            found.setdefault(keys.suppressed(app, shard, platform), []).extend((since, digest))
        commands: list[tuple[Any, ...]] = []
        for key, pairs in found.items():
            commands += (("ZADD", key, *pairs), ("ZREMRANGEBYSCORE", key, "-inf", f"({self.oldest}"))
        await self._link.many(commands)
        await self.told(app, [token for _, token, _ in tokens], wait=wait)

    async def told(self, app: str, tokens: Sequence[str], *, wait: bool = False) -> None:
        """Tell the dispatchers of tokens that are suppressed by now."""
        await self._revocations.tell_tokens(app, tokens, wait=wait)

    # --- erasure ----------------------------------------------------------------------------------

    async def erasing(self, app: str, tokens: Sequence[tuple[Platform, str]], *, wait: bool = False) -> bool:
        """Send nothing to these tokens until `erased`. Dispatchers are told, and waited for where that is asked;
        whether all of them have applied it."""
        now = self._clock()
        found: dict[str, list[int | bytes]] = {}
        for key, digest in self._places(app, tokens):
            found.setdefault(key, []).extend((ERASING_AT + now, digest))
        await self._link.many([("ZADD", key, *pairs) for key, pairs in found.items()])
        return await self._revocations.tell_tokens(app, [token for _, token in tokens], wait=wait)

    async def erased(self, app: str, tokens: Sequence[tuple[Platform, str]]) -> None:
        """The erasure ends now: what is accepted from now on is sent. A token that was registered meanwhile keeps the
        instant at which it was. Marks that have had their time leave the lists."""
        places = list(self._places(app, tokens))
        scores = await self._link.many([("ZSCORE", key, digest) for key, digest in places])
        now = self._clock()
        commands: list[tuple[Any, ...]] = []
        for (key, digest), score in zip(places, scores, strict=True):
            if score is None or not ERASED_AT <= float(score) < ERASING_AT:
                commands.append(("ZADD", key, ERASED_AT + now, digest))
        await self._link.many([*commands, *(outlived(key, now) for key in {key: None for key, _ in places})])

    def _places(self, app: str, tokens: Iterable[tuple[Platform, str]]) -> Iterable[tuple[str, bytes]]:
        """Where they stand on the list of every route of their platforms."""
        for platform, token in tokens:
            shard, digest = self.locate(app, token)
            for route in routes_of(platform):
                yield keys.suppressed(app, shard, route), digest

    # --- what is on the list ----------------------------------------------------------------------

    async def known(self, app: str, tokens: Sequence[tuple[Platform, str]]) -> int:
        """On how many lists these tokens are suppressed."""
        return len(await self._dead(app, tokens))

    async def remove(self, app: str, tokens: Sequence[tuple[Platform, str]]) -> int:
        """As if these tokens had never been suppressed; on how many lists they were."""
        dead = await self._dead(app, tokens)
        return sum(await self._link.many([("ZREM", key, digest) for key, digest in dead]))

    async def _dead(self, app: str, tokens: Iterable[tuple[Platform, str]]) -> list[tuple[str, bytes]]:
        """Where those of them stand that are dead, and not marked by an erasure."""
        places = list(self._places(app, tokens))
        scores = await self._link.many([("ZSCORE", key, digest) for key, digest in places])
        return [
            place for place, score in zip(places, scores, strict=True) if score is not None and float(score) < ERASED_AT
        ]

    @staticmethod
    def counting(app: str, shard: int, route: Platform) -> tuple[Any, ...]:
        """The command that counts the suppressed tokens of a route in a shard."""
        return "ZCOUNT", keys.suppressed(app, shard, route), "-inf", f"({ERASED_AT}"

    async def sizes(self, app: str, route: Platform) -> list[int]:
        """How long the list of a route is in each shard, with what erasures have marked."""
        shards = range(self._config.shards_of(app))
        return await self._link.many([("ZCARD", keys.suppressed(app, shard, route)) for shard in shards])

    async def among(self, app: str, route: Platform, chunks: Sequence[Chunk], sizes: Sequence[int]) -> Listed:
        """What is known of the tokens of these chunks. Asks only the shards whose list is not empty."""
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
        """Take these devices' tokens off the list, where they were put there before they were registered, or always. An
        erasure that goes on covers only what was accepted before they were registered again."""
        asked: dict[str, tuple[list[bytes], list[int]]] = {}
        for device in devices:
            shard, digest = self.locate(app, device.token)
            for route in routes_of(device.platform):
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
