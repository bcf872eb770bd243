"""What an outcome says about its route, as opposed to its delivery. Pure.

outcome                                              means
Misconfigured of a push that chose nothing           the route's credentials are refused
Throttled with scope `route`                         the provider wants less of everything
Throttled with scope `token`                         may concern the token only; for many in a row, the route
Unavailable: no answer in time                       silence
Unavailable: a status that judges no request         the provider, or what stands before it, is in trouble
Unavailable: the connection broke, was refused       the connection to the provider is in trouble
Unavailable: a part that has its own connections     nothing about the route
Misconfigured of a part                              the provider works
Misconfigured of a push's own choice                 the provider works, if it was in trouble; nothing about the route's
                                                     credentials or a throttle
Misconfigured of an account that is not used now     nothing
caused by our own closing or a dry run               nothing
everything else                                      the provider works: it judged the request itself, or the
                                                     device has yet to acknowledge it
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from ...model.delivery import Expired, Misconfigured, Outcome, Throttled, Unavailable, Unconfirmed

Cause: TypeAlias = Literal["credentials", "throttled", "tokens_throttled", "unavailable", "timeout", "unreachable"]

AT_ONCE: Final = frozenset({"credentials", "throttled"})
"""Causes that one answer proves, because it is about the route itself. The others need many answers."""

IDLE: Final = 400
"""The status with which APNs says of one connection that it was idle for too long; other statuses of `Unavailable` are
5xx, redirects and those of a server that has not looked at the request."""

_BROKEN: Final = frozenset({"unreachable", "connection_lost", "reset", "protocol_error", "response_too_large"})

_TEXTS: Final[dict[Cause, tuple[str, str]]] = {
    "throttled": (
        "the provider asks for fewer requests ({detail})",
        "it is probed as it says; ask it for more quota, or set `limits.per_app` or the provider's `quota`",
    ),
    "tokens_throttled": (
        "the provider refuses one token after the other ({detail})",
        "it is probed; send less to each token, see `limits.per_token`",
    ),
    "unavailable": (
        "the provider is in trouble ({detail})",
        "it is probed; look at its status page, and at `endpoint` and proxies where it is not the provider that "
        "answers",
    ),
    "timeout": (
        "the provider takes requests and does not answer within `retry.request_timeout`",
        "it is probed; look at its status page and at proxies and firewalls on the way",
    ),
    "unreachable": (
        "connections to the provider break ({detail})",
        "look at network, firewall, proxy and `endpoint`",
    ),
}
"""What is wrong, and what to do."""

SILENCE: Final = (
    "nothing at all comes from the provider, not even the answer to a PING: its requests are given "
    "`retry.request_timeout`, and then sent again; look at its status page and at proxies and firewalls on the way"
)
"""The cause that is reported of a silent provider before its requests time out."""

UNANSWERED: Final = (
    "the provider takes requests and has answered none for some seconds: each is given `retry.request_timeout`, and "
    "then sent again; look at its status page and at proxies and firewalls on the way"
)
"""The same where it answers PINGs."""


def cause_of(outcome: Outcome) -> Cause | Literal["works"] | None:
    """Return the trouble of the route that the outcome indicates, `works` for none, or None if it says nothing."""
    match outcome:
        case Misconfigured(part=part, chosen=chosen):
            return None if part or chosen else "credentials"
        case Throttled(scope=scope):
            return "throttled" if scope == "route" else "tokens_throttled"
        case Unavailable(part=part) if part:
            return None
        case Unavailable(status=status, reason=reason):
            if status and status != IDLE:
                return "unavailable"
            if reason == "timeout":
                return "timeout"
            return "unreachable" if reason in _BROKEN else None
        case Expired():
            return None
        case Unconfirmed():
            return "works"
        case _:
            # A dry run that the provider has no word for has no status.
            return "works" if outcome.status else None


def text_of(cause: Cause, detail: str, remedy: str = "") -> str:
    """Return a text for operators: what is wrong and what to do. A `remedy` of the provider is better than ours."""
    what, usual = _TEXTS[cause]
    return f"{what.format(detail=detail)}: {remedy or usual}"
