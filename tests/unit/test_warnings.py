"""What the vendors' pages say against a push: the golden table, and that nothing right is warned about."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from pushsvc.errors import Fault
from pushsvc.model.push import Content
from pushsvc.ports.provider import Renderer, RenderError
from pushsvc.providers import REGISTRY

from .provider_fakes import CREATED_AT, GOLDEN, PUSH_ID, content, golden

ROWS = golden("warnings.toml", "row")


def warned(platform: str, given: Content) -> list[Fault]:
    renderer: Renderer = REGISTRY[platform].renderer
    return renderer.warnings(given, renderer.render(given, push_id=PUSH_ID, starts_at=CREATED_AT))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['platform']} {row['path']}")
def test_what_the_pages_say_is_warned_about(row: dict[str, Any]) -> None:
    assert row["link"].startswith(("https://developer.apple.com/", "https://firebase.google.com/"))
    own = {row["platform"]: row["overrides"]} if "overrides" in row else None
    shown = {"title": row["notification"]} if "notification" in row else None
    found = warned(row["platform"], content(notification=shown, push_type=row.get("push_type"), overrides=own))
    assert {fault.path for fault in found} == {row["path"], *row.get("also", ())}
    (said,) = {fault.message for fault in found if fault.path == row["path"]}
    assert row["says"] in said


@pytest.mark.parametrize("platform", ["apns", "fcm"])
def test_the_vendors_own_examples_are_right(platform: str) -> None:
    for row in golden("examples.toml", platform):
        text = (GOLDEN / "examples" / row["file"]).read_bytes().strip()
        if platform == "apns":
            own: Any = b'{"payload": ' + text + b"}"
        else:
            own = msgspec.json.decode(text)
            own = own.get("message", own)
            for target in ("token", "fid", "topic", "condition", "name"):
                own.pop(target, None)
            own = msgspec.json.encode(own)
        given = content(overrides={platform: own}, push_type=row.get("push_type"))
        assert warned(platform, given) == [], row["file"]


def test_what_we_render_ourselves_is_right() -> None:
    notification = {
        **dict.fromkeys(("title", "subtitle", "body", "sound", "category", "thread", "channel"), "x"),
        "image": "https://a.example/1.png",
        "badge": 3,
        "link": "https://a.example",
    }
    for platform in ("apns", "fcm"):
        for own in ({}, {"headers": {"apns-topic": "t"}} if platform == "apns" else {"android": {"ttl": "5s"}}):
            given = content(
                notification=notification, data={"a": "1"}, ttl=60, overrides={platform: own} if own else None
            )
            assert warned(platform, given) == []


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["aps", "alert", "sound", "badge", "event", "notification", "payload", "headers", "color", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(
    own=st.dictionaries(
        st.sampled_from(["android", "apns", "webpush", "payload", "headers", "data"]), _json, max_size=3
    ),
    platform=st.sampled_from(["apns", "fcm"]),
)
def test_warnings_never_raise_whatever_is_accepted(own: dict[str, Any], platform: str) -> None:
    try:
        found = warned(platform, content(notification={"title": "Hi"}, overrides={platform: msgspec.json.encode(own)}))
    except RenderError:
        return
    assert all(fault.path and fault.message for fault in found)
