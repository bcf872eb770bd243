"""The event loop of a short command: SIGTERM and SIGHUP cancel it, as Ctrl-C does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` like `asyncio.run`. A signal cancels it; after its cleanup, `SystemExit` carries 143 or 129."""
    came: list[int] = []
    before: dict[int, Any] = {}

    async def cancellable() -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def end(number: int) -> None:
            came.append(number)
            task.cancel()

        for number in (signal.SIGTERM, signal.SIGHUP):
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN:  # as nohup leaves it
                with suppress(ValueError, RuntimeError):  # outside the main thread there are no signals
                    loop.add_signal_handler(number, end, number)
                    before[number] = handler
        return await main

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        if came:
            raise SystemExit(128 + came[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # the loop leaves the default
