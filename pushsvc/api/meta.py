"""The calls about the service itself: alive, ready, measured, described. None needs a key on the machine itself.

Names of apps, volumes and the providers' errors are not for strangers: where the API listens for others too, figures
and details ask for a key of the scope `admin` (see `plans.api_is_open`).
"""

from __future__ import annotations

from typing import Any

from .. import telemetry
from ..errors import Fault, Unavailable
from .answers import Health
from .http.exchange import Reply, Request
from .http.problems import RETRY_AFTER
from .ports import ApiPorts


async def get_healthz(_: ApiPorts, __: Request) -> Reply:
    """The process answers."""
    return Reply(Health("ok"))


async def get_readyz(ports: ApiPorts, request: Request) -> Reply:
    """503 names each part that is not ready. A held or frozen route, or one that nobody serves, is named, but accepting
    goes on. Who may not see details hears whether it is ready, and no more."""
    conditions = ports.conditions
    failing = await conditions.ready()
    if failing and not request.trusted:
        raise Unavailable("Not ready.", retry_after=RETRY_AFTER)
    if failing:
        faults = [Fault(name, why) for name, why in failing.items()]
        raise Unavailable(f"Not ready: {', '.join(failing)}.", faults=faults, retry_after=RETRY_AFTER)
    if not request.trusted:
        return Reply(Health("ready"))
    said: dict[str, Any] = {
        "held": await conditions.held(),
        "frozen": await conditions.frozen(),
        "unserved": await conditions.unserved(),
        "full": ports.backlog.full() if ports.backlog is not None else {},
        "notes": await conditions.notes(),
    }
    return Reply(Health("ready", **{name: state for name, state in said.items() if state}))


async def get_metrics(ports: ApiPorts, _: Request) -> Reply:
    """The exposition."""
    return Reply(await ports.conditions.metrics(), headers={"Content-Type": telemetry.CONTENT_TYPE})


async def get_openapi(ports: ApiPorts, _: Request) -> Reply:
    """The document, readable from any web page, so that tools in a browser can load it."""
    return Reply(ports.openapi, headers={"Access-Control-Allow-Origin": "*"})


async def get_docs(ports: ApiPorts, _: Request) -> Reply:
    """A page without script, which loads nothing from anywhere."""
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
    }
    return Reply(ports.page, headers=headers)
