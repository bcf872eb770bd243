"""What single nodes of a cluster are asked: a batch on the node of a key, a scan of all, which primaries there are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis import exceptions as faults
from redis.asyncio.cluster import ClusterNode, RedisCluster

from .pipelines import Command, refusals
from .primaries import LOOK
from .sentinels import Address


async def pinned(client: RedisCluster, key: str, commands: Sequence[Command], *, repeat: bool) -> list[Any]:
    """Run commands in one pipeline on one connection to the node of `key`. Where the slot moves meanwhile, those that
    were refused run on its new node. Errors are among the answers.

    With `repeat`, all of them run there: what was done before came along with the slot, but another primary, which may
    have taken over, is not sure to have it."""
    answers = await _on_node_of(client, key, commands)
    refused = [place for place, answer in enumerate(answers) if isinstance(answer, faults.MovedError)]
    if refused:
        # A command of one key finds the slot's new node, and the client remembers it.
        await client.execute_command("EXISTS", key)
        first = 0 if repeat else refused[0]
        answers[first:] = await _on_node_of(client, key, commands[first:])
    return answers


async def _on_node_of(client: RedisCluster, key: str, commands: Sequence[Command]) -> list[Any]:
    node = client.get_node_from_key(key)
    async with client.pipeline() as pipe:
        for command in commands:
            pipe.execute_command(*command, target_nodes=node)
        # Redirected one by one, they would not be on one connection any more.
        return refusals(await pipe.execute(raise_on_error=False, allow_redirections=False))


async def look_again(client: RedisCluster, seconds: float) -> None:
    """Ask which node has which slot. redis-py does not do so for a command that names its node, and would use a dead
    one forever."""
    with suppress(faults.RedisError, faults.RedisClusterException, OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            await client.nodes_manager.initialize()


async def follow(clients: Sequence[RedisCluster], seconds: float) -> bool:
    """Ask which primaries there are, and let these clients of one cluster use those: a former one may be silent, and
    would answer later on. Returns whether there are others than a client knew."""
    present = await _present_primaries(clients[0])
    # By the client: it calls a node that is announced as localhost by its number.
    found = [{client.get_node(*address) for address in present} for client in clients]
    if all(nodes <= set(client.get_primaries()) for client, nodes in zip(clients, found, strict=True)):
        return False
    for client, nodes in zip(clients, found, strict=True):
        former = next((node.name for node in client.get_primaries() if node not in nodes), None)
        async with asyncio.timeout(seconds):
            await client.nodes_manager.initialize(last_failed_node_name=former)
    return True


async def unidentified(client: RedisCluster) -> list[str]:
    """Return the nodes, replicas among them, on which this user may not run INFO: see primaries.py. A node that is away
    is not among them."""

    async def refuses(node: ClusterNode) -> bool:
        with suppress(faults.RedisError, OSError, TimeoutError):
            try:
                await client.execute_command("INFO", "replication", target_nodes=node)
            except faults.NoPermissionError:
                return True
        return False

    await client.initialize()
    nodes = sorted(client.get_nodes(), key=lambda node: node.name)
    refused = await asyncio.gather(*map(refuses, nodes))
    return [node.name for node, is_refused in zip(nodes, refused, strict=True) if is_refused]


async def _present_primaries(client: RedisCluster) -> set[Address]:
    """Return the primaries by the first node of a cluster that answers soon; empty where none does."""
    for node in client.get_nodes():
        with suppress(faults.RedisError, OSError, TimeoutError):
            async with asyncio.timeout(LOOK):
                slots = await client.execute_command("CLUSTER", "SLOTS", target_nodes=node)
            return {(name.decode() if name else str(node.host), int(port)) for _, _, (name, port, *_), *_ in slots}
    return set()


async def scan(client: RedisCluster, command: Command, place: str) -> tuple[list[bytes], str | None]:
    """Run a SCAN on the node `place`, or from the beginning of the first node where that is no primary. Returns names,
    and the next cursor, or None after the last node."""
    await client.initialize()
    nodes = {node.name: node for node in client.get_primaries()}
    order = sorted(nodes)
    if place not in nodes:
        place, command = order[0], (command[0], 0, *command[2:])
    answer, names = await client.execute_command(*command, target_nodes=nodes[place])
    following = int(next(iter(answer.values())))
    if following:
        return names, f"{following}@{place}"
    later = order[order.index(place) + 1 :]
    return names, f"0@{later[0]}" if later else None
