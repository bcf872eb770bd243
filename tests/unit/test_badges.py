"""The badge `unread`: rendered as a mark for each provider, and filled in for each device when it is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pushsvc.errors import Fault
from pushsvc.model.codec import decode_chunk, encode_chunk
from pushsvc.model.push import Chunk, CountedTarget, Message, Target
from pushsvc.ports.provider import RenderError
from pushsvc.providers.apns.render import RENDERER as APNS
from pushsvc.providers.badges import ALONE, filled_in, unread_of
from pushsvc.providers.fcm.render import RENDERER as FCM
from pushsvc.providers.fcm.spans import filled
from pushsvc.providers.live.render import RENDERER as LIVE

from .provider_fakes import CREATED_AT, PUSH_ID, chunk, content

SHOWN = {"title": "hello", "badge": "unread", "sound": "default"}


def sent(message: Message, unread: int | None) -> dict[str, Any]:
    """Return what a provider is sent of a message."""
    assert message.counts
    found: dict[str, Any] = json.loads(filled_in(message.body, PUSH_ID, unread))
    return found


@pytest.mark.parametrize(("unread", "badge"), [(0, 0), (1, 1), (99_999, 99_999), (2_000_000, 99_999), (None, None)])
@pytest.mark.parametrize("fields", [{}, {"data": {"badge": f"{PUSH_ID}:unread!"}, "ttl": 60}])
def test_each_vendor_gets_the_number_in_its_own_field(
    unread: int | None, badge: int | None, fields: dict[str, Any]
) -> None:
    given = content(notification=SHOWN, **fields)
    apns = sent(APNS.render(given, push_id=PUSH_ID, starts_at=CREATED_AT), unread)
    expected = {"alert": {"title": "hello"}, "badge": badge, "sound": "default"}
    assert apns["aps"] == {key: value for key, value in expected.items() if value is not None}
    fcm = sent(FCM.render(given, push_id=PUSH_ID, starts_at=CREATED_AT), unread)
    assert fcm["apns"]["payload"]["aps"].get("badge") == badge
    # 0 is no number there.
    assert fcm["android"]["notification"].get("notification_count") == (badge or None)
    live = json.loads(LIVE.render(given, push_id=PUSH_ID, starts_at=CREATED_AT).body)
    assert live["notification"] == SHOWN
    for found in (apns, fcm["data"] if fields else {}, live.get("data", {})):
        assert found.get("badge", "") == fields.get("data", {}).get("badge", "")


def test_a_span_that_has_changed_keeps_the_number_in_its_place() -> None:
    message = FCM.render(content(notification=SHOWN, ttl=600), push_id=PUSH_ID, starts_at=CREATED_AT)
    body = filled(message.body, message.spans, 7, message.instants, 12)
    found = json.loads(filled_in(body, PUSH_ID, 5))
    assert (found["android"]["ttl"], found["android"]["notification"]["notification_count"]) == ("7s", 5)
    assert found["apns"]["headers"]["apns-expiration"] == "12"


def test_an_override_of_the_badge_is_the_callers() -> None:
    own: dict[str, Any] = {"apns": {"payload": {"aps": {"badge": 9}}}}
    message = APNS.render(content(notification=SHOWN, overrides=own), push_id=PUSH_ID, starts_at=CREATED_AT)
    assert (message.counts, json.loads(message.body)["aps"]["badge"]) == (False, 9)


def test_the_measure_is_that_of_the_number_and_there_is_no_warning() -> None:
    def given(size: int) -> Any:
        return content(notification={"title": "a" * size, "badge": "unread"})

    size = next(
        n
        for n in range(4096, 0, -1)
        if len(json.dumps({"aps": {"alert": {"title": "a" * n}, "badge": 99999}}).replace(" ", "")) <= 4096
    )
    message = APNS.render(given(size), push_id=PUSH_ID, starts_at=CREATED_AT)
    assert len(filled_in(message.body, PUSH_ID, 99_999)) == 4096
    with pytest.raises(RenderError) as refused:
        APNS.render(given(size + 1), push_id=PUSH_ID, starts_at=CREATED_AT)
    assert refused.value.too_large
    for renderer in (APNS, FCM):
        warned: list[Fault] = renderer.warnings(
            content(notification=SHOWN), renderer.render(content(notification=SHOWN), push_id=PUSH_ID, starts_at=1)
        )
        assert warned == []


def test_a_badge_that_an_override_leaves_alone_is_warned_about() -> None:
    """Where the number is not known, nothing at all would be sent."""
    gone: dict[str, Any] = {"apns": {"payload": {"aps": {"alert": None, "sound": None}}}}
    other: dict[str, Any] = {"apns": {"payload": {"aps": {"alert": None}}}}
    for own, warned in ((gone, True), (other, False)):
        given = content(notification=SHOWN, overrides=own)
        message = APNS.render(given, push_id=PUSH_ID, starts_at=CREATED_AT)
        assert (sent(message, None) == {"aps": {}}) is warned
        assert [fault.path for fault in APNS.warnings(given, message)] == ["notification.badge"] * warned
    gone = {"fcm": {"notification": None, "apns": {"payload": {"aps": {"sound": None}}}}}
    other = {"fcm": {"notification": {"title": "other"}}}
    for own, warned in ((gone, True), (other, False)):
        given = content(notification=SHOWN, overrides=own)
        message = FCM.render(given, push_id=PUSH_ID, starts_at=CREATED_AT)
        assert ALONE in FCM.warnings(given, message) if warned else FCM.warnings(given, message) == []


@pytest.mark.parametrize("total", [1, 40])
def test_what_is_known_of_a_device_is_not_stored(total: int) -> None:
    message = APNS.render(content(notification=SHOWN), push_id=PUSH_ID, starts_at=CREATED_AT)
    plain: Chunk = chunk(message, *("a" * 64 for _ in range(total)))
    targets = tuple(CountedTarget(t.index, t.token, t.device_id, t.kind, t.owner, 7) for t in plain.targets)
    of_push = Chunk(
        *("p", "shop", "apns", "normal", total, 1, 2, message, targets), variant="apns" if total > 1 else ""
    )
    again = decode_chunk(encode_chunk(of_push))
    assert again.targets == plain.targets
    assert all(type(target) is Target for target in again.targets)
    assert (unread_of(targets[0]), unread_of(plain.targets[0])) == (7, None)
    assert again.message.counts == (total == 1)
