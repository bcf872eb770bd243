"""Targets from the registry follow its changes until they are sent.

An audience is determined once and sent later: from a lane, after a retry, on a route that is held, as a replayed dead
letter. Meanwhile the phone may belong to another user. So each change of a device that matters to waiting targets (its
owner, its token, its environment, its existence, a topic that it left) leaves a mark of the token that the waiting
target has, beside the suppressions in the app's shards, and a dispatcher that takes an entry asks for marks. Only
targets with a mark are looked up in the registry, and judged by its current content (`audience.present`). `take.lua`
returns the time of the newest mark: if that was before the start of the push, nothing is asked at all.

A phone whose user has registered it under a new id, with the same token, still gets what waits for the old one: a mark
of its own names the new device as the successor (`audience.is_successor`). One that existed before is none: it may be
a target of the same push by its former token, and its phone would get that twice.

The mark is made before the registry changes. A process that dies in between leaves a needless look-up; the other way
round it would leave a text on a stranger's phone. Dispatchers are notified of what they hold by the change itself.

A mark also counts for pushes that started after it, for as long as the clocks of two machines may differ and a change
may take (`SLACK`). Marks live as long as deliveries (`OPEN_MOST`). A full list loses its oldest mark, and then
everything that started before the oldest remaining one is looked up. A replay is as old as its push, so it looks
devices up itself, and makes marks of what has changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from ...model.devices import NOBODY, Device, Environment
from ...model.push import Chunk, Platform, Target
from ...model.routing import platform_of, usual_environment
from ...ports.registry import Holding, Registry
from ...rules.audience import is_successor, present
from .. import keys
from ..config import OPEN_MOST
from ..part import StoreContext, StorePart
from .revocations import Revocations
from .suppression import Suppression

SLACK = 600_000
"""Milliseconds by which a mark may be older than a push that it applies to."""
MOST = 250_000
"""Marks of one platform in one shard."""
PAGE = 500
"""Devices looked up in one step."""


class Marks(StorePart):
    """Marks of tokens whose devices may have changed."""

    def __init__(self, context: StoreContext, suppression: Suppression, revocations: Revocations) -> None:
        super().__init__(context)
        self._suppression = suppression
        self._revocations = revocations

    async def make(
        self, app: str, tokens: Iterable[tuple[Platform, str]], successors: Iterable[tuple[Platform, str, str]] = ()
    ) -> None:
        """Mark tokens whose devices are about to change, and tokens with the id of the coming successor."""
        now = self._clock()
        found: dict[str, list[int | bytes]] = defaultdict(list)
        for platform, token in tokens:
            shard, digest = self._suppression.locate(app, token)
            found[keys.moved(app, shard, platform)] += (now, digest)
        for platform, token, device_id in successors:
            shard, digest = self._locate_successor(app, token, device_id)
            found[keys.moved(app, shard, platform)] += (now, digest)
        commands: list[tuple[Any, ...]] = []
        for key, pairs in found.items():
            commands += (
                ("ZADD", key, *pairs),
                ("ZREMRANGEBYSCORE", key, "-inf", f"({now - OPEN_MOST}"),
                ("ZREMRANGEBYRANK", key, 0, -MOST - 1),
            )
        await self._link.many(commands)

    def _locate_successor(self, app: str, token: str, device_id: str) -> tuple[int, bytes]:
        """Return the shard of a token, and the member that names this device as its successor."""
        return self._suppression.locate(app, token)[0], self._suppression.locate(app, token + NOBODY + device_id)[1]

    async def named(self, app: str, platform: Platform, successors: Sequence[tuple[str, str, int]]) -> list[bool]:
        """Return for each token and id whether the device was named as successor at the instant or later."""
        places = [self._locate_successor(app, token, device_id) for token, device_id, _ in successors]
        scores = await self._link.many(
            [("ZSCORE", keys.moved(app, shard, platform), digest) for shard, digest in places]
        )
        return [
            score is not None and float(score) >= since for (_, _, since), score in zip(successors, scores, strict=True)
        ]

    async def applied(self, app: str, place: str) -> None:
        """Wait until dispatchers have returned what they hold for the devices of a change, given the place of its
        revocation, or for `PATIENCE`."""
        await self._revocations.applied(app, keys.REGISTRY, place)

    async def newest(self, app: str, platform: Platform) -> list[float]:
        """Return the time of the last mark of each shard, in Unix ms; 0 if there is none."""
        shards = range(self._config.shards_of(app))
        answers = await self._link.many([newest_command(app, shard, platform) for shard in shards])
        return [newest_of(answer) for answer in answers]

    async def among(self, app: str, platform: Platform, chunks: Sequence[Chunk], newest: Sequence[float]) -> set[str]:
        """Return which tokens of these chunks' devices have changed since their pushes began, or may have."""
        asked: dict[int, tuple[list[tuple[str, int]], list[bytes]]] = {}
        for chunk in chunks:
            since = chunk.starts_at - SLACK
            if not any(at >= since for at in newest):
                continue
            for target in chunk.targets:
                if target.device_id is not None:
                    shard, digest = self._suppression.locate(app, target.token)
                    if newest[shard] >= since:
                        tokens, digests = asked.setdefault(shard, ([], []))
                        tokens.append((target.token, since))
                        digests.append(digest)
        if not asked:
            return set()
        commands: list[tuple[Any, ...]] = []
        for shard, (_, digests) in asked.items():
            key = keys.moved(app, shard, platform)
            commands += (("ZMSCORE", key, *digests), ("ZRANGE", key, 0, 0, "WITHSCORES"), ("ZCARD", key))
        answers = await self._link.many(commands)
        changed: set[str] = set()
        for at, (tokens, _) in enumerate(asked.values()):
            scores, oldest, size = answers[3 * at : 3 * at + 3]
            floor = newest_of(oldest) if size >= MOST else 0.0
            changed |= {
                token
                for (token, since), score in zip(tokens, scores, strict=True)
                if since < floor or (score is not None and float(score) >= since)
            }
        return changed


def newest_command(app: str, shard: int, platform: Platform) -> tuple[Any, ...]:
    """Return the command for the newest mark, as in `take.lua`."""
    return ("ZREVRANGE", keys.moved(app, shard, platform), 0, 0, "WITHSCORES")


def newest_of(answer: Sequence[Any]) -> float:
    """Return the time of the mark that such a command has found."""
    return float(answer[1]) if answer else 0.0


class Present(NamedTuple):
    """A chunk with its targets as the registry has them now."""

    chunk: Chunk
    gone: dict[int, str]
    """The reasons why nothing is sent to targets, by index."""
    renewed: frozenset[int]
    """Indexes of those that have another token by now."""
    environments: dict[int, Environment]
    """The environment of the devices that were looked up, by index."""


class DevicePresence:
    """Looks up the changes of devices since their targets were queued."""

    def __init__(self, marks: Marks, registry: Registry) -> None:
        self._marks = marks
        self._registry = registry

    async def newest(self, app: str, platform: Platform) -> list[float]:
        """See `Marks`."""
        return await self._marks.newest(app, platform)

    async def of(
        self, app: str, platform: Platform, chunks: Sequence[Chunk], newest: Sequence[float]
    ) -> dict[int, Present]:
        """Return what has changed, by the identity of a chunk, for chunks that may be affected."""
        if not any(newest):
            return {}
        changed = await self._marks.among(app, platform, chunks, newest)
        if not changed:
            return {}
        wanted = [
            (chunk, target)
            for chunk in chunks
            for target in chunk.targets
            if target.device_id is not None and target.token in changed
        ]
        devices = await self._look_up(app, platform, [target for _, target in wanted])
        successors = await self._successors(
            app, platform, [each for each in wanted if each[1].device_id not in devices]
        )
        found: dict[int, tuple[Chunk, dict[int, Target | str], dict[int, Environment]]] = {}
        for chunk, target in wanted:
            device = devices.get(target.device_id or "") or successors.get((chunk.push_id, target.index))
            judged = present(target, device, chunk)
            _, changes, environments = found.setdefault(id(chunk), (chunk, {}, {}))
            if judged is not target:
                changes[target.index] = judged
            if device is not None:
                environments[target.index] = device.environment
        return {place: _present(*each) for place, each in found.items()}

    async def look_again(self, app: str, chunks: Collection[Chunk]) -> None:
        """Mark all changes that concern these chunks, however old they are."""
        for chunk in chunks:
            targets = [target for target in chunk.targets if target.device_id is not None]
            devices = await self._look_up(app, chunk.platform, targets)
            changed = [
                (chunk.platform, target.token)
                for target in targets
                if (device := devices.get(target.device_id or "")) is None
                or present(target, device, chunk) is not target
                or device.environment != usual_environment(chunk.platform)
            ]
            if changed:
                await self._marks.make(app, changed)

    async def _successors(
        self, app: str, platform: Platform, orphans: Sequence[tuple[Chunk, Target]]
    ) -> dict[tuple[str, int], Device]:
        """Return the devices that stand for targets whose own devices are gone, by push and index."""
        owned = [(chunk, target) for chunk, target in orphans if target.owner]
        found: list[tuple[Chunk, Target, Device]] = []
        for start in range(0, len(owned), PAGE):
            page = owned[start : start + PAGE]
            wanted = [Holding(None, platform_of(platform), target.token) for _, target in page]
            for (chunk, target), device in zip(page, await self._registry.holders(app, wanted), strict=True):
                if device is not None and is_successor(device, target, chunk):
                    found.append((chunk, target, device))
        asked = [(target.token, device.id, chunk.starts_at - SLACK) for chunk, target, device in found]
        named = await self._marks.named(app, platform, asked) if asked else []
        return {
            (chunk.push_id, target.index): device
            for (chunk, target, device), is_named in zip(found, named, strict=True)
            if is_named
        }

    async def _look_up(self, app: str, platform: Platform, targets: Sequence[Target]) -> dict[str, Device]:
        wanted = [Holding(target.device_id, platform_of(platform), target.token) for target in targets]
        found: dict[str, Device] = {}
        for start in range(0, len(wanted), PAGE):
            page = await self._registry.holders(app, wanted[start : start + PAGE])
            found.update((device.id, device) for device in page if device is not None)
        return found


def _present(chunk: Chunk, judged: dict[int, Target | str], environments: dict[int, Environment]) -> Present:
    renewed = {index: target for index, target in judged.items() if isinstance(target, Target)}
    gone = {index: why for index, why in judged.items() if isinstance(why, str)}
    if renewed:
        targets = tuple(renewed.get(target.index, target) for target in chunk.targets)
        chunk = msgspec.structs.replace(chunk, targets=targets)
    return Present(chunk, gone, frozenset(renewed), environments)
