"""`to` of a push document: the distinct targets by route, or the audience to look up. Pure.

The same token twice in one push is one delivery, in whatever case an APNs token is written, and so is an FCM token
beside the id of its installation; the first of them is sent to. That goes for a token that is named for two
environments of APNs as well, with a warning: a token belongs to one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Final

from msgspec import Meta, Struct

from ...decoding import Checks, Rule
from ...errors import Fault
from ...model.devices import Audience, ByDevices, ByTopic, ByUsers, ByWhere, Environment, ToAll, name_fault
from ...model.identity import canonical, identity
from ...model.push import Platform, Target
from ...model.routing import RouteTable
from ...rules.where import MAX_LENGTH, WhereError, compile_where
from ...wording import names
from ..devices.document import Name
from ..rules import PlatformName, Rules, TokenCheck

TARGETS: Final = ("token", "fid", "topic", "condition", "channel", "activity", "push_to_start")
"""By which field a target is given; the field is the target's kind."""

# Plain JSON makes no reference cycles: these structs need not be looked at by the garbage collector (`gc=False`).


class TokenTarget(Struct, forbid_unknown_fields=True, gc=False):
    """One target by what its provider gave it: a device by its `token` (FCM: also `fid`), or at APNs a broadcast
    `channel`, one Live `activity`, or the right to start one (`push_to_start`). Exactly one of these."""

    platform: PlatformName
    token: Annotated[str | None, Meta(description="The device token (APNs) or registration token (FCM).")] = None
    fid: Annotated[str | None, Meta(description="A Firebase installation id, in place of `token`.")] = None
    topic: Annotated[str | None, Meta(description="A topic that FCM itself keeps, and not `to.topic`.")] = None
    condition: Annotated[
        str | None, Meta(description="A condition over FCM's own topics.", examples=["'news' in topics"])
    ] = None
    channel: Annotated[str | None, Meta(description="The id of a broadcast channel of APNs (iOS 18).")] = None
    activity: Annotated[str | None, Meta(description="The push token of one Live Activity.")] = None
    push_to_start: Annotated[str | None, Meta(description="A token by which Live Activities are started.")] = None
    environment: Annotated[
        Environment | None,
        Meta(
            description="Of an app that has an account in both environments of APNs: to which one the token belongs. "
            "Default: the account `apns`."
        ),
    ] = None


_Target = Annotated[TokenTarget, Rule('an object such as {"platform": "apns", "token": ".."}')]


class To(Struct, forbid_unknown_fields=True, gc=False):
    """The receivers, named in exactly one of these ways. What is named twice is one delivery."""

    tokens: Annotated[list[_Target], Meta(min_length=1)] | None = None
    devices: Annotated[
        Annotated[list[Name], Meta(min_length=1)] | None, Meta(description="Registered devices, by id.")
    ] = None
    users: Annotated[
        Annotated[list[Name], Meta(min_length=1)] | None, Meta(description="All devices of these users.")
    ] = None
    topic: Annotated[Name | None, Meta(description="All devices that are subscribed to it.", examples=["news"])] = None
    where: Annotated[
        Annotated[str, Meta(max_length=MAX_LENGTH)] | None,
        Meta(
            description="All devices for which an expression is true, over `platform`, `user`, `locale`, `timezone`, "
            "`app_version`, `environment`, `registered`, `last_seen` and `tags.NAME`, with `== != < <= > >= in not and "
            "or` and brackets.",
            examples=["tags.plan == 'pro' and locale in ('de', 'at')"],
        ),
    ] = None
    all: Annotated[bool | None, Rule("true"), Meta(description="All devices of the app: `true`, or leave it out.")] = (
        None
    )


# --- every fault ------------------------------------------------------------------------------------


def receiver_checks(rules: Rules) -> Checks:
    """Return what the types of the receivers do not say."""
    return {TokenTarget: partial(rules.target_faults, kinds=TARGETS), To: partial(_to_faults, rules=rules)}


def _to_faults(to: To, *, rules: Rules) -> Iterator[tuple[str, str]]:
    given = [name for name in To.__struct_fields__ if getattr(to, name) is not None]
    if not given:
        yield "", f"names no receivers: one of {names(To.__struct_fields__)} is needed"
    elif len(given) > 1:
        yield "", f"holds exactly one of {names(To.__struct_fields__)}; found {names(given)}"
    for way in ("tokens", "devices", "users"):
        many = getattr(to, way)
        if isinstance(many, list) and len(many) > rules.max_targets:
            yield way, f"holds {len(many):,} {way}, at most {rules.max_targets:,} are taken in one call"
    if isinstance(to.where, str):
        yield from (("where", fault) for fault in where_faults(to.where, rules))
    if to.all is False:
        yield "all", "expected true, found false"


def where_faults(text: str, rules: Rules) -> list[str]:
    """Return what is wrong with an expression."""
    try:
        compile_where(text, now=0, platforms=sorted(rules.checks))
    except WhereError as error:
        return [str(fault) for fault in error.faults]
    return []


# --- the right ones, quickly ------------------------------------------------------------------------


def receivers(to: To, rules: Rules) -> dict[Platform, tuple[Target, ...]] | Audience | None:
    """The targets, or whom to look up; None where one has a fault."""
    ways = (to.tokens, to.devices, to.users, to.topic, to.where, to.all)
    if ways.count(None) != len(ways) - 1:
        return None
    if to.tokens is not None:
        return None if len(to.tokens) > rules.max_targets else targets_of(to.tokens, rules.checks, rules.routes)
    if to.topic is not None:
        return ByTopic(to.topic) if name_fault(to.topic) is None else None
    if to.where is not None:
        return None if where_faults(to.where, rules) else ByWhere(to.where)
    if to.all is not None:
        return ToAll() if to.all else None
    names = to.devices or to.users or ()
    if len(names) > rules.max_targets or any(map(name_fault, names)):
        return None
    distinct = tuple(dict.fromkeys(names))
    return ByDevices(distinct) if to.devices else ByUsers(distinct)


def targets_of(
    tokens: list[TokenTarget], checks: Mapping[Platform, TokenCheck], routes: RouteTable
) -> dict[Platform, tuple[Target, ...]] | None:
    """The distinct targets by route, numbered in the order of the request; None where one has a fault."""
    groups: dict[Platform, tuple[TokenCheck, bool, set[str], set[tuple[str, str]], list[Target]]] = {}
    found: dict[Platform, list[Target]] = {}
    index = 0
    for entry in tokens:
        platform = entry.platform
        group = groups.get(platform)
        if group is None:
            check = checks.get(platform)
            if check is None:
                return None
            group = groups[platform] = (
                check,
                canonical(platform, "A") == "a",  # asked once: most pushes to many have thousands of one platform
                set(),
                set(),
                found.setdefault(routes.get((platform, None), platform), []),
            )
        check, caseless, seen, seen_others, targets = group
        if entry.environment is not None:
            targets = found.setdefault(routes.get((platform, entry.environment), platform), [])
        token = entry.token
        if token is not None:
            if not (entry.fid is entry.channel is entry.activity is entry.push_to_start is None):
                return None
            if not (entry.topic is entry.condition is None):
                return None
            if check(token, "token") is not None:
                return None
            # A text in lower case is no registration token: it is compared as it is.
            text, same = (lower := token.lower(), lower) if caseless else (token, identity(token))
            if same in seen:
                continue
            seen.add(same)
            targets.append(Target(index, text))
        else:
            other = _other(entry)
            if other is None:
                return None
            kind, text = other
            if check(text, kind) is not None:
                return None
            text = canonical(platform, text, kind)
            if text in seen if kind == "fid" else (kind, text) in seen_others:
                continue
            if kind == "fid":
                seen.add(text)
            else:
                seen_others.add((kind, text))
            targets.append(Target(index, text, None, kind))
        index += 1
    return {route: tuple(targets) for route, targets in found.items() if targets}


def _other(entry: TokenTarget) -> tuple[str, str] | None:
    """Kind and text of a target that is given by something else than its `token`; None where it is not by one thing."""
    given = [(kind, text) for kind in TARGETS if (text := getattr(entry, kind)) is not None]
    return given[0] if len(given) == 1 else None


def named_for_two(tokens: Sequence[TokenTarget], routes: RouteTable) -> tuple[Fault, ...]:
    """A warning at the first target that was named before for another account of its platform. All have been found to
    be without fault."""
    first: dict[tuple[Platform, str, str], Platform] = {}
    places = []
    for place, entry in enumerate(tokens):
        platform = entry.platform
        route = routes.get((platform, entry.environment), platform)
        kind, text = ("token", entry.token) if entry.token is not None else _other(entry) or ("", "")
        if first.setdefault((platform, kind, canonical(platform, text, kind)), route) != route:
            places.append(place)
    if not places:
        return ()
    more = f"; the same of {len(places) - 1:,} more" if len(places) > 1 else ""
    text = f"is named before for another environment, and a token belongs to one: it is sent to that one alone{more}"
    return (Fault(f"to.tokens[{places[0]}]", text),)
