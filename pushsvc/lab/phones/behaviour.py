"""What a phone does with what it gets, and what its network does to it, as a value. Pure.

Written as words: `ack=0.5,stay=30,away=5,nat=240,vanish`, and for a share of all phones `10%:ack=never`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec import Struct

from ...errors import PushsvcError


class UnknownBehaviour(PushsvcError):
    """A word names no behaviour, or its value is out of range."""


class Behaviour(Struct, frozen=True, kw_only=True):
    """The kind of a phone. Spans are seconds."""

    ack: float = 0.0
    """After how long it acknowledges what it has shown; infinite: never."""
    stay: float = math.inf
    """How long it stays, on average, until it goes away and comes back from another address."""
    away: float = 5.0
    """How long it is away, on average."""
    vanish: bool = False
    """It goes without a word: its network drops everything, and the gateway sees no end."""
    nat: float = math.inf
    """After how long without traffic its network forgets the connection and swallows everything."""
    doubled: bool = False
    """Each acknowledgement is sent twice."""
    torn: bool = False
    """Its messages are cut into fragments, and its bytes into pieces."""
    read: float = math.inf
    """Bytes that it reads in a second."""
    heartbeat: float | None = None
    """The interval between pings that it requests."""
    foreground: bool | None = None


ORDINARY: Final = Behaviour()


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise ValueError
    return number


def _positive(text: str) -> float:
    if not (number := _seconds(text)):
        raise ValueError
    return number


_WORDS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "ack": ("SECONDS|never", lambda text: math.inf if text == "never" else _seconds(text)),
    "stay": ("SECONDS", _positive),
    "away": ("SECONDS", _seconds),
    "nat": ("SECONDS", _positive),
    "read": ("BYTES_A_SECOND", _positive),
    "heartbeat": ("SECONDS", _positive),
}
_FLAGS: Final[dict[str, tuple[str, bool]]] = {
    "vanish": ("vanish", True),
    "doubled": ("doubled", True),
    "torn": ("torn", True),
    "background": ("foreground", False),
    "foreground": ("foreground", True),
}
GRAMMAR: Final = ", ".join([f"{name}={value}" for name, (value, _) in _WORDS.items()] + list(_FLAGS))
"""Every word that a behaviour may have."""
_SHARE: Final = re.compile(r"(\d+(?:\.\d+)?)%:(.*)", re.DOTALL)


def parse(text: str) -> Behaviour:
    """Return the behaviour that words describe. Raises `UnknownBehaviour`."""
    fields: dict[str, Any] = {}
    for word in filter(None, text.split(",")):
        name, given, value = word.partition("=")
        if not given and name in _FLAGS:
            field, fields_value = _FLAGS[name]
            fields[field] = fields_value
            continue
        try:
            if name not in _WORDS:
                raise ValueError
            fields[name] = _WORDS[name][1](value)
        except ValueError:
            raise UnknownBehaviour(f"{word!r} is not a behaviour of a phone: {GRAMMAR}") from None
    return Behaviour(**fields)


def shares(kinds: Iterable[str]) -> list[tuple[float, Behaviour]]:
    """Return the shares, from 0 to 1, of kinds such as `10%:ack=never`; what is left behaves in the ordinary way.

    Raises `UnknownBehaviour`.
    """
    found: list[tuple[float, Behaviour]] = []
    for text in kinds:
        match = _SHARE.fullmatch(text)
        if match is None:
            parse(text)  # names a word that is none first
            raise UnknownBehaviour(f"{text!r} has no share of the phones: write 10%:{text}")
        found.append((float(match[1]) / 100, parse(match[2])))
    left = 1 - sum(share for share, _ in found)
    if left < -1e-9:
        raise UnknownBehaviour("the shares of phones add up to more than 100%")
    return [*found, (max(0.0, left), ORDINARY)]


def assign(count: int, kinds: Iterable[tuple[float, Behaviour]]) -> list[Behaviour]:
    """Return a behaviour for each of `count` phones: exact shares, in turn with the rest."""
    placed: list[tuple[float, Behaviour]] = []
    left = count
    for share, kind in kinds:
        own = min(left, round(share * count))
        left -= own
        placed += [((place + 0.5) / own, kind) for place in range(own)]
    placed += [(1.0, ORDINARY)] * left
    return [kind for _, kind in sorted(placed, key=lambda each: each[0])]
