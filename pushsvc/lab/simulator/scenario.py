"""Scenarios: what a device token makes the simulator do. Pure.

A token that begins with `sim:` carries its own scenario, so that a test or a demonstration chooses each answer without
configuring the simulator beforehand, and a failing token can be between good ones in the same call::

    sim:<action>[,<action>]:<unique text>          only A-Z a-z 0-9 _ . , : -

FCM uses that text as the token; APNs uses its bytes in hexadecimal, since APNs tokens are hexadecimal.

Actions that answer or misbehave are played in order, one request after the other; `.N` means "for N requests", and
without it forever. After the last one everything is accepted::

    sim:Unregistered:a                  always 410 Unregistered
    sim:ServiceUnavailable.2:a          503 twice, then 200
    sim:stall.1,Unregistered:a          no answer to the first request, then 410 forever

Modifiers apply to every request of the token, or with `.N` to its first N: `slow-<ms>`, `since-<unix ms>` (the
timestamp of an APNs 410), `sender-<n>` (an FCM token of the simulator's nth project, from 0: for the others it is
SENDER_ID_MISMATCH), `retry-after-<s>` and `retry-at-<s>` (the Retry-After header in seconds or as a date that many
seconds ahead), `empty` (the status without a body).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from msgspec import Struct

PREFIX: Final = "sim:"

TRANSPORT: Final = {
    "ok": "accept the push",
    "stall": "never answer",
    "reset": "RST_STREAM with INTERNAL_ERROR",
    "refuse": "RST_STREAM with REFUSED_STREAM: not processed",
    "goaway": "GOAWAY by which this request and all later ones were not processed, then close",
    "goaway-graceful": "accept the push, and send the two GOAWAYs of an orderly shutdown",
    "drop": "close the TCP connection without an answer",
    "status": "status-<code>: that HTTP status with an unknown reason",
}
"""Actions besides the reasons of the providers, with their effect."""

MODIFIERS: Final = {
    "slow": "slow-<ms>: answer that many milliseconds late",
    "since": "since-<unix ms>: the timestamp in an APNs 410",
    "sender": "sender-<n>: the FCM token is one of the simulator's nth project, from 0",
    "retry-after": "retry-after-<s>: the Retry-After header, in seconds",
    "retry-at": "retry-at-<s>: the Retry-After header, as a date that many seconds from now",
    "empty": "answer the status without a body",
}

GRAMMAR: Final = (
    "A scenario is ACTION[,ACTION], such as slow-500 or ServiceUnavailable.2.\n"
    "ACTION.N applies to the first N requests, ACTION to all.\n"
    "An ACTION is the reason of an answer, from the lists below, or an act of the simulator:\n"
    + "\n".join(
        f"  {does}" if does.startswith(f"{name}-<") else f"  {name}: {does}"
        for name, does in (TRANSPORT | MODIFIERS).items()
    )
)
"""The syntax of a scenario, for users."""

_NUMBERED: Final = frozenset({"status", "slow", "since", "sender", "retry-after", "retry-at"})
_TEXT: Final = re.compile(r"sim:(?P<actions>[A-Za-z0-9_.,-]+):(?P<unique>[A-Za-z0-9_.,:-]+)")
_ACTION: Final = re.compile(
    r"(?P<name>[A-Za-z_]+(?:-[a-z]+)*)(?:-(?P<number>[0-9]{1,15}))?(?:\.(?P<times>[1-9][0-9]{0,8}))?"
)


class ScenarioError(ValueError):
    """The text is not a scenario. The error names the wrong part and what is possible."""


class Action(Struct, frozen=True):
    """An action: its name, its number if it has one, and the number of requests that it applies to (None: all)."""

    name: str
    number: int | None = None
    times: int | None = None

    def __str__(self) -> str:
        number = "" if self.number is None else f"-{self.number}"
        return f"{self.name}{number}" + ("" if self.times is None else f".{self.times}")


class Scenario(Struct, frozen=True):
    """A parsed token."""

    actions: tuple[Action, ...]
    unique: str

    def __str__(self) -> str:
        return f"{PREFIX}{','.join(map(str, self.actions))}:{self.unique}"


class Step(Struct, frozen=True):
    """The instruction for one request."""

    name: str = "ok"
    """A key of `TRANSPORT`, or a reason of the provider."""
    status: int | None = None
    delay_ms: int = 0
    since: int | None = None
    sender: int | None = None
    retry_after: int | None = None
    retry_at: int | None = None
    empty: bool = False

    @property
    def refuses(self) -> bool:
        """Whether the request is answered with a refusal: by a provider's reason, or by a status other than 200."""
        return self.name not in TRANSPORT or self.status not in (None, 200)


def nameable(reasons: Iterable[str]) -> list[str]:
    """Return those of a provider's reasons that a scenario can name, in alphabetical order. None has a space."""
    return sorted(filter(_ACTION.fullmatch, reasons), key=str.lower)


def _known(reasons: Iterable[str]) -> set[str]:
    return {*TRANSPORT, *MODIFIERS, *reasons}


def parse(text: str, reasons: Iterable[str]) -> Scenario:
    """Parse a scenario. `reasons` are the provider's reasons that it may contain. Raises `ScenarioError`."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ScenarioError("a scenario is sim:<action>[,<action>]:<unique text> of A-Z a-z 0-9 _ . , : - only")
    known = _known(reasons)
    return Scenario(tuple(_action(part, known) for part in found["actions"].split(",")), found["unique"])


def _action(text: str, known: set[str]) -> Action:
    found = _ACTION.fullmatch(text)
    if found is None or found["name"] not in known:
        raise ScenarioError(f"unknown action {text!r}{_similar(text, known)}")
    name, number, times = found["name"], found["number"], found["times"]
    if (name in _NUMBERED) != (number is not None):
        raise ScenarioError(
            f"{text!r} needs a number: {TRANSPORT.get(name) or MODIFIERS[name]}"
            if name in _NUMBERED
            else f"{text!r}: {name} takes no number; {name}.N applies to N requests"
        )
    if name == "status" and not 200 <= int(number) <= 599:
        raise ScenarioError(f"{text!r}: an HTTP status is a number from 200 to 599")
    return Action(name, None if number is None else int(number), None if times is None else int(times))


def fault_of(actions: str, reasons: Iterable[str]) -> str:
    """Return why no token can play these actions. `reasons` are those of all providers together."""
    try:
        parse(f"{PREFIX}{actions}:x", reasons)
    except ScenarioError as error:
        return str(error)
    return f"no provider has all of {actions!r}"


def _similar(text: str, known: set[str]) -> str:
    """Return a question that names the known action most similar to the text, in any case of letters; else nothing."""
    wanted, names = text.partition(".")[0], sorted(nameable(known))
    lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(wanted, names, n=1) or [
        lower[name] for name in difflib.get_close_matches(wanted.lower(), lower, n=1)
    ]
    return f": did you mean `{near[0]}`?" if near else ""


def step(scenario: Scenario, nth: int) -> Step:
    """Return the step of the token's request number `nth`, counted from 0."""
    name, status, before = "ok", None, 0
    modifiers: dict[str, int] = {}
    decided = False
    for action in scenario.actions:
        if action.name in MODIFIERS:
            if action.times is None or nth < action.times:
                modifiers[action.name] = action.number or 0
        elif not decided and (action.times is None or nth < before + action.times):
            name, status, decided = action.name, action.number, True
        else:
            before += action.times or 0
    return Step(
        name=name,
        status=status,
        delay_ms=modifiers.get("slow", 0),
        since=modifiers.get("since"),
        sender=modifiers.get("sender"),
        retry_after=modifiers.get("retry-after"),
        retry_at=modifiers.get("retry-at"),
        empty="empty" in modifiers,
    )


def _prepared(scenario: Scenario) -> tuple[Scenario, Step | None]:
    """Return a scenario, and its single step if it has no counts."""
    counted = any(action.times for action in scenario.actions)
    return scenario, None if counted else step(scenario, 0)


class Stage:
    """Plays scenarios, and counts the requests of tokens whose scenario has counts."""

    def __init__(self, reasons: Iterable[str]) -> None:
        words = frozenset(reasons)
        self._seen: dict[str, int] = {}
        self._parse = lru_cache(maxsize=4096)(lambda actions: _prepared(parse(f"{PREFIX}{actions}:x", words)))

    def next_step(self, token: str) -> Step:
        """Return the step for this request of the token, which must begin with `sim:`. Raises `ScenarioError`."""
        found = _TEXT.fullmatch(token)
        scenario, always = self._parse(found["actions"] if found else "")
        if always is not None:
            return always
        nth = self._seen.get(token, 0)
        self._seen[token] = nth + 1
        return step(scenario, nth)

    def reset(self) -> None:
        """Forget the counts of requests."""
        self._seen.clear()
