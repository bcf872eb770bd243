"""The stream of the figures of an app, as server-sent events
(https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Final

import msgspec

from ...errors import StoreUnavailable
from ...problems import problem
from ..http.exchange import Reply, Request
from ..http.problems import away
from ..ports import ApiPorts

EVERY: Final = 2.0
"""Seconds between two events."""
LIFE: Final = 60.0
"""Seconds after which the browser must ask again, so that a stream does not outlive its session."""
_encode: Final = msgspec.json.Encoder().encode


async def get_stream(ports: ApiPorts, request: Request) -> Reply:
    """Return the figures of the app, now and every two seconds."""
    # A proxy that collects answers would hold the events back.
    return Reply(pieces=_events(ports, request), headers={"X-Accel-Buffering": "no"})


async def _events(ports: ApiPorts, request: Request) -> AsyncGenerator[bytes]:
    ends = ports.monotonic() + LIFE
    yield b"retry: 300\n\n"
    while ports.monotonic() < ends and not ports.closing.is_set() and not request.gone():
        try:
            yield _event("stats", await ports.admin.stats(request.app.name))
        except StoreUnavailable:
            yield _event("problem", problem(away()))
        with suppress(TimeoutError):
            await asyncio.wait_for(ports.closing.wait(), EVERY)


def _event(name: str, document: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(document))
