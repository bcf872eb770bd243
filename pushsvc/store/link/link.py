"""Round trips to Redis: one command, many commands, one script, or a wait; faults come out as `StoreError`.

Two clients stand behind it. Short commands share a small pool with a time limit, and are tried once more where their
connection broke: each may run twice without harm. Reads that block, and scripts that hand out entries of a stream, have
a connection each without a limit on the socket and are never repeated; the limit is put around the whole wait instead,
so that a server that has silently gone is noticed.

Behind sentinels, `follow` asks each second where the primary is. When it is another, every connection ends at once, so
that nobody writes to the old one or believes what it says, and who asked by `on_change` is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

from redis import exceptions as faults
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoScriptError

from ...errors import StoreError
from ...telemetry import get_logger
from ..keys import whole_beside
from . import scripts
from .connect import Client, close_redis, open_redis, sentinels_of, store_faults
from .sentinels import Address, drop_connections

Command = tuple[Any, ...]
ScriptCall: TypeAlias = tuple[str, Sequence[str], Sequence[Any]]
"""A script's name, its keys and its arguments."""


LOOK: Final = 1.0
"""Seconds between two questions to the sentinels."""

BEHIND: Final = 60.0
"""Seconds after a change in which an entry that is handed out for the first time may have been sent already: it was
read, launched or returned for a retry on the old primary, and the new one had not heard of that."""


def pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    """An answer of the form name, value, name, value, .. as a dictionary."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


class Link:
    """What every part of the store holds."""

    def __init__(self, url: str, *, name: str, timeout: float) -> None:
        """Raises ConfigError; connects on first use."""
        self._timeout = timeout
        self._client: Client = open_redis(url, name=name, timeout=timeout)
        self.sentinels = sentinels_of(self._client)
        """The sentinels that name the primary, where there are any."""
        if self.sentinels is not None:
            self.sentinels.on_switch(self._switch)
        self._waiting: Client = open_redis(
            url, name=f"{name}:reader", timeout=timeout, blocking=True, sentinels=self.sentinels
        )
        self.cluster = isinstance(self._client, RedisCluster)
        self._changed: list[Callable[[], None]] = []
        self.history = 0
        """Raised when another server becomes the primary: an older entry id may be that of another entry there."""
        self.behind_until = time.monotonic() + BEHIND if self.sentinels is not None else 0.0
        """Until when the primary may have entries to hand out whose deliveries have ended; by `time.monotonic`."""

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call this whenever another server has become the primary: what the old one said last may not hold."""
        self._changed.append(changed)

    async def follow(self) -> None:
        """Follow the primary until cancelled. Returns at once where there are no sentinels."""
        sentinels = self.sentinels
        while sentinels is not None:
            await asyncio.sleep(LOOK)
            with suppress(StoreError), store_faults():
                await sentinels.discover_master(sentinels.name)

    def _switch(self, address: Address) -> None:
        get_logger("store").warning("primary_changed", host=address[0], port=address[1])
        self.drop()

    def drop(self) -> None:
        """End every connection and tell whoever wants to know. Nothing is awaited: from here on nobody is answered by
        the server that was the primary, but for answers that are here already."""
        self.history += 1
        self.behind_until = time.monotonic() + BEHIND
        for client in (self._client, self._waiting):
            if not isinstance(client, RedisCluster):
                drop_connections(client)
        for changed in self._changed:
            changed()

    @property
    def promise_is(self) -> str:
        """What a promise rests on, for people."""
        return "memory: Redis has it"

    @property
    def waits(self) -> bool:
        """Whether `guarded` waits for others than the server itself."""
        return False

    async def guarded(self, mark: str, calls: Sequence[ScriptCall]) -> list[Any]:
        """Scripts that somebody is told of and relies on, in one round trip; `mark` is a key in their slot. With
        `queue.durability = "replicas"` their writes are on replicas when this returns; see replicas.py."""
        return await self.scripts(calls)

    async def record(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run `<name>.lua`, which acknowledges entries of one server, once: a second run might reach another server,
        where an id may be another entry's. With `queue.durability = "replicas"` the replicas have it too, as with
        `guarded`. After a `StoreError` it may have been done."""
        return await self.read(name, keys, args)

    async def promise(self, *command: Any) -> Any:
        """The same for one command, whose second word is its key."""
        return await self.call(*command)

    async def call(self, *command: Any) -> Any:
        """One command."""
        with store_faults():
            return await self._client.execute_command(*command)

    async def many(self, commands: Sequence[Command], *, errors: bool = False) -> list[Any]:
        """Independent commands in one round trip. The first that fails raises, or all faults are among the answers."""
        return await self._pipeline(self._client, commands, errors=errors)

    async def wait(self, commands: Sequence[Command], wait_ms: int) -> list[Any]:
        """Commands of which the first may block for `wait_ms`; the rest is answered after it."""
        with store_faults():
            async with asyncio.timeout(wait_ms / 1000 + self._timeout):
                return await self._pipeline(self._waiting, commands)

    async def script(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run `<name>.lua`."""
        return await self._run(self._client, name, keys, args)

    async def read(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run `<name>.lua`, which hands out entries of a stream, once: a second run would hand out others, and nobody
        would know of the first. After a `StoreError` entries may be pending that were never seen.
        """
        with store_faults():
            async with asyncio.timeout(self._timeout):
                return await self._run(self._waiting, name, keys, args)

    async def _run(self, client: Client, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        script, names = self._prepared(name, keys)
        with store_faults():
            try:
                return await client.execute_command("EVALSHA", script.sha, len(names), *names, *args)
            except NoScriptError:
                return await client.execute_command("EVAL", script.text, len(names), *names, *args)

    def _prepared(self, name: str, keys: Sequence[str]) -> tuple[scripts.Script, Sequence[str]]:
        """The script and its keys. On a cluster one more, so that a slot that moves refuses it whole; see keys.py."""
        if not self.cluster or not keys:
            return scripts.load(name), keys
        return scripts.load(name, whole=True), (*keys, whole_beside(keys[0]))

    async def scan(self, match: str, cursor: str, count: int) -> tuple[list[bytes], str | None]:
        """Names of keys, about `count` of those looked at, and where to go on; None: all were looked at.

        On a cluster node after node: a cursor names its node, since a position means something to that one alone.
        Where it is no primary any more the listing begins again. A name may come twice.
        """
        position, _, place = cursor.partition("@")
        if not position.isdecimal():
            position, place = "0", ""
        if place and not self.cluster:
            position = "0"
        words = ("SCAN", int(position), "MATCH", match, "COUNT", count)
        if not isinstance(self._client, RedisCluster):
            following, names = await self.call(*words)
            return names, f"{int(following)}@" if int(following) else None
        with store_faults():
            await self._client.initialize()
            nodes = {node.name: node for node in self._client.get_primaries()}
            order = sorted(nodes)
            if place not in nodes:
                place, words = order[0], (words[0], 0, *words[2:])
            answer, names = await self._client.execute_command(*words, target_nodes=nodes[place])
        following = int(next(iter(answer.values())))
        if following:
            return names, f"{following}@{place}"
        later = order[order.index(place) + 1 :]
        return names, f"0@{later[0]}" if later else None

    async def scripts(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run several in one round trip, each an atomic step of its own. The first that fails raises."""
        if len(calls) == 1:
            return [await self.script(*calls[0])]

        async def run(commands: Sequence[Command]) -> list[Any]:
            return await self._pipeline(self._client, commands, errors=True)

        return await self.by_digest(calls, run)

    async def by_digest(
        self, calls: Sequence[ScriptCall], run: Callable[[Sequence[Command]], Awaitable[list[Any]]]
    ) -> list[Any]:
        """What `run` answers to the calls as commands. It gives faults among its answers, and the first is raised;
        where the server does not know a script, all go again with their texts.
        """
        known = [(*self._prepared(name, keys), args) for name, keys, args in calls]
        answers = await run([("EVALSHA", script.sha, len(keys), *keys, *args) for script, keys, args in known])
        if any(isinstance(answer, NoScriptError) for answer in answers):
            answers = await run([("EVAL", script.text, len(keys), *keys, *args) for script, keys, args in known])
        return self.raised(answers)

    @staticmethod
    def raised(answers: list[Any]) -> list[Any]:
        """The answers, or the first fault among them raised."""
        with store_faults():
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers

    async def pinned(self, key: str, commands: Sequence[Command], wait_ms: int, *, repeat: bool = True) -> list[Any]:
        """Commands in one go on one connection, to the node that has `key`; some of them may block, for `wait_ms` in
        all. With `repeat` all of them are tried once more where the connection broke. Faults are among the answers.
        """
        with store_faults():
            async with asyncio.timeout(wait_ms / 1000 + self._timeout):
                try:
                    return await self._pinned(key, commands)
                except faults.ConnectionError:
                    await self._look_again()
                    if not repeat:
                        raise
                    return await self._pinned(key, commands)

    async def _look_again(self) -> None:
        """Ask a cluster which node has which slot: redis-py does not where a command names its node, and would go to
        one that is dead for ever."""
        if isinstance(self._waiting, RedisCluster):
            with suppress(faults.RedisError, faults.RedisClusterException, OSError, TimeoutError):
                async with asyncio.timeout(self._timeout / 2):
                    await self._waiting.nodes_manager.initialize()

    async def _pinned(self, key: str, commands: Sequence[Command]) -> list[Any]:
        client = self._waiting
        if not isinstance(client, RedisCluster):
            async with client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                result: list[Any] = await pipe.execute(raise_on_error=False)
                return result
        await client.initialize()
        answers = await self._on_node_of(client, key, commands)
        if any(isinstance(answer, faults.MovedError) for answer in answers):
            # A command of one key finds the slot's new node, and the client remembers it.
            await client.execute_command("EXISTS", key)
            answers = await self._on_node_of(client, key, commands)
        return answers

    async def aclose(self) -> None:
        await close_redis(self._client)
        await close_redis(self._waiting)

    @staticmethod
    async def _pipeline(client: Client, commands: Sequence[Command], *, errors: bool = False) -> list[Any]:
        if not commands:
            return []
        with store_faults():
            async with client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                result: list[Any] = await pipe.execute(raise_on_error=not errors)
                return result

    @staticmethod
    async def _on_node_of(client: RedisCluster, key: str, commands: Sequence[Command]) -> list[Any]:
        node = client.get_node_from_key(key)
        async with client.pipeline() as pipe:
            for command in commands:
                pipe.execute_command(*command, target_nodes=node)
            # Redirected one by one, they would not be on one connection any more.
            answers: list[Any] = await pipe.execute(raise_on_error=False, allow_redirections=False)
        for answer in answers:
            if isinstance(answer, faults.ConnectionError):
                raise answer
        return answers
