"""Everything that is wrong with a push document, at once: a careful walk over plain JSON values. Pure.

It runs only for bodies that are refused, so it spends its time on saying well what was expected, what was found and
what to do. No message repeats a token or a long value.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, get_args

from ...errors import Fault
from ...model.devices import Environment, name_fault
from ...model.push import LANES, Platform
from ...model.routing import RouteTable
from ...ports.provider import Renderer
from ...rules.where import WhereError, compile_where
from ..http.depth import MAX_DEPTH, too_deep
from ..http.instants import parse_send_at
from ..http.wording import expected, join, kind, names, secret_kind
from . import live_activity

MAX_TTL: Final = 2_419_200
"""28 days, FCM's limit and its default (https://firebase.google.com/docs/cloud-messaging/customize-messages/setting-message-lifespan)."""
MAX_BADGE: Final = 2**31 - 1
LIMIT: Final = 1000
"""How many faults are listed."""
VISIBLE: Final = ("title", "subtitle", "body", "image", "sound", "badge")
"""The fields of a notification that the user notices."""

ENVIRONMENTS: Final[tuple[str, ...]] = get_args(Environment)
TARGETS: Final = ("token", "fid", "topic", "condition", "channel", "activity", "push_to_start")
"""By which field a target is given; the field is the target's kind."""
_SUGGESTIONS: Final = 20  # Beyond so many unknown names a likeness is not worth its time.


@dataclass(frozen=True)
class Rules:
    """What depends on the app: its name, the token checks of its platforms, and the platforms that exist at all."""

    app: str
    checks: Mapping[Platform, Callable[[str, str], str | None]]
    """By configured platform its `Renderer.token_fault`."""
    known: frozenset[Platform]
    max_targets: int = 10_000
    routes: RouteTable = field(default_factory=dict)
    """Which account a token goes by, where tokens belong to an environment."""

    @classmethod
    def of(
        cls,
        app: str,
        platforms: frozenset[Platform],
        renderers: Mapping[Platform, Renderer],
        *,
        max_targets: int = 10_000,
        routes: RouteTable | None = None,
    ) -> Rules:
        """The rules of an app with these platforms, of those that there are renderers for."""
        checks = {name: renderers[name].token_fault for name in sorted(platforms & renderers.keys())}
        return cls(app, checks, frozenset(renderers), max_targets, routes or {})


@dataclass
class Found:
    """The faults, at most `LIMIT`; `more` says that there were others."""

    items: list[Fault] = field(default_factory=list)
    more: bool = False
    suggestions: int = 0

    def add(self, path: str, message: str) -> None:
        if len(self.items) >= LIMIT:
            self.more = True
            raise Enough
        self.items.append(Fault(path or "$", message))


class Enough(Exception):
    """The list is full."""


def walk(value: Any, rules: Rules, now: int) -> Found:
    """Every fault of the document that `value` is at `now` (Unix ms), in the order of the document."""
    found = Found()
    with suppress(Enough):
        _push(value, rules, now, found)
    return found


# --- shapes -----------------------------------------------------------------------------------------

Check = Callable[[Any, str, Found], None]


def _text(value: Any, path: str, found: Found, *, least: int = 0, most: int | None = None) -> None:
    if not isinstance(value, str):
        found.add(path, expected("a string", value))
    elif len(value) < least:
        found.add(path, "must not be empty")
    elif most is not None and len(value) > most:
        found.add(path, f"is {len(value):,} characters long, at most {most:,} are taken")


def _whole(value: Any, path: str, found: Found, *, least: int, most: int) -> None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        found.add(path, expected("a whole number", value))
    elif not least <= value <= most:
        found.add(path, f"must be from {least:,} to {most:,}, found {kind(value)}")


def _flag(value: Any, path: str, found: Found) -> None:
    if not isinstance(value, bool):
        found.add(path, expected("true or false", value))


def _send_at(value: Any, path: str, found: Found, *, now: int) -> None:
    if not isinstance(value, str):
        found.add(path, expected("a string", value))
        return
    try:
        parse_send_at(value, now)
    except ValueError as error:
        found.add(path, str(error))


def _choice(value: Any, path: str, found: Found, *, options: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in options:
        found.add(path, expected("one of " + ", ".join(f'"{option}"' for option in options), value))


def check_name(value: Any, path: str, found: Found) -> None:
    """The id of a device or a user, or the name of a topic."""
    if not isinstance(value, str):
        found.add(path, expected("a string", value))
    elif (fault := name_fault(value)) is not None:
        found.add(path, fault)


def _true(value: Any, path: str, found: Found) -> None:
    if value is not True:
        found.add(path, expected("true", value))


def check_fields(value: dict[str, Any], path: str, found: Found, checks: Mapping[str, Check]) -> None:
    """Check each field that is given; null is the same as leaving it out."""
    for name, item in value.items():
        check = checks.get(name)
        if check is None:
            found.add(join(path, name), _unknown(name, checks, found))
        elif item is not None:
            check(item, join(path, name), found)


def _unknown(name: str, known: Collection[str], found: Found) -> str:
    if len(name) <= 40 and found.suggestions < _SUGGESTIONS:
        found.suggestions += 1
        if near := difflib.get_close_matches(name, known, 1):
            return f"unknown field; did you mean `{near[0]}`?"
    return "unknown field"


# --- the document -----------------------------------------------------------------------------------


def _notification(value: Any, path: str, found: Found) -> None:
    if isinstance(value, dict):
        check_fields(value, path, found, _NOTIFICATION)
    else:
        found.add(path, expected("an object", value))


def _live_activity(value: Any, path: str, found: Found) -> None:
    if isinstance(value, dict):
        check_fields(value, path, found, dict.fromkeys(live_activity.FIELDS, _activity_field))
    else:
        found.add(path, expected("an object", value))


def _activity_field(value: Any, path: str, found: Found) -> None:
    if (fault := live_activity.fault_of(path.rpartition(".")[2], value)) is not None:
        found.add(path, fault)


def _data(value: Any, path: str, found: Found) -> None:
    if not isinstance(value, dict):
        found.add(path, expected("an object of strings", value))
        return
    for name, item in value.items():
        if not isinstance(item, str):
            found.add(join(path, name), f"{expected('a string', item)}; the providers carry strings only")


_NOTIFICATION: Final[dict[str, Check]] = {
    "title": _text,
    "subtitle": _text,
    "body": _text,
    "image": _text,
    "sound": _text,
    "badge": partial(_whole, least=0, most=MAX_BADGE),
    "link": _text,
    "category": _text,
    "thread": _text,
    "channel": _text,
}

_PUSH: Final[dict[str, Check]] = {
    "notification": _notification,
    "live_activity": _live_activity,
    "data": _data,
    "lane": partial(_choice, options=LANES),
    "priority": partial(_choice, options=("high", "normal")),
    "push_type": partial(_text, least=1, most=32),
    "silent": _flag,
    "ttl": partial(_whole, least=0, most=MAX_TTL),
    "collapse": partial(_text, least=1),
    "dry_run": _flag,
}


def _push(value: Any, rules: Rules, now: int, found: Found) -> None:
    if not isinstance(value, dict):
        found.add("", expected("a push document, which is an object", value))
        return
    checks: dict[str, Check] = {
        **_PUSH,
        "to": partial(_to, rules=rules),
        "send_at": partial(_send_at, now=now),
        "overrides": partial(_overrides, rules=rules),
    }
    if value.get("to") is None:
        found.add("to", "is missing: it says who receives the push")
    check_fields(value, "", found, checks)
    _content(value, found)


def _content(value: dict[str, Any], found: Found) -> None:
    notification, data, overrides = value.get("notification"), value.get("data"), value.get("overrides")
    activity = value.get("live_activity")
    shapes = (notification, data, overrides)
    # A wrong type was already named; whether it would have held anything is then not to be known.
    if all(shape is None or isinstance(shape, dict) for shape in shapes):
        says = isinstance(notification, dict) and any(item is not None for item in notification.values())
        payload = isinstance(overrides, dict) and any(
            not isinstance(item, dict) or has_payload(item) for item in overrides.values()
        )
        if not says and not data and not payload and activity is None:
            found.add(
                "", "says nothing: `notification`, `live_activity`, `data` or an override with a payload is needed"
            )
    if isinstance(activity, dict):
        shown = [
            name for name in _NOTIFICATION if isinstance(notification, dict) and notification.get(name) is not None
        ]
        for name, fault in live_activity.disagreements(activity, shown, silent=value.get("silent") is True):
            found.add(join("live_activity", name) if name else "live_activity", fault)
    if value.get("silent") is True and isinstance(notification, dict):
        seen = [name for name in VISIBLE if notification.get(name) is not None]
        if seen:
            found.add("silent", f"a silent push shows nothing: leave out `silent`, or {names(seen)} of `notification`")


def has_payload(override: dict[str, Any]) -> bool:
    """Whether a platform's override holds anything to send, rather than only how to send it."""
    return any(name != "headers" for name in override)


def _overrides(value: Any, path: str, found: Found, *, rules: Rules) -> None:
    if not isinstance(value, dict):
        found.add(path, expected("an object of one object a platform", value))
        return
    for platform, item in value.items():
        place = join(path, platform)
        if platform not in rules.known:
            found.add(place, f"unknown platform; known are {names(sorted(rules.known))}")
        elif not isinstance(item, dict):
            found.add(place, expected("an object", item))
        elif too_deep(item):
            found.add(place, f"is nested more than {MAX_DEPTH} levels deep")


# --- the receivers ----------------------------------------------------------------------------------


def _to(value: Any, path: str, found: Found, *, rules: Rules) -> None:
    if not isinstance(value, dict):
        found.add(path, expected('an object such as {"tokens": [..]}', value))
        return
    checks: dict[str, Check] = {
        "tokens": partial(_many, what="token", check=partial(_token, rules=rules), rules=rules),
        "devices": partial(_many, what="device", check=check_name, rules=rules),
        "users": partial(_many, what="user", check=check_name, rules=rules),
        "topic": check_name,
        "where": partial(_where, rules=rules),
        "all": _true,
    }
    given = [name for name in checks if value.get(name) is not None]
    if not given:
        found.add(path, f"names no receivers: one of {names(checks)} is needed")
    elif len(given) > 1:
        found.add(path, f"holds exactly one of {names(checks)}; found {names(given)}")
    check_fields(value, path, found, checks)


def _many(value: Any, path: str, found: Found, *, what: str, check: Check, rules: Rules) -> None:
    if not isinstance(value, list):
        found.add(path, expected("a list", value))
        return
    if not value:
        found.add(path, f"is empty: at least one {what} is needed")
    if len(value) > rules.max_targets:
        found.add(path, f"holds {len(value):,} {what}s, at most {rules.max_targets:,} are taken in one call")
    for index, item in enumerate(value):
        check(item, f"{path}[{index}]", found)


def _where(value: Any, path: str, found: Found, *, rules: Rules) -> None:
    if not isinstance(value, str):
        found.add(path, expected("an expression, which is a string", value))
        return
    try:
        compile_where(value, now=0, platforms=sorted(rules.checks))
    except WhereError as error:
        for fault in error.faults:
            found.add(path, str(fault))


def _token(value: Any, path: str, found: Found, *, rules: Rules) -> None:
    if not isinstance(value, dict):
        found.add(path, f'expected an object such as {{"platform": "apns", "token": ".."}}, found {secret_kind(value)}')
        return
    for name in value:
        if name not in ("platform", "environment", *TARGETS):
            found.add(join(path, name), _unknown(name, ("platform", "environment", *TARGETS), found))
    environment = value.get("environment")
    if environment is not None and (not isinstance(environment, str) or environment not in ENVIRONMENTS):
        found.add(f"{path}.environment", f"must be one of {names(ENVIRONMENTS)}")
    check = platform_check(value, path, found, rules)
    given = [name for name in TARGETS if value.get(name) is not None]
    if not given:
        found.add(f"{path}.token", "is missing")
    if len(given) > 1:
        many = "both" if len(given) == 2 else "all of them"
        found.add(path, f"holds either {' or '.join(f'`{name}`' for name in given)}, not {many}")
    for name in given:
        text = value[name]
        if not isinstance(text, str):
            found.add(f"{path}.{name}", f"expected a string, found {secret_kind(text)}")
        elif check is not None and (fault := check(text, name)) is not None:
            found.add(f"{path}.{name}", fault)


def platform_check(
    value: dict[str, Any], path: str, found: Found, rules: Rules
) -> Callable[[str, str], str | None] | None:
    """The token check of the target's platform, or None when there is no such platform to ask."""
    platform = value.get("platform")
    path = join(path, "platform")
    if "platform" not in value:
        found.add(path, f"is missing: one of {names(sorted(rules.known))}")
    elif not isinstance(platform, str):
        found.add(path, expected("a string", platform))
    elif platform in rules.checks:
        return rules.checks[platform]
    elif platform in rules.known:
        remedy = f"[apps.{rules.app}.{platform}]"
        found.add(path, f"{platform} is not configured for the app {rules.app}: add {remedy} to the configuration")
    else:
        found.add(path, f"unknown platform; known are {names(sorted(rules.known))}")
    return None
