"""Pipelines of redis-py, where there are no direct connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from redis import exceptions as faults

from .connect import Client

Command: TypeAlias = tuple[Any, ...]


async def pipelined(client: Client, commands: Sequence[Command], *, errors: bool = False) -> list[Any]:
    """Run commands in one pipeline. The first failure raises; with `errors`, what the server refuses is among the
    answers."""
    if not commands:
        return []
    async with client.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        return refusals(await pipe.execute(raise_on_error=not errors))


def refusals(answers: list[Any]) -> list[Any]:
    """Return the answers of a pipeline, if the errors among them are what the server refuses.

    redis-py puts whatever goes wrong among the answers, as of a connection that a node of a cluster has closed
    (`RuntimeError`), and none of it says anything about what was asked. The first such fault is raised.
    """
    for answer in answers:
        refused = isinstance(answer, faults.ResponseError) and not isinstance(answer, faults.ClusterDownError)
        if isinstance(answer, Exception) and not refused:
            raise answer
    return answers
