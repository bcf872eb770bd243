"""Scripts of many callers that share round trips: those that are asked for during one go together with the next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from .commit import GroupCommit
from .link import Link, ScriptCall


class _Asked:
    """A script that waits for a round trip, and then has its answer."""

    __slots__ = ("answer", "call")

    def __init__(self, call: ScriptCall) -> None:
        self.call = call
        self.answer: Any = None


class SharedScripts:
    """The scripts of one kind. Each caller waits for its own answer."""

    def __init__(self, run: Callable[[Sequence[ScriptCall]], Awaitable[list[Any]]], *, most: int) -> None:
        """Run up to `most` scripts at once by `run`, which returns their answers, and may return faults among them.
        What it raises is raised to all."""

        async def write(asked: list[_Asked]) -> None:
            answers = await run([each.call for each in asked])
            for each, answer in zip(asked, answers, strict=True):
                each.answer = answer

        self._commit: GroupCommit[_Asked] = GroupCommit(write, most=most)

    async def run(self, call: ScriptCall) -> Any:
        asked = _Asked(call)
        await self._commit.add(asked, 0)
        (answer,) = Link.raised([asked.answer])
        return answer
