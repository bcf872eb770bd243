"""A push as FCM takes it, held against firebase-admin's own encoder, and every fault with its place."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from firebase_admin import messaging
from firebase_admin._messaging_encoder import MessageEncoder
from hypothesis import example, given, strategies as st
from msgspec import Raw

from pushsvc.model.push import Content, LiveActivity, Message
from pushsvc.ports.provider import RenderError
from pushsvc.providers.fcm import ADDRESSES, RENDERER
from pushsvc.providers.fcm.limits import size_of, sizes_of
from pushsvc.providers.fcm.spans import filled

from .provider_fakes import CREATED_AT, FULL, GOLDEN, PUSH_ID, content, faults_of, golden, rendered_or_refused


def render(given: Content, push_id: str = PUSH_ID) -> Message:
    return RENDERER.render(given, push_id=push_id, starts_at=CREATED_AT)


def rendered(given: Content) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(render(given).body)
    return value


def faults(given: Content) -> dict[str, str]:
    return faults_of(lambda: render(given))


# --- the vendor's own examples ------------------------------------------------------------------


@pytest.mark.parametrize("row", golden("examples.toml", "fcm"), ids=lambda row: row["file"])
def test_firebases_examples_travel_byte_for_byte(row: dict[str, Any]) -> None:
    page = (GOLDEN / "examples" / row["file"]).read_text().strip()
    found = re.fullmatch(r'\{\s*"message":(\{)\s*"token":"[^"]*",(.*\})\s*\}', page, re.DOTALL)
    assert found is not None
    own = found[1] + found[2]

    message = render(content(overrides={"fcm": own}))

    assert message.body == own.encode()
    assert message.headers == {}


def test_nothing_of_an_own_message_is_touched() -> None:
    text = '{ "notification":{"body":"\\u00e4 \\/ ä"},\n"x":1.10, "big":123456789012345678901, "x":2 ,"none":null}'

    assert render(content(overrides={"fcm": f" {text}\n"})).body == text.encode()


# --- spans ---------------------------------------------------------------------------------------


@given(
    ttl=st.integers(1, 9_999_999),
    left=st.integers(0, 9_999_999),
    text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
)
def test_only_our_own_spans_change_with_the_time_that_is_left(ttl: int, left: int, text: str) -> None:
    message = render(content(notification={"title": text, "body": f'"ttl":"{ttl}s"'}, data={"ttl": f"{ttl}s"}, ttl=ttl))
    before, after = json.loads(message.body), json.loads(filled(message.body, message.spans, left))
    wanted = str(min(left, 2_419_200))

    assert before["android"]["ttl"] == f"{min(ttl, 2_419_200)}s"
    assert (after["android"].pop("ttl"), after["webpush"].pop("headers")) == (f"{wanted}s", {"TTL": wanted})
    del before["android"]["ttl"], before["webpush"]["headers"]
    assert before == after


@pytest.mark.parametrize(
    ("own", "spans"),
    [
        ({}, 2),
        ({"android": {"ttl": "30s"}}, 1),
        ({"android": {"ttl": "30s"}, "webpush": {"headers": {"TTL": "30"}}}, 0),
        ({"android_v2": {"ttl": "30s"}}, 1),
        ({"webpush": None}, 1),
    ],
)
def test_a_span_of_the_callers_is_theirs(own: dict[str, Any], spans: int) -> None:
    message = render(content(notification={"title": "Hi"}, ttl=60, overrides={"fcm": own}))

    assert len(message.spans) == spans
    assert b"30s" in filled(message.body, message.spans, 5) or "30s" not in str(own)


def test_now_or_never_is_no_span() -> None:
    assert render(content(notification={"title": "Hi"}, ttl=0)).spans == ()
    assert render(content(notification={"title": "Hi"})).spans == ()
    assert render(content(ttl=60, overrides={"fcm": {"data": {"a": "1"}}})).spans != ()


# --- held against firebase-admin ----------------------------------------------------------------


def _sdk(given: Content) -> dict[str, Any]:
    """The same content, built with firebase-admin's classes and encoded by its encoder."""
    shown = given.notification
    assert shown is not None
    alert = None
    if shown.subtitle is not None:
        alert = messaging.ApsAlert(title=shown.title, subtitle=shown.subtitle, body=shown.body)
    ttl, tag = given.ttl, given.collapse or PUSH_ID
    normal = given.priority == "normal"
    headers = {"apns-priority": "5"} if normal else {}
    if ttl is not None:
        headers["apns-expiration"] = str(CREATED_AT // 1000 + ttl)
    data = dict(given.data or {})
    if shown.link is not None:
        data.setdefault("link", shown.link)
    message = messaging.Message(
        fid="f",
        notification=messaging.Notification(title=shown.title, body=shown.body, image=shown.image),
        data=data,
        android=messaging.AndroidConfig(
            collapse_key=given.collapse,
            priority="normal" if normal else "high",
            ttl=ttl,
            notification=messaging.AndroidNotification(
                sound=shown.sound,
                tag=tag,
                channel_id=shown.channel,
                click_action=shown.category,
                notification_count=shown.badge or None,
            ),
        ),
        apns=messaging.APNSConfig(
            headers={**headers, "apns-collapse-id": tag},
            payload=messaging.APNSPayload(
                messaging.Aps(
                    alert=alert,
                    badge=shown.badge,
                    sound=shown.sound,
                    category=shown.category,
                    thread_id=shown.thread,
                    mutable_content=True if shown.image else None,
                )
            ),
            fcm_options=messaging.APNSFCMOptions(image=shown.image),
        ),
        webpush=messaging.WebpushConfig(
            headers=None if ttl is None else {"TTL": str(ttl)},
            fcm_options=messaging.WebpushFCMOptions(link=shown.link) if shown.link else None,
        ),
    )
    value: dict[str, Any] = json.loads(json.dumps(message, cls=MessageEncoder))
    del value["fid"]
    # The SDK spells the enumeration in lower case, the REST reference in upper case.
    value["android"]["priority"] = value["android"]["priority"].upper()
    return _without_empty(value)


def _without_empty(value: dict[str, Any]) -> dict[str, Any]:
    cleaned = {name: _without_empty(item) if isinstance(item, dict) else item for name, item in value.items()}
    return {name: item for name, item in cleaned.items() if item != {}}


@pytest.mark.parametrize(
    "given",
    [
        content(notification={"title": "Hi"}),
        content(notification={"title": "Hi", "body": "there"}, data={"order": "7"}, priority="high"),
        content(notification=FULL, data={"order": "7"}, priority="normal", ttl=3600, collapse="order-7"),
        content(notification=FULL, ttl=2_419_200),
        content(notification={"body": "no title", "subtitle": "but a subtitle", "badge": 1}),
        content(notification={"title": "Hi", "link": "https://a.example"}, data={"link": "app://7"}),
        content(notification={"title": "Hi", "image": "https://a.example/1.png", "channel": "c"}),
    ],
    ids=["title", "data", "full", "long ttl", "subtitle", "own link", "image"],
)
def test_firebase_admin_encodes_the_same_content_alike(given: Content) -> None:
    assert rendered(given) == _sdk(given)


_text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(
    notification=st.fixed_dictionaries(
        {"title": _text},
        optional={
            **{name: _text for name in FULL if name not in ("badge", "link", "title")},
            "badge": st.integers(0, 99),
            "link": _text.map(lambda path: f"https://example.com/{path}"),
        },
    ),
    data=st.dictionaries(_text.map(lambda name: f"x{name}"), _text, max_size=3),
    priority=st.sampled_from([None, "high", "normal"]),
    ttl=st.one_of(st.none(), st.integers(1, 2_419_200)),
)
def test_firebase_admin_encodes_whatever_content_alike(
    notification: dict[str, Any], data: dict[str, str], priority: Any, ttl: int | None
) -> None:
    given = content(notification=notification, data=data or None, priority=priority, ttl=ttl)

    assert rendered(given) == _sdk(given)


# --- by the neutral fields ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "data"),
    [
        (content(data={"order": "7"}), {"order": "7"}),
        (content(silent=True, data={"order": "7"}), {"order": "7"}),
        (content(silent=True), None),
        (content(silent=True, notification={"category": "ORDER"}), None),
        (content(notification={"channel": "orders"}), None),
    ],
    ids=["data only", "silent", "silent alone", "silent with a category", "nothing to see"],
)
def test_what_shows_nothing_wakes_the_app_with_normal_priority(given: Content, data: dict[str, str] | None) -> None:
    expected: dict[str, Any] = {
        "android": {"priority": "NORMAL"},
        "apns": {
            "headers": {"apns-push-type": "background", "apns-priority": "5"},
            "payload": {"aps": {"content-available": 1}},
        },
    }
    assert rendered(given) == (expected if data is None else {"data": data, **expected})


def test_a_silent_push_may_be_urgent_for_android_and_never_for_apple() -> None:
    message = rendered(content(data={"a": "1"}, silent=True, priority="high"))

    assert message["android"]["priority"] == "HIGH"
    assert message["apns"]["headers"]["apns-priority"] == "5"


def test_ttl_0_means_now_or_never_and_a_long_one_is_cut_to_four_weeks() -> None:
    now = rendered(content(notification={"title": "Hi"}, ttl=0))
    long = rendered(content(notification={"title": "Hi"}, ttl=9_999_999))

    assert now["android"]["ttl"] == "0s"
    assert now["apns"]["headers"]["apns-expiration"] == "0"
    assert now["webpush"]["headers"] == {"TTL": "0"}
    assert long["android"]["ttl"] == "2419200s"
    assert long["apns"]["headers"]["apns-expiration"] == str(CREATED_AT // 1000 + 2_419_200)


def test_a_collapse_that_apns_cannot_carry_still_collapses_on_android() -> None:
    message = rendered(content(notification={"title": "Hi"}, collapse="größe"))

    assert message["android"]["collapse_key"] == message["android"]["notification"]["tag"] == "größe"
    assert "apns" not in message


def test_a_link_that_is_not_https_is_kept_from_the_browser() -> None:
    message = rendered(content(notification={"title": "Hi", "link": "app://7"}))

    assert message["data"] == {"link": "app://7"}
    assert "webpush" not in message


# --- overrides ----------------------------------------------------------------------------------


def test_an_override_is_merged_over_what_is_rendered() -> None:
    override = {"android": {"priority": "NORMAL", "notification": {"icon": "i", "tag": None}}, "fcm_options": {"a": 1}}
    message = rendered(content(notification={"title": "Hi"}, overrides={"fcm": override}))

    assert message["android"] == {"priority": "NORMAL", "notification": {"icon": "i"}}
    assert message["fcm_options"] == {"a": 1}
    assert message["notification"] == {"title": "Hi"}


def test_the_other_spelling_of_a_field_replaces_ours_and_leaves_data_alone() -> None:
    override = {
        "android": {"collapseKey": "k", "notification": {"channelId": "c", "clickAction": "a", "notificationCount": 9}},
        "apns": {"fcmOptions": {"analyticsLabel": "l"}},
        "webpush": {"fcmOptions": {"link": "https://b.example"}},
        "data": {"channelId": "data"},
    }
    message = rendered(content(notification=FULL, collapse="mine", overrides={"fcm": override}))

    assert message["android"]["collapse_key"] == "k"
    shown = message["android"]["notification"]
    assert (shown["channel_id"], shown["click_action"], shown["notification_count"]) == ("c", "a", 9)
    assert message["apns"]["fcm_options"] == {"image": FULL["image"], "analyticsLabel": "l"}
    assert message["webpush"]["fcm_options"] == {"link": "https://b.example"}
    assert message["data"]["channelId"] == "data"
    assert not re.search(r"collapseKey|clickAction|notificationCount|fcmOptions", json.dumps(message))


@pytest.mark.parametrize("name", ["androidV2", "android_v2"])
def test_android_v2_takes_the_place_of_our_android_block(name: str) -> None:
    message = rendered(content(notification={"title": "Hi"}, overrides={"fcm": {name: {"ttl": "5s"}}}))

    assert "android" not in message
    assert message[name] == {"ttl": "5s"}


def test_the_neutral_fields_beside_an_own_message_are_merged_in() -> None:
    own = {"notification": {"title": "Hi"}, "android": {"notification": {"icon": "i"}}}
    given = content(ttl=60, priority="high", collapse="c", overrides={"fcm": own})

    assert rendered(given) == {
        "android": {"collapse_key": "c", "priority": "HIGH", "ttl": "60s", "notification": {"icon": "i"}},
        "apns": {"headers": {"apns-expiration": str(CREATED_AT // 1000 + 60), "apns-collapse-id": "c"}},
        "webpush": {"headers": {"TTL": "60"}},
        "notification": {"title": "Hi"},
    }


@pytest.mark.parametrize(
    "own",
    [
        {"notification": {"title": "Hi"}},
        {"android": {"notification": {"title": "Hi"}}},
        {"apns": {"payload": {"aps": {"alert": "Hi"}}}},
    ],
    ids=["common", "android", "apns"],
)
def test_data_beside_an_own_notification_is_not_made_a_background_push(own: dict[str, Any]) -> None:
    message = rendered(content(data={"a": "1"}, overrides={"fcm": own}))

    assert "apns-push-type" not in message["apns"]["headers"]
    if "apns" in own:  # to Android these are data, and nothing but data
        assert message["android"] == {"priority": "NORMAL"}
    else:
        assert message["android"]["priority"] == "HIGH"
        assert message["android"]["notification"]["tag"] == PUSH_ID


@pytest.mark.parametrize(
    ("notification", "aps"),
    [
        ({"badge": 3}, {"badge": 3}),
        ({"badge": 0}, {"badge": 0}),
        ({"sound": "default"}, {"sound": "default"}),
        ({"badge": 1, "channel": "orders", "category": "ORDER"}, {"badge": 1, "category": "ORDER"}),
    ],
    ids=["badge", "no badge", "sound", "badge and channel"],
)
def test_what_has_no_text_displays_nothing_on_android(notification: dict[str, Any], aps: dict[str, Any]) -> None:
    """https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages#androidnotification"""
    message = rendered(content(notification=notification))

    assert message["android"] == {"priority": "NORMAL"}
    assert message["apns"]["payload"]["aps"] == aps
    assert "apns-priority" not in message["apns"]["headers"]


@pytest.mark.parametrize(("badge", "count"), [(0, None), (1, 1)])
def test_a_count_of_zero_is_no_count(badge: int, count: int | None) -> None:
    """ "If zero or unspecified, .. increment": there is no way to clear it."""
    message = rendered(content(notification={"title": "Hi", "badge": badge}))

    assert message["apns"]["payload"]["aps"]["badge"] == badge
    assert message["android"]["notification"].get("notification_count") == count


@pytest.mark.parametrize(
    ("own", "path"),
    [
        ({"data": {"a": None}}, "data.a"),
        ({"android": {"data": {"a": None}}}, "android.data.a"),
        ({"webpush": {"data": {"a": None}}}, "webpush.data.a"),
        ({"webpush": {"headers": {"TTL": None}}, "data": {"a": "1"}}, "webpush.headers.TTL"),
        ({"apns": {"headers": {"apns-priority": None}}, "data": {"a": "1"}}, "apns.headers.apns-priority"),
    ],
)
def test_a_null_among_strings_is_refused_where_nothing_is_rendered(own: dict[str, Any], path: str) -> None:
    with pytest.raises(RenderError) as refused:
        render(content(overrides={"fcm": own}))
    assert [fault.path for fault in refused.value.faults] == [f"overrides.fcm.{path}"]


@pytest.mark.parametrize("beside", ["notification", "data", "live_activity"])
@pytest.mark.parametrize("path", ["data.a", "android.data.a", "webpush.data.a"])
def test_a_null_that_takes_nothing_away_is_refused_beside_what_is_rendered_too(path: str, beside: str) -> None:
    given = {"notification": {"title": "t"}, "data": {"b": "1"}, "live_activity": LiveActivity(event="end")}[beside]
    *parents, block, key = path.split(".")
    nothing = {block: {key: None}}
    own = {"apns": {"live_activity_token": "t"}} | ({parents[0]: nothing} if parents else nothing)

    with pytest.raises(RenderError) as refused:
        render(content(**{beside: given}, overrides={"fcm": own}))

    assert [fault.path for fault in refused.value.faults] == [f"overrides.fcm.{path}"]


def test_a_null_takes_away_what_is_rendered() -> None:
    message = rendered(content(data={"a": "1", "b": "2"}, overrides={"fcm": {"data": {"a": None}}}))

    assert message["data"] == {"b": "2"}


# --- Live Activities ----------------------------------------------------------------------------

UPDATE = LiveActivity(event="update", content_state={"demo": Raw(b'{"x":1.10}')})


def test_firebases_live_activity_is_rendered() -> None:
    """https://firebase.google.com/docs/cloud-messaging/customize-messages/live-activity"""
    start = LiveActivity(
        event="start",
        content_state={"demo": Raw(b"1")},
        attributes_type="DemoAttributes",
        attributes={"demoAttribute": Raw(b"1")},
    )
    given = content(
        live_activity=start,
        notification={"title": "test title", "body": "test body"},
        overrides={"fcm": {"apns": {"live_activity_token": "LIVE_ACTIVITY_PUSH_TO_START_TOKEN"}}},
    )
    assert rendered(given) == {
        "apns": {
            "live_activity_token": "LIVE_ACTIVITY_PUSH_TO_START_TOKEN",
            "headers": {"apns-priority": "10", "apns-collapse-id": PUSH_ID},
            "payload": {
                "aps": {
                    "timestamp": 1700000000,
                    "event": "start",
                    "content-state": {"demo": 1},
                    "attributes-type": "DemoAttributes",
                    "attributes": {"demoAttribute": 1},
                    "alert": {"title": "test title", "body": "test body"},
                }
            },
        }
    }


def test_a_live_activity_takes_the_neutral_fields_and_either_spelling() -> None:
    own = {"apns": {"liveActivityToken": "t", "payload": {"aps": {"content-state": {"demo": {"y": 2}}}}}}
    given = content(
        live_activity=UPDATE, data={"a": "1"}, ttl=60, priority="normal", collapse="c", overrides={"fcm": own}
    )
    assert rendered(given) == {
        "data": {"a": "1"},
        "apns": {
            "live_activity_token": "t",
            "headers": {"apns-priority": "5", "apns-expiration": "1700000060", "apns-collapse-id": "c"},
            "payload": {
                "aps": {"timestamp": 1700000000, "event": "update", "content-state": {"demo": {"x": 1.1, "y": 2}}}
            },
        },
    }
    assert b"1.10" in render(given).body


def test_a_live_activity_without_its_token_is_refused() -> None:
    missing = faults(content(live_activity=UPDATE, silent=True, push_type="alert", data={"from": "x"}))
    assert missing.keys() == {"overrides.fcm.apns.live_activity_token", "silent", "push_type", "data.from"}
    with pytest.raises(RenderError) as caught:
        render(
            content(
                live_activity=LiveActivity(event="update", content_state={"x": Raw(b'"' + b"x" * 4096 + b'"')}),
                overrides={"fcm": {"apns": {"live_activity_token": "t"}}},
            )
        )
    assert caught.value.too_large
    assert [fault.path for fault in caught.value.faults] == ["live_activity"]


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "path", "says"),
    [
        (content(), "overrides.fcm", "nothing to send"),
        (content(overrides={"fcm": "{}"}), "overrides.fcm", "nothing to send"),
        (content(overrides={"fcm": "[]"}), "overrides.fcm", "must be a JSON object"),
        (content(overrides={"fcm": "{"}), "overrides.fcm", "not valid JSON"),
        (content(overrides={"fcm": b'{"a":"\xff"}'}), "overrides.fcm", "not valid JSON"),
        *(
            (content(overrides={"fcm": {name: "x", "data": {"a": "1"}}}), f"overrides.fcm.{name}", "given in `to`")
            for name in ("token", "fid", "topic", "condition", "name")
        ),
        (content(overrides={"fcm": {"message": {}}}), "overrides.fcm.message", "give the fields of `message`"),
        (content(overrides={"fcm": {"validateOnly": True}}), "overrides.fcm.validateOnly", "use `dry_run`"),
        (content(overrides={"fcm": {"android": "HIGH"}}), "overrides.fcm.android", "must be a JSON object"),
        (content(overrides={"fcm": {"data": {"n": 7}}}), "overrides.fcm.data.n", "must be a string"),
        (content(overrides={"fcm": {"data": {"from": "x"}}}), "overrides.fcm.data.from", "keeps for itself"),
        (
            content(overrides={"fcm": {"android": {"data": {"google.x": "x"}}}}),
            "overrides.fcm.android.data.google.x",
            "keeps for itself",
        ),
        (content(data={"message_type": "x"}), "data.message_type", "keeps for itself"),
        (content(data={"gcm.notification.title": "x"}), "data.gcm.notification.title", "keeps for itself"),
        (content(notification={"title": "Hi"}, silent=True), "silent", "shows nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_names_its_place(given: Content, path: str, says: str) -> None:
    assert says in faults(given)[path]


def test_all_faults_come_at_once() -> None:
    given = content(
        notification={"title": "Hi"}, data={"from": "x"}, silent=True, overrides={"fcm": {"token": "x", "apns": 1}}
    )

    assert faults(given).keys() == {"data.from", "silent", "overrides.fcm.token", "overrides.fcm.apns"}


# --- size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "size", "warned"),
    [
        (lambda size: content(data={"k": "x" * (size - 1)}), 4096, "Apple"),
        (lambda size: content(data={"k": '"' * (size - 1)}), 4096, "Apple"),
        (lambda size: content(data={"key": "ä" * ((size - 3) // 2) + "x" * ((size - 3) % 2)}), 4096, "Apple"),
        (lambda size: content(notification={"title": "x" * (size - 5)}), 4096, None),
        (lambda size: content(notification={"title": "x" * (size - 5), "sound": "s"}), 4096 - 6, "Apple"),
        (lambda size: content(overrides={"fcm": {"data": {"k": "x" * (size - 1)}}}), 4096, None),
        (lambda size: content(overrides={"fcm": {"android": {"data": {"k": "x" * (size - 1)}}}}), 4096, None),
        (
            lambda size: content(overrides={"fcm": {"apns": {"payload": {"aps": {}, "k": "x" * (size - 17)}}}}),
            4096,
            None,
        ),
    ],
    ids=["data", "quotes", "umlauts", "title", "title and sound", "own data", "own android", "own apns"],
)
def test_the_limit_is_googles_and_the_stricter_form_a_warning(given: Any, size: int, warned: str | None) -> None:
    """ "Maximum payload .. is 4096 bytes", of keys and values: all of them can be used."""
    largest = given(size)
    message = render(largest)
    found = [fault.message for fault in RENDERER.warnings(largest, message) if "bytes" in fault.message]
    assert [text.partition(" devices")[0] for text in found] == (
        [] if warned is None else [f"is too large for {warned}"]
    )
    with pytest.raises(RenderError, match=r"bytes for FCM, the limit is 4,096") as caught:
        render(given(size + 1))
    assert caught.value.too_large


def test_a_topic_takes_half() -> None:
    def reported(size: int) -> list[str]:
        given = content(data={"k": "x" * (size - 1)})
        message = RENDERER.render(given, push_id=PUSH_ID, starts_at=CREATED_AT, kinds=("topic",))
        assert RENDERER.warnings(given, message, ("token",)) == []
        return [fault.message for fault in RENDERER.warnings(given, message, ("topic",))]

    assert reported(2000) == []
    (text,) = reported(2048)
    assert "2,048 for Android, 2,085 for Apple of at most 2,048 bytes" in text
    with pytest.raises(RenderError, match=r"the limit is 2,048"):
        reported(2049)


@pytest.mark.parametrize(
    ("message", "sizes"),
    [
        ({"data": {"key": "ä" * 10}}, {"Android": 23}),
        ({"notification": {"title": "a", "body": "b"}, "data": {"c": "d"}}, {"Android": 13}),
        ({"notification": {"title": "a"}, "android": {"notification": {"title": "abc", "tag": "t"}}}, {"Android": 8}),
        ({"data": {"a": "b"}, "android": {"data": {"long": "value"}}}, {"Android": 9}),
        ({"android": {"notification": {"body_loc_args": ["a", "b"], "sticky": True}}}, {"Android": 13 + 9 + 6 + 4}),
        ({"data": {"a": "b"}, "apns": {"payload": {"aps": {}}}}, {"Android": 2, "Apple": len('{"aps":{},"a":"b"}')}),
        (
            {"notification": {"title": "a"}, "apns": {"payload": {"aps": {"badge": 1}}}},
            {"Android": 6, "Apple": len('{"aps":{"badge":1,"alert":{"title":"a"}}}')},
        ),
        ({"data": {"a": "b"}, "apns": {"live_activity_token": "t", "payload": {"aps": {}}}}, {"Apple": 18}),
        ({"data": "nonsense", "apns": 7}, {}),
        ({"webpush": {"notification": {"body": "not counted"}}}, {}),
    ],
    ids=str,
)
def test_what_counts(message: dict[str, Any], sizes: dict[str, int]) -> None:
    assert sizes_of(message) == sizes
    assert size_of(message) == min(sizes.values(), default=0)


def test_an_own_message_of_white_space_is_not_too_large() -> None:
    own = '{"data":{"a":"b"' + " " * 5000 + "}}"

    assert len(render(content(overrides={"fcm": own})).body) > 5000


# --- tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["a", "dQw4:APA91b-x_y~z.%,+/=", "x" * 4096])
@pytest.mark.parametrize("kind", ["token", "fid"])
def test_tokens_and_fids_are_opaque(token: str, kind: str) -> None:
    assert ADDRESSES[kind].fits(token)


@pytest.mark.parametrize(
    "token", ["", "x" * 4097, "with space", 'qu"ote', "back\\slash", "a\n", "a\x00", "\U0001f600", "ä"]
)
def test_what_cannot_be_a_token_is_refused(token: str) -> None:
    assert not ADDRESSES["token"].fits(token)


@pytest.mark.parametrize(
    ("target", "kind", "good"),
    [
        ("news", "topic", True),
        ("a-Z0.9_~%", "topic", True),
        ("x" * 900, "topic", True),
        ("x" * 901, "topic", False),
        ("", "topic", False),
        ("/topics/news", "topic", False),
        ("'a' in topics && ('b' in topics || 'c' in topics)", "condition", True),
        ("", "condition", False),
        ("  ", "condition", False),
        ("'a'\nin topics", "condition", False),
        ("x" * 4097, "condition", False),
    ],
)
def test_what_else_may_be_a_target(target: str, kind: str, good: bool) -> None:
    assert bool(ADDRESSES[kind].fits(target)) is good


@pytest.mark.parametrize("kinds", [("topic",), ("condition", "token")])
def test_a_message_to_topics_may_be_half_as_large(kinds: tuple[str, ...]) -> None:
    small, large = (Content(data={"k": "x" * size}, overrides={}) for size in (1900, 2100))
    assert RENDERER.render(small, push_id="p", starts_at=0, kinds=kinds).platform == "fcm"
    assert RENDERER.render(large, push_id="p", starts_at=0).platform == "fcm"
    with pytest.raises(RenderError, match=r"the limit is 2,048") as caught:
        RENDERER.render(large, push_id="p", starts_at=0, kinds=kinds)
    assert caught.value.too_large


# --- properties ---------------------------------------------------------------------------------

_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=30)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["android", "apns", "payload", "aps", "alert", "data", "notification", "token", "x"]), inner
        ),
    ),
    max_leaves=12,
)


@example(notification=None, data=None, silent=True, collapse=None, override=b'{"android": null, "apns": null}')
@given(
    notification=st.one_of(st.none(), st.just(FULL), st.just({"badge": 1})),
    data=st.one_of(st.none(), st.dictionaries(st.text(max_size=30), st.text(max_size=30), max_size=4)),
    silent=st.booleans(),
    collapse=st.one_of(st.none(), st.text(max_size=80)),
    override=st.one_of(st.none(), _json.map(msgspec.json.encode)),
)
def test_a_push_is_rendered_whole_or_refused_with_reasons(
    notification: dict[str, Any] | None,
    data: dict[str, str] | None,
    silent: bool,
    collapse: str | None,
    override: bytes | None,
) -> None:
    given = content(
        notification=notification,
        data=data,
        silent=silent,
        collapse=collapse,
        overrides=None if override is None else {"fcm": Raw(override)},
    )
    message = rendered_or_refused(lambda: render(given))
    if message is None:
        return
    assert message.body[:1] == b"{"
    value = msgspec.json.decode(message.body)
    assert value
    assert not value.keys() & {"token", "fid", "topic", "condition", "name", "message"}
    assert size_of(value) <= 4096


@pytest.mark.parametrize(
    ("given", "collapse"),
    [
        (content(notification={"title": "Hi"}), ""),
        (content(notification={"title": "Hi"}, collapse="c"), "c"),
        (content(data={"a": "1"}, collapse="größe"), "größe"),
        (content(notification={"title": "Hi"}, collapse="c", overrides={"fcm": {"android": {"ttl": "9s"}}}), "c"),
        (
            content(notification={"title": "Hi"}, collapse="c", overrides={"fcm": {"android": {"collapseKey": "d"}}}),
            "",
        ),
        (
            content(
                notification={"title": "Hi"},
                collapse="c",
                overrides={"fcm": {"apns": {"headers": {"apns-collapse-id": "d"}}}},
            ),
            "",
        ),
    ],
)
def test_what_replaces_an_earlier_push_says_so(given: Content, collapse: str) -> None:
    message = RENDERER.render(given, push_id=PUSH_ID, starts_at=CREATED_AT)

    assert (message.collapse, message.since) == (collapse, CREATED_AT if collapse else 0)
