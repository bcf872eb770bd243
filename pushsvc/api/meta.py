"""The handlers for the service itself: health, readiness, metrics, documentation. None needs a key on the machine
itself. Names of apps and volumes, and the providers' errors, are not public: where the API listens for other machines,
or a proxy has passed a request on, figures and details need a key with the scope `admin` (see
`plans.keyless_requests`)."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any, Final

from .. import telemetry
from ..errors import Fault, NotFound, Unavailable
from ..ports.conditions import Condition, Kind, texts
from . import guide
from .answers import Health
from .call import Handler
from .http.exchange import Reply, Request
from .http.params import HeaderParam
from .http.problems import RETRY_AFTER
from .ports import ApiPorts

_POLICY: Final = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_ACTIVE_PAGE: Final = {
    **_PAGE,
    "Content-Security-Policy": f"{_POLICY}; script-src 'self'; connect-src 'self'; require-trusted-types-for 'script'",
}

IF_NONE_MATCH: Final = HeaderParam(
    "If-None-Match", "The `ETag` of what the caller has already.", {"type": "string"}, ", ".join
)


async def get_healthz(_: ApiPorts, __: Request) -> Reply:
    """Answer that the process lives."""
    return Reply(Health("ok"))


async def get_readyz(ports: ApiPorts, request: Request) -> Reply:
    """Answer whether pushes are accepted: 503 names each part that is not ready. Held, frozen and unserved routes are
    named but do not affect the status. A caller who may not see details only gets the status; one whose key cannot be
    checked because a part is away gets its name."""
    conditions = ports.conditions
    failing = await conditions.ready()
    if failing and not request.trusted and not request.unchecked:
        raise Unavailable("Not ready.", retry_after=RETRY_AFTER)
    if failing:
        faults = [Fault(name, why if request.trusted else "is away") for name, why in failing.items()]
        raise Unavailable(f"Not ready: {', '.join(failing)}.", faults=faults, retry_after=RETRY_AFTER)
    if not request.trusted:
        return Reply(Health("ready"))
    found = await conditions.now()
    maps: tuple[Kind, ...] = ("held", "frozen", "unserved", "full")
    details: dict[str, Any] = {"conditions": found, **{kind: texts(found, kind) for kind in maps}}
    details["notes"] = [_note(each) for each in found if each.kind not in maps]
    return Reply(Health("ready", **{name: state for name, state in details.items() if state}))


def _note(condition: Condition) -> str:
    of = {"webhook": f"webhook of {condition.what}: "}
    named = f"{condition.what}: " if condition.kind in ("account", "audience", "quarantine") else ""
    since = f", since {condition.since}" if condition.kind == "reload" else ""
    return f"{of.get(condition.kind, named)}{condition.text}{since}"


async def get_metrics(ports: ApiPorts, _: Request) -> Reply:
    """Return the metrics in the format of Prometheus."""
    return Reply(await ports.conditions.metrics(), headers={"Content-Type": telemetry.CONTENT_TYPE})


async def get_openapi(ports: ApiPorts, _: Request) -> Reply:
    """Return the OpenAPI document, which any web page may load, so that tools in a browser work."""
    return Reply(ports.openapi, headers={"Access-Control-Allow-Origin": "*"})


async def get_docs(ports: ApiPorts, _: Request) -> Reply:
    """Return the documentation as a page without external resources."""
    return Reply(ports.page, headers=_ACTIVE_PAGE)


async def get_guide(_: ApiPorts, request: Request) -> Reply:
    """Return a page of the guide, the index where none is named."""
    params = request.params
    place = "/".join(params[part] for part in ("folder", "page") if part in params) or "index.md"
    pages = await asyncio.to_thread(guide.pages)  # the first call renders all of them
    found = pages.get(place) or pages.get(f"{place}.md")
    if found is None:
        raise NotFound("The guide has no such page; `/docs/guide` lists them.")
    return Reply(found, headers=_PAGE)


def asset(path: Path, media: str, *, origins: bool = False) -> Handler:
    """Return the handler of a file, which browsers keep. `origins`: any web page may load it."""
    body = path.read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {
        "Content-Type": f"{media}; charset=utf-8",
        "ETag": tag,
        "Cache-Control": "public, max-age=3600",
        "X-Content-Type-Options": "nosniff",
        **({"Access-Control-Allow-Origin": "*"} if origins else {}),
    }

    async def get_asset(_: ApiPorts, request: Request) -> Reply:
        if tag in request.params.get(IF_NONE_MATCH.name, ""):
            return Reply(status=304, headers=headers)
        return Reply(body, headers=headers)

    return get_asset


_HERE: Final = Path(__file__).parent
get_docs_style: Final = asset(_HERE / "docs.css", "text/css")
get_docs_script: Final = asset(_HERE / "docs.js", "text/javascript")
get_live_client: Final = asset(_HERE.parent / "live" / "clients" / "pushsvc-live.js", "text/javascript", origins=True)
