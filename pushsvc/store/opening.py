"""Opens the store: `async with open_store(url, config) as store`."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from hashlib import blake2b

from msgspec import structs

from ..background import in_background
from ..errors import StoreError
from ..model.codec import decode_reported
from ..model.push import Platform, Route
from ..ports.figures import Gauges, Held
from ..ports.store import Inspection
from ..ports.work import RemovedRoute
from .cleanup.cleanups import RedisCleanups
from .cleanup.leftovers import RedisLeftovers
from .config import StoreConfig
from .erase.erasures import RedisErasures
from .erase.passes import keepers
from .feedback.log import EventLog
from .feedback.receipts import RedisReceipts
from .figures.answers import RedisAnswers
from .figures.flow import RedisFlow
from .figures.gauges import read_gauges, read_memory
from .form import require_format
from .hashing import token_hasher
from .keyring.keyring import RedisKeyRing, keep_hash_key, load_hash_key, read_emptied
from .letters.replays import RedisReplays
from .limits.limiter import RedisLimiter
from .link.clock import Clock, StoreClock, wall_clock
from .link.connect import first_contact
from .link.inspection import inspect
from .link.replicas import open_link
from .live import RedisGateways, RedisLive
from .live.departures import end_moved
from .part import StoreContext
from .pushes.expansions import RedisExpansions
from .pushes.pushes import RedisPushes
from .queue.queue import RedisQueue
from .registry.registry import RedisRegistry
from .revoke.presence import DevicePresence, Marks
from .revoke.revocations import Following, Revocations
from .revoke.supersession import Supersession
from .revoke.suppression import Suppression
from .webhooks.webhooks import RedisWebhooks
from .work.bell import RedisBell
from .work.held import read_held
from .work.liveness import Liveness
from .work.locks import RedisLocks
from .work.removed import read_removed
from .work.workers import RedisWorkers


class Store:
    """Redis behind the ports, for one process and one event loop."""

    def __init__(self, context: StoreContext) -> None:
        link, config, hash_key, clock = context
        revocations = Revocations(context)
        suppression = Suppression(context, revocations)
        marks = Marks(context, suppression, revocations)
        gateways = RedisGateways(context)
        registry = RedisRegistry(
            context,
            suppression,
            marks,
            poke=gateways.poke,
            end_moved=lambda app, waiting: end_moved(self.arrivals, app, waiting, clock()),
        )
        presence = DevicePresence(marks, registry)
        liveness = Liveness(context)
        self.clock = clock
        self.seconds: Callable[[], float] = clock.seconds if isinstance(clock, StoreClock) else lambda: clock() / 1000
        """The same clock, in Unix seconds."""
        self.config = config
        self.hash_key = hash_key
        """The key of `token_hash`, which is the same in every process of this Redis."""
        self.link = link
        self.replaced = asyncio.Event()
        """Set when this Redis came back empty and other processes have initialised it: this process must be
        restarted."""
        self.bell = RedisBell(link)
        self.live = RedisLive(context, registry)
        self.pushes = RedisPushes(context, revocations, self.live, self.bell.ring)
        self.queue = RedisQueue(
            context,
            suppression,
            presence,
            liveness,
            Following(context, liveness),
            Supersession(context, revocations, registry),
            self.live.unread,
        )
        self.arrivals = self.queue
        self.receipts = RedisReceipts(context, suppression, liveness)
        self.reported = EventLog(context, "event", decode_reported)
        self.answers = RedisAnswers(context)
        self.suppressions = suppression
        self.flow = RedisFlow(context)
        self.keys = RedisKeyRing(context)
        self.dead = RedisReplays(context, presence, self.bell.ring)
        self.webhooks = RedisWebhooks(context, self.receipts)
        self.event_webhooks = RedisWebhooks(context, self.reported)
        self.webhook_logs = (self.webhooks, self.event_webhooks)
        self.limiter = RedisLimiter(context)
        self.registry = registry
        self.presence = presence
        self.locks = RedisLocks(context)
        self.expansions = RedisExpansions(context)
        erasing = keepers(context, self.queue, liveness, revocations)
        self.erasures = RedisErasures(context, registry, suppression, self.live, erasing)
        self.leftovers = RedisLeftovers(context, self.erasures.end_marks)
        # It must notice a machine whose own clock is wrong.
        self.cleanups = RedisCleanups(link, wall_clock if isinstance(clock, StoreClock) else clock, self.bell.ring)
        self.workers = RedisWorkers(context)

    @property
    def consumer(self) -> str:
        """Return the name under which this process takes entries."""
        return self.config.consumer

    async def removed(self, configured: Collection[Route], *, anywhere: bool = True) -> list[RemovedRoute]:
        return await read_removed(self.link, self.config, self.workers, configured, anywhere=anywhere)

    async def gauges(self, routes: Mapping[str, Sequence[Platform]]) -> Gauges:
        """Return the figures of these apps at these platforms and of removed routes, and update `pushes.pending`."""
        note = self.pushes.looking()
        routes = dict(routes)
        for each in await self.removed([Route(app, platform) for app in routes for platform in routes[app]]):
            routes[each.route.app] = (*routes.get(each.route.app, ()), each.route.platform)
        gauges = await read_gauges(self.link, self.config, routes, self.clock())
        for app, figures in gauges.apps.items():
            note(app, figures.by_shard)
        return gauges

    async def memory_ratio(self) -> float:
        return await read_memory(self.link)

    async def emptied(self) -> int | None:
        return await read_emptied(self.link)

    def secret(self, purpose: bytes) -> bytes:
        return blake2b(key=self.hash_key, person=purpose, digest_size=32).digest()

    def token_hash(self, route: Platform) -> Callable[[str], str]:
        return token_hasher(self.hash_key, self.config.addresses.same_of(route))

    @property
    def durability(self) -> str:
        return self.link.durability

    async def require_durable(self, apps: Iterable[str]) -> float:
        return await self.pushes.require_durable(apps)

    async def inspect(self) -> Inspection:
        return await inspect(self.link)

    async def held(self) -> dict[str, str]:
        return {name: each.why for name, each in (await self.reports()).items() if not each.note}

    async def reports(self) -> dict[str, Held]:
        return await read_held(self.link, self.clock)


@asynccontextmanager
async def open_store(
    url: str, config: StoreConfig | None = None, *, clock: Clock | None = None
) -> AsyncIterator[Store]:
    """Open a connected store, after Redis has answered once. Its clock is that of Redis unless another one is given.
    Raises `ConfigError` for the URL, `StoreUnavailable` without Redis, and `StoreFormat`."""
    config = config or StoreConfig()
    if not config.consumer:
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        config = structs.replace(config, consumer=name)
    with first_contact(url):
        link = await open_link(url, name=config.consumer, timeout=config.timeout, replicas=config.replicas)
    try:
        with first_contact(url):
            await link.meet()
            await require_format(link)
        hash_key = await load_hash_key(link)
        async with AsyncExitStack() as stack:
            if clock is None:
                clock = StoreClock()
                await clock.measure(link.call)
                await stack.enter_async_context(in_background(clock.keep(link.call), "clock"))
            store = Store(StoreContext(link, config, hash_key, clock))
            stack.push_async_callback(_close, store)
            await stack.enter_async_context(in_background(link.follow(), "follow"))
            keeping = keep_hash_key(link, clock, hash_key, store.replaced.set)
            await stack.enter_async_context(in_background(keeping, "hash key"))
            yield store
    finally:
        await link.aclose()


async def _close(store: Store) -> None:
    await store.pushes.aclose()
    await store.bell.aclose()
    with suppress(StoreError):  # the others notice it when the lease expires
        await store.queue.retire()
