"""An open account at a provider: what it was opened with, and how it is closed while other accounts are in use."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Generic, Self, TypeAlias, TypeVar

from msgspec import Struct

from .reload import Stamp, files_of, stamp_of

T = TypeVar("T")

Mark: TypeAlias = tuple[Struct, Stamp]
"""What an account is opened with: its section and the state of its files. When this changes the account is opened
again."""


def mark_of(section: Struct) -> Mark:
    """Return the mark of an account's section with its files in their present state."""
    return section, stamp_of(files_of(section))


class Opened(Generic[T]):
    def __init__(self, mark: Mark, context: AbstractAsyncContextManager[object], account: T) -> None:
        """Take an account that the entered `context` returned."""
        self.mark = mark
        self.account = account
        self._context = context

    @classmethod
    async def open(cls, mark: Mark, context: AbstractAsyncContextManager[T]) -> Self:
        """Enter `context`. Raises what it raises, such as `CredentialError`."""
        return cls(mark, context, await context.__aenter__())

    async def close(self) -> None:
        """Close the account after its requests in flight."""
        await self._context.__aexit__(None, None, None)


class Closing:
    """Closes accounts in tasks, while others are in use already."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, opened: Opened[T], name: str) -> None:
        """Close an account in a task of the given name."""
        task = asyncio.get_running_loop().create_task(opened.close(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self) -> None:
        """Wait until all are closed. Errors of closing are ignored."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
