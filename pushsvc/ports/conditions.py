"""What an operator should know of the service now: the one notion that `/readyz`, `stats`, the administration API, the
metrics and the log share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, Protocol, TypeAlias

from msgspec import Struct

from ..model.instants import instant

Kind: TypeAlias = Literal[
    "redis",
    "emptied",
    "memory",
    "held",
    "unserved",
    "full",
    "audience",
    "silent",
    "frozen",
    "webhook",
    "reload",
    "restart",
    "account",
    "quarantine",
]
Severity: TypeAlias = Literal["critical", "warning"]

SEVERITIES: Final[Mapping[Kind, Severity]] = {
    "redis": "critical",
    "emptied": "critical",
    "memory": "critical",
    "held": "critical",
    "unserved": "critical",
    "full": "critical",
    "audience": "critical",
    "silent": "warning",
    "frozen": "warning",
    "webhook": "warning",
    "reload": "warning",
    "restart": "warning",
    "account": "warning",
    "quarantine": "warning",
}
"""All kinds. Where one is critical, something is not accepted or not sent."""


class Condition(Struct, frozen=True, kw_only=True):
    """A condition that lasts, with its cause and its remedy."""

    kind: Kind
    severity: Severity
    what: str
    """What it is about: a route (`shop/apns`) or a part of one (`shop/fcm/apple`), a part of the service (`dispatch`),
    a process, an app, or `queue`."""
    app: str = ""
    """The app that it concerns; empty where it is the whole service."""
    reason: str = ""
    """The short name of the cause, as in metrics: `InvalidProviderToken`, `throttled`."""
    cause: str
    remedy: str
    since: str | None = None
    """RFC 3339; None where nothing has recorded it."""
    waiting: int | None = None
    """Deliveries that wait because of it, where that is known."""

    @property
    def text(self) -> str:
        """Return cause and remedy as one line."""
        return f"{self.cause}: {self.remedy}"


def condition(kind: Kind, what: str, cause: str, remedy: str, *, since: int | None = None, **more: object) -> Condition:
    """Return a condition. `since` is in Unix ms."""
    fields = {"severity": SEVERITIES[kind], "since": None if since is None else instant(since), **more}
    return Condition(kind=kind, what=what, cause=cause, remedy=remedy, **fields)  # type: ignore[arg-type]  # its own fields


def texts(conditions: Iterable[Condition], kind: Kind) -> dict[str, str]:
    """Return the conditions of a kind as texts, by what they are about."""
    found: dict[str, str] = {}
    for each in conditions:
        if each.kind == kind:
            found[each.what] = f"{found[each.what]}; {each.text}" if each.what in found else each.text
    return found


def ordered(conditions: Iterable[Condition]) -> list[Condition]:
    """Return the conditions with the critical ones first, then as `SEVERITIES` has their kinds, then by name."""
    kinds = list(SEVERITIES)
    return sorted(conditions, key=lambda each: (each.severity, kinds.index(each.kind), each.what))


class Conditions(Protocol):
    async def ready(self) -> Mapping[str, str]:
        """Return the parts without which nothing is accepted, with the reason; empty means ready."""

    async def held(self) -> Mapping[str, str]:
        """Return the routes that do not send now, `app/platform`, with the reason and the remedy."""

    async def now(self) -> Sequence[Condition]:
        """Return all conditions, the critical ones first."""

    async def metrics(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
