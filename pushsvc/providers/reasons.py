"""What reasons mean and what to do about them, by the table of a provider; and what those mean that no provider gives,
of the way to it and of answers that its documents do not name. Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final

from ..model.delivery import Unavailable
from ..model.finding import Explained
from .clocks import SIGNIFICANT, clock_hint

RENEWED: Final = Unavailable(reason="renewed")
"""The outcome of a delivery that was refused and is not sent again by the provider itself, because it has waited since,
has expired or was cancelled: its submitter knows whether it may still go."""
UNJUDGED: Final = frozenset({408, 421, 425, 499})
"""Statuses below 500 of a server that has not looked at what was asked, or has let it be, so that they do not judge it:
Request Timeout and Misdirected Request (RFC 9110, 15.5.9 and 15.5.20), Too Early (RFC 8470, 5.2), and that of
`CANCELLED` (https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto)."""


def later(meaning: str) -> Explained:
    """Return what a reason means that is the provider's trouble alone."""
    return Explained(meaning, "Replay when the route sends again.", retryable=True)


_WAY: Final[dict[str, Explained]] = {
    "timeout": later("The provider did not answer in time."),
    "unreachable": Explained(
        "The provider could not be reached.",
        "Look at network, DNS and proxy with `pushsvc check`, then replay.",
        retryable=True,
    ),
    **dict.fromkeys(
        ("connection_lost", "reset", "closing", "protocol_error"),
        later("The connection to the provider broke before its answer."),
    ),
    "renewed": later("It was refused for credentials that were renewed then."),
    "response_too_large": Explained(
        "The answer was too large to come from the provider.", "Look at the proxy in front of it, then replay."
    ),
}
_BUSY: Final = later("The provider could not accept it in any of the attempts.")
_REFUSED: Final = Explained("The provider refuses this push.", "Correct what the reason names, then replay.")
UNEXPLAINED: Final = Explained("The delivery was given up.", "Look at the push, then replay.")


def explain(reason: str, status: int, known: Mapping[str, Explained]) -> Explained:
    """Return what a reason means: by the provider's own table, else by what happened on the way, else by the status."""
    found = known.get(reason) or _WAY.get(reason)
    if found is not None:
        return found
    if status == 0:
        return UNEXPLAINED
    return _BUSY if status == 429 or status in UNJUDGED or not 400 <= status < 500 else _REFUSED


def remedy(reason: str, skew: float, known: Mapping[str, str], timed: Container[str]) -> str:
    """Return the remedy for a refusal of our identity, by the provider's own table, or an empty text. `skew` is how
    many seconds the provider's clock is ahead of ours, as far as is known; a wrong clock may be the cause of a reason
    in `timed`."""
    found = known.get(reason, "")
    return f"{found}; {clock_hint(skew)}" if found and (reason in timed or abs(skew) >= SIGNIFICANT) else found
