"""`to` of a push document: the distinct targets by route, or the audience to look up. Pure.

The same token twice in one push is one delivery, in whatever case an APNs token is written, and so is an FCM token
beside the id of its installation; the first of them is used. The same holds for a token that is named for two
environments of APNs, with a warning: a token belongs to one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct
from msgspec.structs import astuple

from ...decoding import Checks, Rule, right
from ...errors import Fault
from ...model.address import Addresses, Check, Form
from ...model.devices import Audience, ByDevices, ByTopic, ByUsers, ByWhere, Environment, ToAll, name_fault
from ...model.push import Platform, Target
from ...rules.where import MAX_LENGTH, WhereError, compile_where
from ...wording import names
from ..devices.document import Name
from ..rules import PlatformName, Rules, extended

# Plain JSON makes no reference cycles, so the garbage collector need not examine these structs (`gc=False`).


class TokenTarget(Struct, forbid_unknown_fields=True, gc=False):
    """One target, named by exactly one of the addresses that its platform has."""

    platform: PlatformName
    environment: Annotated[
        Environment | None,
        Meta(
            description="Of an app that has an account in both environments of APNs: to which one the token belongs. "
            "Default: the account `apns`."
        ),
    ] = None


class To(Struct, forbid_unknown_fields=True, gc=False):
    """The receivers, named in exactly one of these ways. A receiver that is named twice gets one delivery."""

    tokens: list[TokenTarget] | None = None
    devices: list[Name] | None = None
    users: list[Name] | None = None
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


class Way(NamedTuple):
    """Reads targets of a platform that are named by one kind of address. None leaves a value as it is, which is faster
    than a call."""

    place: int
    """The field of a target that has the address."""
    name: str
    text_of: Callable[[Any], str] | None
    fits: Check
    canonical: Form | None
    same: Form | None
    device: bool


class ReceiverTypes(NamedTuple):
    """The structs of receivers, with the fields of all platforms' addresses."""

    target: type[TokenTarget]
    to: type[To]
    ways: Mapping[tuple[Platform, int], Way]
    """By platform and field."""
    usual: Mapping[Platform, Way]
    """By platform, for its first kind of address, which most targets have."""
    unset: int
    """The number of fields that are None in a target with one address and no environment."""


def receiver_types(addresses: Addresses, most: int) -> ReceiverTypes:
    """Return the structs for these addresses. One call has at most `most` tokens, devices or users."""
    target: Any = extended(TokenTarget, *addresses.targets.declared(None))
    entry: Any = Annotated[target, Rule('an object such as {"platform": "apns", "token": ".."}')]
    ways: dict[tuple[Platform, int], Way] = {}
    usual: dict[Platform, Way] = {}
    for platform, kinds in addresses.targets.kinds.items():
        for name, kind in kinds.items():
            place = target.__struct_fields__.index(name)
            way = ways[platform, place] = Way(
                place=place,
                name=name,
                text_of=None if kind.parts is None else kind.text_of,
                fits=kind.fits,
                canonical=None if kind.canonical is str else kind.canonical,
                same=None if kind.same is str else kind.same,
                device=kind.device,
            )
            usual.setdefault(platform, way)
    bounds = Meta(min_length=1, max_length=most)
    several: Any = Annotated[list[Name], bounds] | None
    to = extended(
        To,
        ("tokens", Annotated[list[entry], bounds] | None, None),
        ("devices", Annotated[several, Meta(description="Registered devices, by id.")], None),
        ("users", Annotated[several, Meta(description="All devices of these users.")], None),
    )
    return ReceiverTypes(target, to, ways, usual, len(addresses.targets.names))


# --- every fault ------------------------------------------------------------------------------------


def receiver_checks(rules: Rules, types: ReceiverTypes) -> Checks:
    """Return the checks of the receivers that types cannot express."""
    return {
        types.target: partial(rules.target_faults, fields=rules.addresses.targets),
        types.to: partial(_to_faults, rules=rules),
    }


def _to_faults(to: To, *, rules: Rules) -> Iterator[tuple[str, str]]:
    given = [name for name in To.__struct_fields__ if getattr(to, name) is not None]
    if not given:
        yield "", f"has no receivers: one of {names(To.__struct_fields__)} is needed"
    elif len(given) > 1:
        yield "", f"may have only one of {names(To.__struct_fields__)}; found {names(given)}"
    if isinstance(to.where, str):
        yield from (("where", fault) for fault in where_faults(to.where, rules))
    if to.all is False:
        yield "all", "expected true, found false"


def where_faults(text: str, rules: Rules) -> list[str]:
    """Return what is wrong with an expression."""
    try:
        compile_where(text, now=0, platforms=sorted(rules.platforms))
    except WhereError as error:
        return [str(fault) for fault in error.faults]
    return []


# --- the right ones, quickly ------------------------------------------------------------------------


def receivers(to: To, rules: Rules, types: ReceiverTypes) -> dict[Platform, tuple[Target, ...]] | Audience | None:
    """Return the targets, or the audience to look up; None where one has a fault."""
    ways = (to.tokens, to.devices, to.users, to.topic, to.where, to.all)
    if ways.count(None) != len(ways) - 1:
        return None
    if to.tokens is not None:
        return targets_of(to.tokens, rules, types)
    if to.topic is not None:
        return ByTopic(to.topic) if name_fault(to.topic) is None else None
    if to.where is not None:
        return None if where_faults(to.where, rules) else ByWhere(to.where)
    if to.all is not None:
        return ToAll() if to.all else None
    names = to.devices or to.users or ()
    if any(map(name_fault, names)):
        return None
    distinct = tuple(dict.fromkeys(names))
    return ByDevices(distinct) if to.devices else ByUsers(distinct)


def targets_of(
    tokens: Sequence[TokenTarget], rules: Rules, types: ReceiverTypes
) -> dict[Platform, tuple[Target, ...]] | None:
    """Return the distinct targets by route, numbered in the order of the request; None where one has a fault."""
    routes, (_, _, ways, usual, unset) = rules.routes, types
    if len(tokens) == 1:  # as in most pushes: it is compared with no other
        row = astuple(tokens[0])
        platform, environment = row[0], row[1]
        only = usual.get(platform)
        if only is not None and only.text_of is None and environment is None and row.count(None) == unset:
            text = row[only.place]
            if text is not None and platform in rules.platforms and only.fits(text):
                text = text if only.canonical is None else only.canonical(text)
                return {routes.get((platform, None), platform): (Target(0, text, None, only.name),)}
    found: dict[Platform, list[Target]] = {}
    groups: dict[Platform, tuple[Any, ...]] = {}
    index = 0
    for entry in tokens:
        row = astuple(entry)  # platform, environment, addresses: one call costs less than reading each
        platform, environment = row[0], row[1]
        if row.count(None) != (unset if environment is None else unset - 1):
            return None
        group = groups.get(platform)
        if group is None:
            way = usual.get(platform)
            if way is None or platform not in rules.platforms:
                return None
            targets = found.setdefault(routes.get((platform, None), platform), [])
            group = groups[platform] = (*way, set(), targets)
        text = row[group[0]]
        if text is None:
            place = next(place for place in range(2, len(row)) if row[place] is not None)
            way = ways.get((platform, place))
            if way is None:
                return None
            group = groups[platform] = (*way, *group[-2:])  # the next one is likely to be of this kind too
            text = row[place]
        _, name, text_of, fits, canonical, same, device, seen, targets = group
        if text_of is not None:
            if not right(text):
                return None
            text = text_of(text)
        if not fits(text):
            return None
        if canonical is not None:
            text = canonical(text)
        what = text if same is None else same(text)
        if not device:
            what = (name, what)
        if what in seen:
            continue
        seen.add(what)
        if environment is not None:
            targets = found.setdefault(routes.get((platform, environment), platform), [])
        targets.append(Target(index, text, None, name))
        index += 1
    return {route: tuple(targets) for route, targets in found.items() if targets}


def named_for_two(tokens: Sequence[TokenTarget], rules: Rules) -> tuple[Fault, ...]:
    """Return a warning at the first target that was named before for another account of its platform. All are valid."""
    first: dict[tuple[Platform, tuple[str, str]], Platform] = {}
    places = []
    for place, entry in enumerate(tokens):
        route = rules.routes.get((entry.platform, entry.environment), entry.platform)
        address = rules.addresses.targets.address_of(entry)
        if first.setdefault((entry.platform, address), route) != route:
            places.append(place)
    if not places:
        return ()
    more = f"; the same of {len(places) - 1:,} more" if len(places) > 1 else ""
    text = f"was named before for another environment; a token belongs to one, so it is sent only there{more}"
    return (Fault(f"to.tokens[{places[0]}]", text),)
