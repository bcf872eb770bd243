"""Tokens known to be dead: looked up for all targets of a read in one round trip, added and lifted by feedback.

A token belongs to one environment of its provider, so each route has a list of its own. Whatever says that a token is
good, a registration or an operator, and whatever concerns the token itself, as an erasure does, is of all of them.

A token's place is the app shard of its digest, not that of the push through which we learnt of it: a push of any
shard finds it with one question. Kept as digests under the store's own key, so that the list tells nobody a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from ..devices import Device
from ..identity import names_installation
from ..model import Chunk, Platform
from ..routing import routes_of
from . import keys
from .clock import Clock
from .config import StoreConfig
from .hashing import token_digest
from .link import Link
from .revocations import Revocations

INSTALLATION_TTL: Final = 86_400
"""Seconds for which the id of a Firebase installation is suppressed, at most."""


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

    async def everywhere(
        self, app: str, tokens: Iterable[tuple[Platform, str]], at: int, *, wait: bool = False
    ) -> None:
        """Suppress each token on the list of every route of its platform, as of an instant in Unix ms."""
        marks = [(route, token, at) for platform, token in tokens for route in routes_of(platform)]
        await self.add(app, marks, wait=wait)

    async def known(self, app: str, tokens: Sequence[tuple[Platform, str]]) -> int:
        """On how many lists these tokens are."""
        asked = [(route, *self.locate(app, token)) for platform, token in tokens for route in routes_of(platform)]
        scores = await self._link.many(
            [("ZSCORE", keys.suppressed(app, shard, route), digest) for route, shard, digest in asked]
        )
        return sum(score is not None for score in scores)

    async def remove(self, app: str, tokens: Sequence[tuple[Platform, str]]) -> int:
        """As if these tokens had never been suppressed; on how many lists they were."""
        found: dict[str, list[bytes]] = {}
        for platform, token in tokens:
            shard, digest = self.locate(app, token)
            for route in routes_of(platform):
                found.setdefault(keys.suppressed(app, shard, route), []).append(digest)
        return sum(await self._link.many([("ZREM", key, *digests) for key, digests in found.items()]))

    async def sizes(self, app: str, route: Platform) -> list[int]:
        """How long the list of a route is in each shard."""
        shards = range(self._config.shards_of(app))
        return await self._link.many([("ZCARD", keys.suppressed(app, shard, route)) for shard in shards])

    async def among(self, app: str, route: Platform, chunks: Sequence[Chunk], sizes: Sequence[int]) -> set[str]:
        """Which tokens of these chunks are suppressed. Asks only the shards whose list is not empty."""
        if not any(sizes):
            return set()
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
        return {
            token
            for (tokens, _), scores in zip(questions.values(), answers, strict=True)
            for token, score in zip(tokens, scores, strict=True)
            if score is not None and float(score) >= oldest
        }

    async def lift(self, app: str, devices: Iterable[Device], *, always: bool = False) -> None:
        """Take these devices' tokens off the list, where they were put there before they were registered, or always."""
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
            lifted = [
                digest
                for digest, registered_at, score in zip(digests, since, scores, strict=True)
                if score is not None and (always or float(score) <= registered_at)
            ]
            if lifted:
                commands.append(("ZREM", key, *lifted))
        await self._link.many(commands)
