"""The work of one process of `pushsvc live`: a gateway with its sockets, from its first connection to its last."""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Final

from msgspec import structs

from .. import telemetry
from ..live.gateway import Confirm, open_gateway
from ..live.gateway.http import routes
from ..live.sockets.config import SocketsConfig
from ..live.sockets.server import serve
from ..live.wheel import running_wheel
from ..model.delivery import Arrival
from ..model.live import denied, network
from ..ports.queue import Arrivals
from ..settings.live import LiveSettings
from ..settings.processes import share_address
from ..settings.schema import Settings
from .live_files import SPARE_FILES, live_tls, renew_tls
from .parts import ending_with, quiet_gc, raise_file_limit
from .plans import live_config
from .reload import Current, applying, following
from .state.figures import serve_part_metrics
from .state.flow import noting
from .state.workers import reporting
from .store import open_configured_store

STRANGERS: Final = 1024
"""Connections of one network without a valid token that a gateway bears at least; a large one a sixteenth of its own,
since devices behind a proxy that is not named in `live.proxies` all come from one address. A proxy on this machine
needs no name for that."""
PACE: Final = 200.0
"""Connections that a gateway which stops lets go in a second, if that does not take longer than `live.drain`: so few
do not need to be spread any further, and a gateway without any ends at once."""


async def run_live(settings: Settings, stop: asyncio.Event, *, listening: Callable[[str], None]) -> None:
    """Hold the connections of devices until `stop`, then let them go one after the other. `listening` is called with
    the URL. Raises `ConfigError`."""
    settings.require_live()
    raise_file_limit()
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    config, own, tls = live_config(settings), fitting(settings.live, files), live_tls(settings.live)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_configured_store(settings))
        current = Current(settings)
        await serve_part_metrics(stack, settings, "live")
        wheel = stack.enter_context(running_wheel())
        opened = open_gateway(
            config, store.live, confirming(store.arrivals), wheel, wall=store.seconds, version=version("pushsvc")
        )
        gateway = await stack.enter_async_context(opened)
        listener = serve(
            sockets_config(own, gateway.id, session_key=store.secret(b"live sessions"), tls=tls),
            gateway.make_peer,
            routes(gateway),
            wheel=wheel,
            forward=gateway.forward,
            accepts=gateway.accepts,
        )
        sockets = await stack.enter_async_context(listener)
        gateway.deliver = sockets.deliver
        quiet_gc()

        changed = config

        def check(newer: Settings) -> None:
            nonlocal changed
            # It goes on listening where it does.
            kept = structs.replace(newer.live, host=own.host, port=own.port, tls_cert=own.tls_cert)
            fresh = live_config(structs.replace(newer, live=kept))
            if tls is not None:
                renew_tls(tls, own)
            changed = fresh

        async def change() -> None:
            # Who is served, who is refused and which endpoints are announced; the other keys of [live] need a restart.
            sockets.deny(changed.deny_networks)
            gateway.use(changed)
            await report()

        async with (
            ending_with(store, stop),
            noting(store.flow),
            reporting(store, current, "live", lambda: gateway.config.apps) as report,
            applying(current, current.news(), change),
            following(current, stop, check=check),
        ):
            listening(sockets.url)
            await stop.wait()
            seconds = min(own.drain, sockets.connections / PACE)
            telemetry.get_logger("live").info("draining", connections=sockets.connections, seconds=round(seconds, 1))
            gateway.drain(seconds)
            await sockets.drain(seconds)


def sockets_config(
    live: LiveSettings, node: str, *, session_key: bytes = b"", tls: ssl.SSLContext | None = None
) -> SocketsConfig:
    """Return the sockets' part of the configuration. `node` is the name of this gateway."""
    return SocketsConfig(
        host=live.host,
        port=live.port,
        reuse_port=share_address(live.processes),
        tls=tls,
        node=node,
        session_key=session_key,
        max_connections=live.max_connections,
        strangers=max(STRANGERS, live.max_connections // 16),
        allowed_origins=live.allowed_origins,
        proxies=tuple(map(network, live.proxies)),
        deny_networks=denied(live.deny).networks,
    )


def fitting(live: LiveSettings, files: int) -> LiveSettings:
    """Return the configuration with as many connections as a process with `files` open files at most can hold: what it
    cannot accept would wait in vain, and no device would be asked to try again."""
    most = (files - SPARE_FILES) * 8 // 9  # an eighth above it is accepted, and answered with a temporary error
    if live.max_connections <= most:
        return live
    telemetry.get_logger("live").warning("live_connections_limited", files=files, connections=most)
    return structs.replace(live, max_connections=max(1, most))


def confirming(arrivals: Arrivals) -> Confirm:
    """Return the function that ends acknowledged deliveries. What had ended already is counted: another channel has
    carried it as well."""

    async def confirm(app: str, acknowledged: Sequence[Arrival]) -> None:
        ended = await arrivals.arrived(app, acknowledged)
        telemetry.LIVE_DUPLICATES.labels(app).inc(max(0, len(acknowledged) - ended))

    return confirm
