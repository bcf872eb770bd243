"""Several processes in one thread, over a real Redis: each has an event loop of its own, which the test turns by hand.

A process that is not turned stands still as after SIGSTOP, with its sockets open; one whose sockets are shut and that
is never turned again was killed. All share one clock, which stands while anything has something to do and is moved by
the test, from timer to timer: back-offs and leases of many seconds take milliseconds. Only Redis is in real time; a
wait on its side ends when something comes, as everywhere, and at the latest when `WAIT` seconds of our clock are over.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from random import Random
from typing import Any, TypeVar

from msgspec import structs
from redis import Redis

from pushsvc.store import Store, StoreConfig, open_store

T = TypeVar("T")

TURN = 1e-9
"""Seconds that an iteration of the loop takes, so that a timer that is slightly early does not run forever."""
AT_ONCE = 1e-5
"""A timer of so few seconds is no wait: else it would come due by the turns of others, sooner or later."""
CHANCE = 0.6
"""That a process goes on while others do, where they are to meet in any order."""
MOST_TURNS = 1_000_000
"""Turns in which everything comes to rest: hundreds are usual."""
MOST_PINGS = 10_000
"""Answers of Redis to questions that were asked later, after which an open question is taken for lost. Redis answers in
the order of the questions, so this says nothing of how fast the machine is."""
WAIT = 2.0
"""Seconds of our clock after which no wait on the side of Redis goes on, as long as dispatchers wait there."""
ASKS = ("call", "many", "script", "read", "read_all", "scripts", "pinned")
"""What is asked of Redis and answered at once. A wait (`Link.wait`) is no sign that something is under way."""


class SteppedClock:
    """Seconds; `epoch` of them had passed in Unix time at 0."""

    def __init__(self) -> None:
        self.now = 1.0
        self.epoch = float(int(time.time()))

    def seconds(self) -> float:
        return self.epoch + self.now

    def ms(self) -> int:
        return int(self.seconds() * 1000)


class _Selector(selectors.DefaultSelector):
    """Never waits: where a loop would, it stops the loop, and keeps in mind when that wants to go on."""

    def __init__(self, clock: SteppedClock) -> None:
        super().__init__()
        self._clock = clock
        self.idle: Callable[[], None] = lambda: None
        self.busy = False
        self.next_at = math.inf

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= AT_ONCE):
            self.busy = True
            self._clock.now += max(TURN, timeout or 0.0) if not ready else TURN
        else:
            self.next_at = math.inf if timeout is None else self._clock.now + timeout
            self.idle()
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: SteppedClock) -> None:
        self._clock = clock
        self.stepped = _Selector(clock)
        super().__init__(self.stepped)
        self.stepped.idle = self.stop

    def time(self) -> float:
        return self._clock.now

    def turn(self) -> bool:
        """Go on until there is nothing to do; whether there was something."""
        self.stepped.busy = False
        self.run_forever()
        return self.stepped.busy


class Process:
    """One process with a store of its own. It runs `main` until it is stopped."""

    def __init__(self, world: SteppedWorld, name: str, main: Callable[[Process], Awaitable[None]]) -> None:
        self.name = name
        self.stop = asyncio.Event()
        self.paused_at: float | None = None
        self.dead = False
        self.asking = 1  # from the start, until its store is open
        self.store: Store
        self.loop = _Loop(world.clock)
        self.loop.set_exception_handler(lambda _, context: world.faults.append(f"{name}: {context}"))
        self.main = self.loop.create_task(self._run(world, main))
        self.main.add_done_callback(lambda task: self._ended(world, task))

    @property
    def runs(self) -> bool:
        return self.paused_at is None and not self.dead

    async def _run(self, world: SteppedWorld, main: Callable[[Process], Awaitable[None]]) -> None:
        async with open_store(
            world.url, structs.replace(world.config, consumer=self.name), clock=world.clock.ms
        ) as self.store:
            for ask in ASKS:
                setattr(self.store.link, ask, self._counting(getattr(self.store.link, ask)))
            self.asking -= 1
            await main(self)

    def _counting(self, ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def asked(*words: Any, **options: Any) -> Any:
            self.asking += 1
            try:
                return await ask(*_lasting(words), **options)
            finally:
                self.asking -= 1

        return asked

    def _ended(self, world: SteppedWorld, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            world.faults.append(f"{self.name} ended: {error!r}")

    def shut(self) -> None:
        """As the kernel does for one that was killed."""
        for key in self.loop.stepped.get_map().values():
            transport = getattr(key.data[0], "_args", None)
            fd = key.fd
            if transport is not None and fd != self.loop._ssock.fileno():  # type: ignore[attr-defined]
                with socket.socket(fileno=socket.dup(fd)) as copy:
                    copy.shutdown(socket.SHUT_RDWR)


class SteppedWorld:
    """The processes, their clock, and what went wrong in one of them."""

    def __init__(self, url: str, config: StoreConfig) -> None:
        self.url = url
        self.config = config
        self.clock = SteppedClock()
        self.processes: list[Process] = []
        self._redis = Redis.from_url(url)
        self.faults: list[str] = []
        self._waits_ended = 0.0
        self.luck: Random | None = None
        """Who goes on when; None: all at once."""
        self.caller = self.start("caller", _serve)

    def start(self, name: str, main: Callable[[Process], Awaitable[None]]) -> Process:
        """Start a process, up to where it waits for something."""
        process = Process(self, name, main)
        self.processes.append(process)
        self.settle()
        return process

    def settle(self) -> None:
        """Let everybody go on until nobody has anything to do, and no question to Redis is open."""
        quiet = turns = pings = 0
        while quiet < 2:
            running = [process for process in self.processes if process.runs]
            chosen = [process for process in running if self.luck is None or self.luck.random() < CHANCE]
            turned = [process.loop.turn() for process in chosen]
            asking = any(process.asking and not process.main.done() for process in running)
            if asking or any(turned):
                quiet = 0
            elif len(chosen) == len(running):
                quiet += 1
            turns += any(turned)
            assert turns < MOST_TURNS, "it does not come to rest"
            if any(turned) or len(chosen) < len(running):
                pings = 0
            elif asking:
                self._redis.ping()
                pings += 1
                assert pings < MOST_PINGS, "a question to Redis stays without an answer"

    def advance(self, seconds: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, from timer to timer, or until something is done."""
        until = self.clock.now + seconds
        self.settle()
        while not done():
            at = min((process.loop.stepped.next_at for process in self.processes if process.runs), default=math.inf)
            if at > until:
                self.clock.now = max(self.clock.now, until)
                self.settle()
                break
            self.clock.now = max(self.clock.now, at)
            self.settle()
        self._silence()
        self._end_waits()

    def _silence(self) -> None:
        """The signs of life of those that stand still run out by our clock; of several with one name the last one's."""
        for name, process in {process.name: process for process in self.processes}.items():
            since = process.paused_at
            if since is not None and self.clock.now - since >= self.config.alive_ttl:
                self.call(self.caller.store.link.call("DEL", f"ps:alive:{name}"))

    def _end_waits(self) -> None:
        """Waits run out by our clock: else a process that waits in real time would not look at anything for minutes of
        it."""
        if self.clock.now - self._waits_ended >= WAIT:
            self._waits_ended = self.clock.now
            for client in self._redis.client_list():
                if "b" in client["flags"]:
                    self._redis.client_unblock(int(client["id"]))
            self.settle()

    def begin(self, step: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A call of the caller's, which goes on while time passes."""
        return self.caller.loop.create_task(step)

    def call(self, step: Coroutine[Any, Any, T], seconds: float = 10.0) -> T:
        """A call and its answer."""
        task = self.begin(step)
        self.settle()
        if not task.done():
            self.advance(seconds, task.done)
        assert task.done(), "no answer"
        return task.result()

    def pause(self, process: Process) -> None:
        process.paused_at = self.clock.now

    def resume(self, process: Process) -> None:
        process.paused_at = None

    def kill(self, process: Process) -> None:
        process.dead = True
        process.paused_at = self.clock.now
        process.shut()

    def close(self) -> None:
        """End everybody, also the dead: nothing of them is left behind."""
        for process in self.processes:
            process.dead, process.paused_at = False, None
            process.loop.set_exception_handler(lambda _, __: None)
            for task in asyncio.all_tasks(process.loop):
                task.cancel()
        everybody: Sequence[Process] = self.processes
        self.advance(60.0, lambda: not any(asyncio.all_tasks(process.loop) for process in everybody))
        for process in everybody:
            process.loop.close()
        self._redis.close()


def _lasting(words: tuple[Any, ...]) -> tuple[Any, ...]:
    """A sign of life without its span in real time, which a loaded machine outruns: `_silence` ends it by our clock."""
    if words[0] == "SET" and words[1].startswith("ps:alive:"):
        return words[:3] + words[5:]
    return words


async def _serve(process: Process) -> None:
    await process.stop.wait()
