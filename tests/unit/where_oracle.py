"""Random expressions as trees, how they are written, and what they mean: by brute force, from the words of the guide
and `pushsvc/rules/where/__init__.py`, and nothing of its code.

A tree is ("and" | "or", tree, tree), ("not", tree), or a comparison ("cmp", field, sign, value, mirrored).
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from pushsvc.model.devices import Device

NOW = 1_750_000_000_000
DAY = 86_400_000

Tree = tuple[Any, ...]

TEXTS = st.sampled_from(["pro", "free", "it's", 'a "b"', "back\\slash", "ü", "", "5", "true"])
NUMBERS = st.integers(-3, 6) | st.sampled_from([2.5, -0.5, 5.0, 1e3])
TAG_VALUES = TEXTS | NUMBERS | st.booleans() | st.lists(TEXTS, max_size=3).map(tuple)
LOCALES = ["de", "de-AT", "de_at", "DE", "den", "en-GB", "zh-Hant-TW", "zh-hant", "at"]
VERSIONS = ["3", "3.2", "3.2.0", "3.10.1", "v4.0", "4.0.0-beta.2", "4.0.0-beta.10", "4.0.0-beta", "4.0.0+7", "4 (12)"]
ZONES = ["Europe/Vienna", "Asia/Tokyo"]
TAGS = ["plan", "beta", "level", "groups", "a b", "in"]
SPANS = ["0s", "90m", "36h", "30d", "30d ago", "2w"]
INSTANTS = ["2025-06-01T00:00:00Z", "2025-06-14", "2025-06-15T17:06:40+02:00", "2025-06-15 15:06:40.001Z"]

DEVICES = st.builds(
    Device,
    id=st.just("d"),
    platform=st.sampled_from(["apns", "fcm"]),
    token=st.just("t"),
    user=st.none() | TEXTS,
    tags=st.dictionaries(st.sampled_from(TAGS), TAG_VALUES, max_size=4),
    locale=st.none() | st.sampled_from(LOCALES),
    timezone=st.none() | st.sampled_from(ZONES),
    app_version=st.none() | st.sampled_from([*VERSIONS, "nightly", "3.x"]),
    environment=st.sampled_from(["production", "sandbox"]),
    registered_at=st.sampled_from([0, NOW, NOW - 90 * 60_000, NOW - 30 * DAY, NOW - 400 * DAY]),
    last_seen_at=st.sampled_from([0, NOW, NOW - 36 * 3_600_000, NOW - 30 * DAY + 1, NOW + 1]),
)

EQUALITY = st.sampled_from(["==", "!="])
ORDER = st.sampled_from(["<", "<=", ">", ">="])
MEMBERSHIP = st.sampled_from(["in", "not in"])


def comparisons(field: st.SearchStrategy[Any], value: st.SearchStrategy[Any], *signs: Any) -> st.SearchStrategy[Tree]:
    """Of a field with single values, and with lists where `MEMBERSHIP` is among the signs."""
    single = [sign for sign in signs if sign is not MEMBERSHIP]
    kinds = [st.tuples(st.just("cmp"), field, st.one_of(*single), value, st.booleans())]
    if EQUALITY in signs:
        kinds.append(st.tuples(st.just("cmp"), field, EQUALITY, st.none(), st.booleans()))
    if MEMBERSHIP in signs:
        lists = st.lists(value, min_size=1, max_size=4)
        kinds.append(st.tuples(st.just("cmp"), field, MEMBERSHIP, lists, st.just(False)))
    return st.one_of(*kinds)


def of(*names: str) -> st.SearchStrategy[str]:
    return st.sampled_from(names)


TAG = st.sampled_from(TAGS).map(lambda name: ("tags", name))
SINGLE = TEXTS | NUMBERS | st.booleans()
COMPARISONS = st.one_of(
    comparisons(of("platform"), st.sampled_from(["apns", "fcm"]), EQUALITY, MEMBERSHIP),
    comparisons(of("environment"), st.sampled_from(["production", "sandbox"]), EQUALITY, MEMBERSHIP),
    comparisons(of("user"), TEXTS, EQUALITY, MEMBERSHIP),
    comparisons(of("timezone"), st.sampled_from(ZONES), EQUALITY, MEMBERSHIP),
    comparisons(of("locale"), st.sampled_from(LOCALES), EQUALITY, MEMBERSHIP),
    comparisons(of("app_version"), st.sampled_from(VERSIONS), EQUALITY, ORDER, MEMBERSHIP),
    comparisons(of("registered", "last_seen"), st.sampled_from(SPANS + INSTANTS), ORDER),
    comparisons(TAG, SINGLE, EQUALITY, ORDER, MEMBERSHIP),
    st.tuples(st.just("cmp"), TAG, MEMBERSHIP, SINGLE, st.just(True)),
    st.tuples(st.just("cmp"), TAG, st.just("truth"), st.just(True), st.just(False)),
)
EXPRESSIONS: st.SearchStrategy[Tree] = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(st.tuples(of("and", "or"), inner, inner), st.tuples(st.just("not"), inner)),
    max_leaves=8,
)


# --- how it is written ----------------------------------------------------------------------------


def written(tree: Tree, above: int = 0) -> str:
    """With as few brackets as the rules of precedence need."""
    match tree:
        case ("or", left, right):
            text, level = f"{written(left, 1)} or {written(right, 1)}", 1
        case ("and", left, right):
            text, level = f"{written(left, 2)} and {written(right, 2)}", 2
        case ("not", inner):
            text, level = f"not {written(inner, 3)}", 3
        case _:
            text, level = _comparison(tree), 3
    return f"({text})" if level < above else text


def _comparison(tree: Tree) -> str:
    _, field, sign, value, mirrored = tree
    name = field if isinstance(field, str) else f"tags.{field[1]}" if " " not in field[1] else f"tags[{field[1]!r}]"
    if sign == "truth":
        return name
    if isinstance(value, list):
        return f"{name} {sign} ({', '.join(map(literal, value))})"
    if not mirrored:
        return f"{name} {sign} {literal(value)}"
    return f"{literal(value)} {sign.translate(str.maketrans('<>', '><'))} {name}"


def literal(value: Any) -> str:
    if isinstance(value, str) and "'" not in value and "\\" not in value:
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False)


# --- what it means --------------------------------------------------------------------------------


def fits(tree: Tree, device: Device) -> bool:
    match tree:
        case ("or", left, right):
            return fits(left, device) or fits(right, device)
        case ("and", left, right):
            return fits(left, device) and fits(right, device)
        case ("not", inner):
            return not fits(inner, device)
    _, field, sign, value, mirrored = tree
    if sign in ("!=", "not in"):
        return not fits(("cmp", field, {"!=": "==", "not in": "in"}[sign], value, mirrored), device)
    own = values_of(field, device)
    if value is None:
        return not own
    wanted = value if isinstance(value, list) else [value]
    return any(compared(field, sign, left, right) for left in own for right in wanted)


def values_of(field: Any, device: Device) -> list[Any]:
    """The values that the device has for the field: none, one, or those of a list. An empty list is a value as well,
    if one that equals nothing."""
    if isinstance(field, tuple):
        value: Any = device.tags.get(field[1])
        if isinstance(value, tuple):
            return list(value) or [()]
    else:
        value = getattr(device, {"registered": "registered_at", "last_seen": "last_seen_at"}.get(field, field))
        if field in ("registered", "last_seen") and value == 0:
            return []
        if field == "app_version" and value is not None and not re.match(r"v?\d+(\.\d+)*($|[-+ ])", value):
            return []
    return [] if value is None else [value]


def compared(field: Any, sign: str, own: Any, wanted: Any) -> bool:
    if field == "locale":
        one, two = (text.lower().replace("_", "-").split("-") for text in (own, wanted))
        return bool(one[: len(two)] == two)
    if field == "app_version":
        own, wanted = version(own), version(wanted)
    elif field in ("registered", "last_seen"):
        wanted = instant(wanted)
    else:
        kinds = [bool if isinstance(each, bool) else str if isinstance(each, str) else tuple if each == () else float
                 for each in (own, wanted)]  # fmt: skip
        if kinds[0] is not kinds[1]:
            return False
    match sign:
        case "<":
            return bool(own < wanted)
        case "<=":
            return bool(own <= wanted)
        case ">":
            return bool(own > wanted)
        case ">=":
            return bool(own >= wanted)
        case _:
            return bool(own == wanted)


def version(text: str) -> list[Any]:
    """A list that Python orders as the versions are: four numbers, then whether it is a release, then the parts."""
    text = text.lstrip("v").split("+")[0].split(" ")[0]
    release, _, pre = text.partition("-")
    numbers = [int(number) for number in release.split(".")]
    parts = [[0, int(part)] if part.isdigit() else [1, part] for part in pre.split(".")] if pre else []
    return [*numbers, *[0] * (4 - len(numbers)), not pre, parts]


def instant(text: str) -> float:
    if unit := {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}.get(text.removesuffix(" ago")[-1]):
        return NOW - int(re.split(r"\D", text)[0]) * unit * 1000
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000
