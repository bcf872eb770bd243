"""A task beside a block of code: where it fails the block ends with its error, and with no cancellation left over."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from pushsvc.background import in_background, repeated

from .virtual_time import run


async def fail() -> None:
    raise RuntimeError("a fault of its own")


async def for_ever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("outer", [False, True])
def test_a_block_ends_with_the_error_of_the_work_beside_it(outer: bool) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            for work in (fail(), for_ever()) if outer else (for_ever(), fail()):
                await stack.enter_async_context(in_background(work, "work"))
            await for_ever()

    async def caller() -> None:
        with pytest.raises(RuntimeError, match="a fault of its own"):
            await main()
        await asyncio.sleep(1)  # nothing is cancelled after it
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(caller())


def test_work_that_is_repeated_ends_its_block_too() -> None:
    async def main() -> None:
        async with repeated(5.0, fail, "work"):
            await for_ever()

    with pytest.raises(RuntimeError, match="a fault of its own"):
        run(main())


def test_a_block_that_ends_as_its_work_fails_leaves_no_cancellation_behind() -> None:
    async def main() -> None:
        event = asyncio.Event()

        async def late() -> None:
            event.set()
            await fail()

        with pytest.raises(RuntimeError, match="a fault of its own"):
            async with in_background(late(), "work"):
                await event.wait()
        await asyncio.sleep(1)

    run(main())


def test_another_cancellation_passes_and_ends_the_work() -> None:
    ended = []

    async def work() -> None:
        try:
            await for_ever()
        finally:
            ended.append("work")

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), in_background(work(), "work"):
                await for_ever()
        assert ended == ["work"]

    run(main())


def test_work_with_an_event_of_its_own_is_asked_to_stop_and_not_cancelled() -> None:
    async def main() -> None:
        stop, done = asyncio.Event(), []

        async def work() -> None:
            await stop.wait()
            await asyncio.sleep(1)
            done.append("it ended by itself")

        async with in_background(work(), "work", stop=stop):
            pass
        assert done

    run(main())
