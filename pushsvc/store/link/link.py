"""Round trips to Redis: a command, several commands, a script, or a blocking wait. Faults become `StoreError`.

Short commands and scripts share one connection; a blocking wait, a read and a large batch have one each: see direct.py.
Short ones have a time limit, and are tried once more if their connection broke: each may safely run twice. Blocking
reads, and scripts that hand out entries of a stream, are never repeated; the limit applies to the whole wait, so that a
server that has silently gone is noticed. Where there are no direct connections, as for a cluster, redis-py's own
clients do the same by the same rules.

Behind sentinels, `follow` asks each second for the primary. If it has changed, every connection ends at once, so that
no process writes to the old one or trusts its answers, and the callbacks of `on_change` are called. An attempt to
connect may be the first to learn of it: what is never repeated is not asked of the new one then. In a cluster each
connection asks its node who it is, see primaries.py, and `follow` asks one node each second which the primaries are.
Another one means the same, except that connections stay: what is never repeated has no answer then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, Final, TypeAlias

from redis import exceptions as faults
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoScriptError

from ...errors import StoreError, StoreUnavailable
from ...telemetry import get_logger
from ..keys import absent_in_slot_of
from . import cluster, scripts
from .connect import Client, close_redis, open_redis, sentinels_of, store_faults
from .direct import direct_of
from .pipelines import Command as Command, pipelined, refusals
from .primaries import Primaries, checked, follow_primaries
from .sentinels import Address, drop_connections

ScriptCall: TypeAlias = tuple[str, Sequence[str], Sequence[Any]]
"""A script's name, its keys and its arguments."""


LOOK: Final = 1.0
"""Seconds between two questions to the sentinels."""
AT_ONCE: Final = 500
"""Commands that share a round trip, so that reading their answers delays no other work."""

LARGE: Final = 16_384
"""Bytes of a script's last argument above which it has a connection of its own: servers read as much at a time."""

BEHIND: Final = 60.0
"""Seconds after a change of the primary in which an entry that is handed out for the first time may have been sent. It
was read, launched or returned for a retry on the old primary, and the new one did not receive that."""


def pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    """Return an answer of the form name, value, name, value, .. as a dictionary."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


class Link:
    """The access to Redis that every part of the store shares."""

    def __init__(self, url: str, *, name: str, timeout: float) -> None:
        """Create the clients, which connect on first use. Raises `ConfigError`."""
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
        self._primaries = Primaries(self._switch)
        for client in (self._client, self._waiting):
            if isinstance(client, RedisCluster):
                follow_primaries(client, self._primaries)
        self._direct = direct_of(self._client, self._waiting)
        self._changed: list[Callable[[], None]] = []
        self.history = 0
        """Raised when another server becomes the primary: an older entry id may be that of another entry there."""
        fails_over = self.cluster or self.sentinels is not None
        self.behind_until = time.monotonic() + BEHIND if fails_over else 0.0
        """Until when the primary may hand out entries whose deliveries have ended, by `time.monotonic`."""

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever another server has become the primary: the latest answers of the old one may be
        invalid."""
        self._changed.append(changed)

    async def meet(self) -> None:
        """Meet the primaries of a cluster. Without that none of them would be known to be another one later on."""
        client = self._client
        if isinstance(client, RedisCluster):
            with store_faults():
                await client.initialize()
            asked = (client.execute_command("TIME", target_nodes=node) for node in client.get_primaries())
            await asyncio.gather(*asked, return_exceptions=True)
            self._primaries.complete = True

    async def follow(self) -> None:
        """Follow the primary, or those of a cluster, until cancelled. Returns at once where there is no other."""
        sentinels = self.sentinels
        while sentinels is not None or self.cluster:
            await asyncio.sleep(LOOK)
            with suppress(StoreError), store_faults():
                if sentinels is not None:
                    await sentinels.discover_master(sentinels.name)
                else:
                    await self._follow_cluster()

    async def _follow_cluster(self) -> None:
        """Meet the primaries that have taken over, though nothing was asked of them: the former one may be silent, and
        would answer later on. From here on nothing is asked of that."""
        clients = [each for each in (self._client, self._waiting) if isinstance(each, RedisCluster)]
        if await cluster.follow(clients, self._timeout / 2):
            await self.meet()

    async def unidentified(self) -> list[str]:
        """Return the nodes of a cluster whose restarts are not noticed, because this user may not run INFO there."""
        if not isinstance(self._client, RedisCluster):
            return []
        with store_faults():
            return await cluster.unidentified(self._client)

    def _switch(self, address: Address) -> None:
        get_logger("store").warning("primary_changed", host=address[0], port=address[1])
        self.drop()

    def drop(self) -> None:
        """Begin another history, and call the callbacks of `on_change`. Awaits nothing. Every connection ends, except
        those to a cluster, whose other primaries go on: from here on nothing is answered by the former primary, except
        for answers that have already arrived."""
        self.history += 1
        self.behind_until = time.monotonic() + BEHIND
        for client in (self._client, self._waiting):
            if not isinstance(client, RedisCluster):
                drop_connections(client)
        if self._direct is not None:
            self._direct.drop()
        for changed in self._changed:
            changed()

    @property
    def durability(self) -> str:
        """A text for people that says what a confirmed write is protected by."""
        return "memory: Redis has it"

    @property
    def waits(self) -> bool:
        """Whether `guarded` waits for others than the server itself."""
        return False

    def guarded(self, mark: str, calls: Sequence[ScriptCall]) -> Awaitable[list[Any]]:
        """Run scripts whose success is reported to a caller, in one round trip. `mark` is a key in their slot. With
        `queue.durability = "replicas"`, their writes are on replicas when this returns; see replicas.py."""
        return self.scripts(calls)

    def record(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Awaitable[Any]:
        """Run `<name>.lua`, which ends entries that were read in the present `history`, exactly once as `read` does: on
        another server an id may be another entry's. With `queue.durability = "replicas"` the replicas have it too, as
        with `guarded`. After a `StoreError` it may have been done."""
        return self.read(name, keys, args)

    async def guarded_call(self, *command: Any) -> Any:
        """Run one command with the guarantee of `guarded`. Its second word is its key."""
        return await self.call(*command)

    async def call(self, *command: Any, errors: bool = False) -> Any:
        """Run one command, which does not block. With `errors`, what the server refuses is the answer, and counts as no
        fault: the caller expects it."""
        with store_faults():
            if self._direct is not None:
                answers = await self._direct.ask([command], self._timeout, repeat=True)
                return self._shaped([command], answers, errors=errors)[0]
            try:
                return await self._client.execute_command(*command)
            except faults.ResponseError as error:
                if not errors:
                    raise
                return refusals([error])[0]

    async def many(self, commands: Sequence[Command], *, errors: bool = False) -> list[Any]:
        """Run independent commands in one round trip, or in one for each `AT_ONCE`. The first failure raises; with
        `errors`, what the server refuses is among the answers."""
        answers = await self._together(commands[:AT_ONCE], errors=errors)
        for at in range(AT_ONCE, len(commands), AT_ONCE):
            answers += await self._together(commands[at : at + AT_ONCE], errors=errors)
        return answers

    async def _together(self, commands: Sequence[Command], *, errors: bool) -> list[Any]:
        with store_faults():
            if self._direct is None:
                return await pipelined(self._client, commands, errors=errors)
            answers = await self._direct.ask(commands, self._timeout, repeat=True)
            return self._shaped(commands, answers, errors=errors)

    def _shaped(self, commands: Sequence[Command], answers: list[Any], *, errors: bool = False) -> list[Any]:
        """Return the answers in the forms that redis-py gives them. Raises the first refusal, unless with `errors`."""
        shapes = self._client.response_callbacks
        for place, (command, answer) in enumerate(zip(commands, answers, strict=True)):
            if isinstance(answer, Exception):
                if not errors:
                    raise answer
            elif (shape := shapes.get(command[0])) is not None:
                answers[place] = shape(answer)
        return answers

    async def values(self, key: str) -> AsyncIterator[dict[bytes, bytes]]:
        """Yield a large hash in parts, so that it occupies neither side for long. A field that changes meanwhile may
        occur twice."""
        cursor = 0
        while True:
            following, part = await self.call("HSCAN", key, cursor, "COUNT", AT_ONCE)
            yield part
            cursor = int(following)
            if not cursor:
                return

    async def wait(self, commands: Sequence[Command], wait_ms: int) -> list[Any]:
        """Run commands of which the first may block for `wait_ms`; the others follow it."""
        seconds = wait_ms / 1000 + self._timeout
        with store_faults():
            if self._direct is not None:
                return self._shaped(commands, await self._direct.wait(commands, seconds))
            history = self.history
            async with asyncio.timeout(seconds):
                answers = await pipelined(self._waiting, commands)
            self.require(history)
            return answers

    async def script(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run `<name>.lua`."""
        with store_faults():
            return await self._run(self._client, name, keys, args)

    async def read(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run `<name>.lua`, which hands out entries of a stream or ends some, exactly once, and on no other server than
        the primary of the moment of this call.

        A second run would hand out others, and the first ones would be lost from view. After a `StoreError`, entries
        may be pending that this process never received.
        """
        with store_faults():
            return await self._run(self._waiting, name, keys, args)

    async def read_all(self, key: str, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run scripts on the node of `key` in one round trip, each exactly once as `read` does. Errors of single ones
        are among the answers."""

        history = self.history

        async def run(commands: Sequence[Command]) -> list[Any]:
            self.require(history)
            return await self.pinned(key, commands, 0, repeat=False)

        return await self._answers_to(calls, run)

    def require(self, history: int) -> None:
        """Raise `StoreUnavailable` if another server has become the primary since this history."""
        if self.history != history:
            raise StoreUnavailable("another server of Redis has become the primary")

    async def _run(self, client: Client, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        script, names = self._prepared(name, keys)
        history = self.history
        try:
            return await self._send(client, ("EVALSHA", script.sha, len(names), *names, *args), history)
        except NoScriptError:
            if client is self._waiting:
                self.require(history)
            return await self._send(client, ("EVAL", script.text, len(names), *names, *args), history)

    async def _send(self, client: Client, command: Command, history: int) -> Any:
        """Run one script: with the client of waits once and in this history, else with a second try if the connection
        broke."""
        if self._direct is not None:
            # A read is answered by much, and the last argument is all there is of a batch.
            if client is self._waiting:
                (answer,) = await self._direct.wait([command], self._timeout)
            else:
                alone = type(command[-1]) is bytes and len(command[-1]) > LARGE
                (answer,) = await self._direct.ask([command], self._timeout, repeat=True, alone=alone)
        elif client is self._client:
            return await client.execute_command(*command)
        else:
            async with asyncio.timeout(self._timeout):
                if self.cluster:
                    await client.initialize()
                    with checked(partial(self.require, history)):
                        return await client.execute_command(*command)
                (answer,) = await self._pinned("", [command], history=history)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _prepared(self, name: str, keys: Sequence[str]) -> tuple[scripts.Script, Sequence[str]]:
        """Return the script and its keys. On a cluster one more, so that a slot that moves refuses it whole; see
        keys.py."""
        if not self.cluster or not keys:
            return scripts.load(name), keys
        return scripts.load(name, whole=True), (*keys, absent_in_slot_of(keys[0]))

    async def scan(self, match: str, cursor: str, count: int) -> tuple[list[bytes], str | None]:
        """Return names of keys from about `count` that were examined, and the next cursor, or None after the last.

        On a cluster, the nodes are scanned one after the other: a cursor names its node, because a position is valid
        there only. If the node is no longer a primary, the scan starts again. A name may occur twice.
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
            return await cluster.scan(self._client, words, place)

    async def scripts(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run several scripts in one round trip, each an atomic step of its own. The first failure raises."""
        if len(calls) == 1:
            return [await self.script(*calls[0])]

        async def run(commands: Sequence[Command]) -> list[Any]:
            with store_faults():
                if self._direct is None:
                    return await pipelined(self._client, commands, errors=True)
                return await self._direct.ask(commands, self._timeout, repeat=True)

        return await self.by_digest(calls, run)

    async def by_digest(
        self, calls: Sequence[ScriptCall], run: Callable[[Sequence[Command]], Awaitable[list[Any]]]
    ) -> list[Any]:
        """Return what `run` answers to the calls as commands. It gives faults among its answers, and the first is
        raised. Answers beyond those to the commands, of each time that it runs, follow."""
        return self.raised(await self._answers_to(calls, run))

    async def _answers_to(
        self, calls: Sequence[ScriptCall], run: Callable[[Sequence[Command]], Awaitable[list[Any]]]
    ) -> list[Any]:
        """Return what `run` answers to the calls as commands, faults included. Where the server does not know a script,
        only that one is sent again, with its text, after the others: their second answers would contain less."""
        known = [(*self._prepared(name, keys), args) for name, keys, args in calls]
        answers = await run([("EVALSHA", script.sha, len(names), *names, *args) for script, names, args in known])
        unknown = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            texts = [("EVAL", script.text, len(names), *names, *args) for script, names, args in known]
            again = await run([texts[place] for place in unknown])
            for place, answer in zip(unknown, again, strict=False):
                answers[place] = answer
            answers += again[len(unknown) :]
        return answers

    @staticmethod
    def raised(answers: list[Any]) -> list[Any]:
        """Return the answers, or the first fault among them raised."""
        for answer in answers:
            if isinstance(answer, Exception):
                with store_faults():
                    raise answer
        return answers

    async def pinned(self, key: str, commands: Sequence[Command], wait_ms: int, *, repeat: bool = True) -> list[Any]:
        """Run commands in one pipeline on one connection to the node of `key`.

        Some of them may block, for `wait_ms` in total. With `repeat`, all of them are tried once more if the
        connection broke; else only the primary of the moment of this call is asked. Errors are returned among the
        answers.
        """
        seconds = wait_ms / 1000 + self._timeout
        with store_faults():
            if self._direct is not None:
                answers = await self._direct.ask(commands, seconds, repeat=repeat, alone=True)
                return self._shaped(commands, answers, errors=True)
            async with asyncio.timeout(seconds):
                try:
                    return await self._pinned(key, commands, history=None if repeat else self.history)
                except faults.ConnectionError:
                    if isinstance(self._waiting, RedisCluster):
                        await cluster.look_again(self._waiting, self._timeout / 2)
                    if not repeat:
                        raise
                    return await self._pinned(key, commands)

    async def _pinned(self, key: str, commands: Sequence[Command], *, history: int | None = None) -> list[Any]:
        client = self._waiting
        if isinstance(client, RedisCluster):
            await client.initialize()
            with checked(partial(self.require, history)) if history is not None else nullcontext():
                return await cluster.pinned(client, key, commands, repeat=history is None)
        async with client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            pipe.connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py gives it no types
            if history is not None:
                self.require(history)  # the attempt to connect may have found another
            return refusals(await pipe.execute(raise_on_error=False))

    async def aclose(self) -> None:
        if self._direct is not None:
            await self._direct.aclose()
        await close_redis(self._client)
        await close_redis(self._waiting)
