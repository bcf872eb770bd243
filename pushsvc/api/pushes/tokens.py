"""The `tokens` of a push document: the distinct targets by route.

The same token twice in one push is one delivery, in whatever case an APNs token is written, and so is an FCM token
beside the id of its installation; the first of them is sent to. That goes for a token that is named for two
environments of APNs as well, with a warning: a token belongs to one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ...errors import Fault
from ...model.identity import canonical, identity
from ...model.push import Platform, Target
from ...model.routing import RouteTable
from .faults import TARGETS

if TYPE_CHECKING:
    from .document import TokenTarget


def targets_of(
    tokens: list[TokenTarget], checks: Mapping[Platform, Callable[[str, str], str | None]], routes: RouteTable
) -> dict[Platform, tuple[Target, ...]] | None:
    """The distinct targets by route, numbered in the order of the request; None where one has a fault."""
    groups: dict[
        Platform, tuple[Callable[[str, str], str | None], bool, set[str], set[tuple[str, str]], list[Target]]
    ] = {}
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
