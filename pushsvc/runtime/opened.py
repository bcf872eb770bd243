"""An account at a provider that is open: what it was opened with, and its end beside whatever else goes on."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Generic, Self, TypeAlias, TypeVar

from msgspec import Struct

from .reload import Stamp, files_of, stamp_of

T = TypeVar("T")

Mark: TypeAlias = tuple[Struct, Stamp]
"""What an account is opened with: its section, and how its files are then. One with another mark is opened anew."""


def mark_of(section: Struct) -> Mark:
    """Return the mark of an account's section with its files as they are now."""
    return section, stamp_of(files_of(section))


class Opened(Generic[T]):
    """An open account, with the mark that it was opened with."""

    def __init__(self, mark: Mark, context: AbstractAsyncContextManager[object], account: T) -> None:
        """`context` has been entered, and gave `account`."""
        self.mark = mark
        self.account = account
        self._context = context

    @classmethod
    async def open(cls, mark: Mark, context: AbstractAsyncContextManager[T]) -> Self:
        """Enter `context`. Raises what that raises, as `CredentialError`."""
        return cls(mark, context, await context.__aenter__())

    async def close(self) -> None:
        """Let what is in flight end, then close."""
        await self._context.__aexit__(None, None, None)


class Closing:
    """Accounts that are being closed while others are in use already."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, opened: Opened[T], name: str) -> None:
        """Close an account in a task of that name."""
        task = asyncio.get_running_loop().create_task(opened.close(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self) -> None:
        """Return when all are closed; how it ended with each is not asked."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
