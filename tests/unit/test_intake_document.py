"""The push document: what is taken, what is refused, and that the fast way and the slow way agree."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
import string
from typing import Any, NoReturn

import msgspec
import pytest
from hypothesis import example, given, strategies as st
from msgspec import Raw
from msgspec.structs import replace

from pushsvc.api.http.depth import MAX_DEPTH
from pushsvc.api.pushes.document import Draft, checks, push_types, read
from pushsvc.api.rules import Rules
from pushsvc.bodies import LIMIT, examined
from pushsvc.errors import ContentTooLarge, Fault, InvalidRequest, MalformedBody
from pushsvc.model.address import Addresses, AddressKind
from pushsvc.model.devices import Audience, ByDevices, ByTopic, ByUsers, ByWhere, ToAll
from pushsvc.model.instants import instant as shown_at
from pushsvc.model.push import LiveActivity, Target
from pushsvc.wording import show as kind

HEX = re.compile(r"(?:[0-9a-fA-F]{2}){1,200}")
APNS = AddressKind(HEX.fullmatch, "must be hexadecimal", str.lower, device=True)
FCM = AddressKind(
    re.compile(r"[\w:-]+", re.ASCII).fullmatch,
    "must be letters, digits, - _ :",
    same=lambda text: text.partition(":APA91")[0],
    device=True,
)
ADDRESSES = Addresses(
    {
        "apns": {
            "token": APNS,
            "channel": AddressKind(re.compile(r"[\w+/]+=*", re.ASCII).fullmatch, "must be base64"),
            "activity": replace(APNS, device=False),
            "push_to_start": replace(APNS, device=False),
        },
        "fcm": {"token": FCM, "fid": FCM, "topic": replace(FCM, device=False), "condition": replace(FCM, device=False)},
        "webpush": {"token": FCM},
    }
)
RULES = Rules("shop", frozenset({"apns", "fcm"}), ADDRESSES, max_targets=50, live=True)
TOKEN = {"platform": "apns", "token": "8f3c"}
NOW = 1_796_115_600_000
"""2026-12-01T09:00:00Z."""
DAY = 86_400_000


WAYS = "`tokens`, `devices`, `users`, `topic`, `where`, `all`"


def push(**fields: Any) -> dict[str, Any]:
    return {"to": {"tokens": [TOKEN]}, "notification": {"title": "x"}, **fields}


def take(document: Any) -> Draft:
    return read(msgspec.json.encode(document), RULES, NOW)


def faults(document: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequest) as caught:
        take(document)
    return [(fault.path, fault.message) for fault in caught.value.faults]


def walk(document: Any, rules: Rules) -> tuple[Any, list[Fault], bool]:
    """The slow way: the document, its faults, and whether there are more."""
    return examined(document, push_types(rules.addresses, rules.max_targets).document, checks(rules, NOW))


def malformed(body: bytes) -> str:
    with pytest.raises(MalformedBody) as caught:
        read(body, RULES, NOW)
    return caught.value.detail


# --- taken ------------------------------------------------------------------------------------------


def test_a_whole_document_reaches_the_model() -> None:
    draft = take(
        {
            "to": {
                "tokens": [
                    {"platform": "apns", "token": "8f3c"},
                    {"platform": "fcm", "token": "dQw4"},
                    {"platform": "fcm", "fid": "dQw5"},
                    {"platform": "apns", "token": "aa"},
                ]
            },
            "notification": {"title": "Order 7 shipped", "badge": 3},
            "data": {"order": "7"},
            "lane": "urgent",
            "priority": "high",
            "push_type": "alert",
            "ttl": 3600,
            "collapse": "order-7",
            "via": "provider",
            "ack_within": 5,
            "dry_run": True,
            "overrides": {"apns": {"headers": {"apns-topic": "x"}}},
        }
    )
    assert (draft.lane, draft.via, draft.content.ack_within) == ("urgent", "provider", 5.0)
    assert draft.total == 4
    assert draft.targets == {
        "apns": (Target(0, "8f3c"), Target(3, "aa")),
        "fcm": (Target(1, "dQw4"), Target(2, "dQw5", None, "fid")),
    }
    content = draft.content
    assert content.notification is not None
    assert (content.notification.title, content.notification.badge) == ("Order 7 shipped", 3)
    assert (content.data, content.priority, content.push_type) == ({"order": "7"}, "high", "alert")
    assert (content.ttl, content.collapse, content.dry_run, content.silent) == (3600, "order-7", True, False)


def test_defaults() -> None:
    draft = take(push())
    assert (draft.lane, draft.via, draft.content.ack_within) == ("normal", "auto", None)
    content = draft.content
    assert (content.priority, content.ttl, content.silent, content.dry_run, content.data) == (
        None,
        None,
        False,
        False,
        None,
    )


@given(
    st.fixed_dictionaries(
        {"platform": st.sampled_from(["apns", "fcm", "webpush", "pager"])},
        optional={
            "environment": st.sampled_from([None, "production", "sandbox"]),
            **dict.fromkeys(
                ("token", "channel", "fid", "topic"), st.sampled_from([None, "8F3c", "8f3", "x:APA91y", ""])
            ),
        },
    )
)
@example({"platform": "apns", "token": "8F3C"})
@example({"platform": "apns", "token": "8F3C", "environment": "sandbox"})
@example({"platform": "fcm", "fid": "8F3C", "token": None})
def test_a_token_alone_is_read_as_it_is_beside_another(entry: dict[str, Any]) -> None:
    rules = dataclasses.replace(RULES, routes={("apns", "sandbox"): "apns_sandbox", ("fcm", None): "fcm_sandbox"})

    def targets(*tokens: dict[str, Any]) -> Any:
        try:
            return read(msgspec.json.encode(push(to={"tokens": tokens})), rules, NOW).targets
        except InvalidRequest:
            return None

    assert targets(entry) == targets(entry, entry)


def test_the_same_token_twice_is_one_delivery_and_indexes_have_no_gap() -> None:
    entries = [TOKEN, {"platform": "fcm", "token": "a"}, TOKEN, {"platform": "fcm", "fid": "b"}, TOKEN]
    draft = take(push(to={"tokens": entries}))
    assert draft.targets == {
        "apns": (Target(0, "8f3c"),),
        "fcm": (Target(1, "a"), Target(2, "b", None, "fid")),
    }
    assert draft.total == 3


@pytest.mark.parametrize("kind", ["token", "activity", "push_to_start"])
def test_an_apns_token_is_one_in_either_case(kind: str) -> None:
    draft = take(push(to={"tokens": [{"platform": "apns", kind: "AB12"}, {"platform": "apns", kind: "ab12"}]}))
    assert draft.targets == {"apns": (Target(0, "ab12", None, kind),)}


def test_what_is_no_hexadecimal_is_distinguished_by_case() -> None:
    given = [("fcm", "token", "Ab"), ("fcm", "token", "ab"), ("apns", "channel", "Ab=="), ("apns", "channel", "ab==")]
    draft = take(push(to={"tokens": [{"platform": platform, kind: text} for platform, kind, text in given]}))
    assert [target.token for targets in draft.targets.values() for target in targets] == ["Ab", "ab", "Ab==", "ab=="]


@pytest.mark.parametrize(
    ("first", "second"), [(("token", "F:APA91b"), ("fid", "F")), (("fid", "F"), ("token", "F:APA91b"))]
)
def test_an_fcm_token_and_its_installation_are_one_delivery(first: tuple[str, str], second: tuple[str, str]) -> None:
    draft = take(push(to={"tokens": [{"platform": "fcm", kind: text} for kind, text in (first, second)]}))
    assert draft.targets == {"fcm": (Target(0, first[1], None, first[0]),)}


def test_each_kind_of_target_has_its_field() -> None:
    entries = [
        {"platform": "apns", "channel": "dHN0LXNyY2gtY2hubA=="},
        {"platform": "apns", "activity": "8f3c"},
        {"platform": "apns", "push_to_start": "8f3c"},
        {"platform": "apns", "activity": "8f3c", "token": None},
        {"platform": "apns", "token": "8f3c"},
    ]
    draft = take(push(to={"tokens": entries}))
    assert draft.targets == {
        "apns": (
            Target(0, "dHN0LXNyY2gtY2hubA==", None, "channel"),
            Target(1, "8f3c", None, "activity"),
            Target(2, "8f3c", None, "push_to_start"),
            Target(3, "8f3c"),
        )
    }


START = {
    "event": "start",
    "content_state": {"score": "0:0", "clock": 1},
    "attributes_type": "MatchAttributes",
    "attributes": {"home": "A"},
    "alert": {"title": "Kick-off", "sound": "whistle.aiff"},
    "stale_date": "2026-12-01T10:00:00+01:00",
    "relevance_score": 75,
    "input_push_channel": "dHN0LXNyY2gtY2hubA==",
}
ACTIVITY = {"platform": "apns", "activity": "8f3c"}


def activity(**fields: Any) -> dict[str, Any]:
    """A push that updates a Live Activity, with these fields over it."""
    return {
        "to": {"tokens": [ACTIVITY]},
        "live_activity": {"event": "update", "content_state": {"score": "1:0"}, **fields},
    }


def test_a_live_activity_reaches_the_model_byte_for_byte() -> None:
    text = b'{ "a":1.10 ,"b":{"z":1, "a":[ ]}}'
    body = msgspec.json.encode({"to": {"tokens": [ACTIVITY]}, "live_activity": {**START, "content_state": Raw(text)}})
    live = read(body, RULES, NOW).content.live_activity
    assert live is not None
    assert live.content_state == {"a": Raw(b"1.10"), "b": Raw(b'{"z":1, "a":[ ]}')}
    assert live == LiveActivity(
        event="start",
        content_state=live.content_state,
        attributes_type="MatchAttributes",
        attributes={"home": Raw(b'"A"')},
        alert={"title": Raw(b'"Kick-off"'), "sound": Raw(b'"whistle.aiff"')},
        stale_date=1_796_115_600,
        relevance_score=75,
        input_push_channel="dHN0LXNyY2gtY2hubA==",
    )


def test_the_notification_may_be_the_alert_of_a_live_activity() -> None:
    started = {name: value for name, value in START.items() if name != "alert"}
    content = take(push(live_activity=started, notification={"title": "Kick-off", "sound": "default"})).content
    assert content.notification is not None
    assert content.live_activity is not None
    assert content.live_activity.alert is None


def test_an_activity_ends_without_a_last_state_and_null_is_nothing() -> None:
    ended = {"event": "end", "dismissal_date": "2020-01-01T00:00:00Z"}
    live = take({"to": {"tokens": [ACTIVITY]}, "live_activity": ended}).content.live_activity
    assert live == LiveActivity(event="end", dismissal_date=1_577_836_800)
    nulls = {**dict.fromkeys(START), "input_push_token": False, **ended}
    assert take({"to": {"tokens": [ACTIVITY]}, "live_activity": nulls}).content.live_activity == live


def test_overrides_pass_byte_for_byte() -> None:
    raw = b'{ "payload" : {"z":1.0, "a":1e2,\t"b":12345678901234567890, "c":"\\u00e9\\/", "a": 2} }'
    body = b'{"to":{"tokens":[{"platform":"apns","token":"8f3c"}]},"overrides":{"apns": ' + raw + b" }}"
    assert bytes(read(body, RULES, NOW).content.overrides["apns"]) == raw


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-12-01T09:00:00.001Z", NOW + 1),
        ("2026-12-01t10:30:00.25z", NOW + 90 * 60_000 + 250),
        ("2026-12-01 10:00:01+01:00", NOW + 1000),
        ("2026-11-30T23:00:00.123456789-10:01", NOW + 60_123),
        ("2027-12-02T09:00:00Z", NOW + 366 * DAY),
        # What has passed, or is now, means at once.
        ("2026-12-01T09:00:00Z", None),
        ("2026-12-01T09:59:59+01:00", None),
        ("0001-01-01T00:00:00+23:59", None),
    ],
)
def test_when_it_is_to_be_sent(text: str, at: int | None) -> None:
    assert take(push(send_at=text)).send_at == at


@given(st.integers(NOW + 1, NOW + 366 * DAY))
def test_an_instant_is_exact_to_the_millisecond(at: int) -> None:
    assert take(push(send_at=shown_at(at))).send_at == at


def test_null_is_the_same_as_leaving_out() -> None:
    names = (
        "data",
        "lane",
        "priority",
        "push_type",
        "silent",
        "ttl",
        "collapse",
        "send_at",
        "via",
        "ack_within",
        "dry_run",
        "overrides",
    )
    with_nulls = push(**dict.fromkeys(names))
    with_nulls["to"] |= dict.fromkeys(("devices", "users", "topic", "where", "all"))
    with_nulls["notification"] |= {"body": None, "badge": None}
    assert take(with_nulls) == take(push())


def test_an_empty_notification_counts_as_none() -> None:
    assert take(push(notification={"title": None}, data={"a": ""})).content.notification is None


def test_an_override_alone_is_enough_when_it_has_a_payload() -> None:
    assert take({"to": {"tokens": [TOKEN]}, "overrides": {"fcm": {"android": {}}}}).total == 1


@pytest.mark.parametrize(
    ("to", "audience"),
    [
        ({"devices": ["d1", "d2", "d1"]}, ByDevices(("d1", "d2"))),
        ({"users": ["ü"]}, ByUsers(("ü",))),
        ({"devices": ["x" * 128]}, ByDevices(("x" * 128,))),
        ({"topic": "news"}, ByTopic("news")),
        ({"where": " tags.plan == 'pro'\n"}, ByWhere(" tags.plan == 'pro'\n")),
        ({"all": True}, ToAll()),
    ],
)
def test_an_audience_stands_in_place_of_targets(to: dict[str, Any], audience: Audience) -> None:
    draft = take(push(to=to))
    assert (draft.audience, draft.targets, draft.total, draft.only) == (audience, {}, 0, None)


@pytest.mark.parametrize(
    ("fields", "only"),
    [
        ({"notification": {"title": "x"}, "overrides": {"apns": {"payload": {}}}}, None),
        ({"data": {"a": "b"}}, None),
        ({"overrides": {"apns": {"payload": {}}, "fcm": {"headers": {}}}}, {"apns"}),
        ({"overrides": {"apns": {"payload": {}}, "fcm": {"android": {}}}, "notification": {}}, {"apns", "fcm"}),
    ],
)
def test_overrides_alone_speak_to_their_platforms_only(fields: dict[str, Any], only: set[str] | None) -> None:
    assert take({"to": {"all": True}, **fields}).only == only


INSTANT = "an instant like 2026-12-01T09:00:00Z"
BADGES = "a whole number from 0 to 2,147,483,647, or `unread`"
TARGET_FIELDS = "activity, channel, condition, environment, fid, platform, push_to_start, token, topic"
SHOWN_FIELDS = "badge, body, category, channel, image, link, sound, subtitle, thread, title"
ACTIVITY_FIELDS = (
    "alert, attributes, attributes_type, content_state, dismissal_date, event, input_push_channel, input_push_token, "
    "relevance_score, stale_date"
)

# --- refused ----------------------------------------------------------------------------------------

REFUSED: list[tuple[Any, list[tuple[str, str]]]] = [
    ([], [("$", "expected an object, found a list")]),
    ("x", [("$", 'expected an object, found "x"')]),
    (
        {},
        [
            ("to", 'is missing: expected an object such as {"tokens": [..]}'),
            ("$", "has no content: add `notification`, `live_activity`, `data` or an override with a payload"),
        ],
    ),
    (push(to=None), [("to", 'is missing: expected an object such as {"tokens": [..]}')]),
    (push(to=[TOKEN]), [("to", 'expected an object such as {"tokens": [..]}, found a list')]),
    (push(to={}), [("to", f"has no receivers: one of {WAYS} is needed")]),
    (push(to={"tokens": []}), [("to.tokens", "must not be empty")]),
    (push(to={"tokens": "8f"}), [("to.tokens", "expected a list, found a string")]),
    (
        push(to={"token": [TOKEN]}),
        [
            ("to.token", "unknown field; did you mean `tokens`?"),
            ("to", f"has no receivers: one of {WAYS} is needed"),
        ],
    ),
    (
        push(to={"tokens": [TOKEN] * 51}),
        [("to.tokens", "has 51 entries, at most 50 are taken")],
    ),
    (
        push(to={"tokens": ["8f3c"]}),
        [("to.tokens[0]", 'expected an object such as {"platform": "apns", "token": ".."}, found a string')],
    ),
    (push(to={"tokens": [{"platform": "apns"}]}), [("to.tokens[0].token", "is missing")]),
    (
        push(to={"tokens": [{"token": "8f"}]}),
        [("to.tokens[0].platform", 'is missing: expected the name of a platform, such as "apns"')],
    ),
    (
        push(to={"tokens": [{"platform": None, "token": "8f"}]}),
        [("to.tokens[0].platform", 'is missing: expected the name of a platform, such as "apns"')],
    ),
    (
        push(to={"tokens": [{"platform": "apn", "token": "8f"}]}),
        [("to.tokens[0].platform", "unknown platform; known are `apns`, `fcm`, `webpush`")],
    ),
    (
        push(to={"tokens": [{"platform": "webpush", "token": "8f"}]}),
        [
            (
                "to.tokens[0].platform",
                "webpush is not configured for the app shop: add [apps.shop.webpush] to the configuration",
            )
        ],
    ),
    (
        push(to={"tokens": [{"platform": "fcm", "token": "a", "fid": "b"}]}),
        [("to.tokens[0]", "may have either `token` or `fid`, not both")],
    ),
    (
        push(to={"tokens": [TOKEN, {"platform": "apns", "token": "not hex"}, {"platform": "apns", "token": 7}]}),
        [
            ("to.tokens[1].token", "must be hexadecimal"),
            ("to.tokens[2].token", "expected a string, found a number"),
        ],
    ),
    (push(to={"tokens": [{**TOKEN, "user": "u1"}]}), [("to.tokens[0].user", f"unknown field; known: {TARGET_FIELDS}")]),
    (
        push(to={"tokens": [{"platform": "apns", "channel": "é", "activity": "xy", "push_to_start": "8f3c"}]}),
        [
            ("to.tokens[0]", "may have either `channel` or `activity` or `push_to_start`, not all of them"),
            ("to.tokens[0].channel", "must be base64"),
            ("to.tokens[0].activity", "must be hexadecimal"),
        ],
    ),
    # Live Activities.
    (push(live_activity=[]), [("live_activity", "expected an object, found a list")]),
    (push(live_activity={}), [("live_activity.event", 'is missing: expected one of "start", "update", "end"')]),
    (
        activity(event="begin", title="x"),
        [
            ("live_activity.event", 'expected one of "start", "update", "end", found "begin"'),
            ("live_activity.title", f"unknown field; known: {ACTIVITY_FIELDS}"),
        ],
    ),
    (
        {"to": {"tokens": [ACTIVITY]}, "live_activity": {"event": "start"}},
        [
            ("live_activity.content_state", "is missing: it is the content that the activity shows after `start`"),
            ("live_activity.attributes_type", "is missing: it names the activity to start"),
            ("live_activity.attributes", "is missing: it names the activity to start"),
            (
                "live_activity.alert",
                "is missing: the start of an activity alerts the user; give it here or as `notification`",
            ),
        ],
    ),
    (
        activity(content_state=None),
        [("live_activity.content_state", "is missing: it is the content that the activity shows after `update`")],
    ),
    (
        activity(attributes={}, attributes_type="A", input_push_token=True, dismissal_date="2026-12-01T09:00:00Z"),
        [
            ("live_activity.attributes_type", "belongs to `start`, not to `update`"),
            ("live_activity.attributes", "belongs to `start`, not to `update`"),
            ("live_activity.input_push_token", "belongs to `start`, not to `update`"),
            ("live_activity.dismissal_date", "belongs to `end`, not to `update`"),
        ],
    ),
    (
        activity(content_state="1:0", stale_date=1_796_115_600, relevance_score="high", input_push_channel=""),
        [
            ("live_activity.content_state", "expected an object, found a string"),
            ("live_activity.stale_date", "expected an instant like 2026-12-01T09:00:00Z, found the number 1796115600"),
            ("live_activity.relevance_score", 'expected a number, found "high"'),
            ("live_activity.input_push_channel", "must not be empty"),
            ("live_activity.input_push_channel", "belongs to `start`, not to `update`"),
        ],
    ),
    (
        activity(stale_date="tomorrow"),
        [("live_activity.stale_date", "must be an instant as in RFC 3339, with its offset: 2026-12-01T09:00:00Z")],
    ),
    (
        push(live_activity={**START, "input_push_token": True}, silent=True),
        [
            (
                "live_activity.input_push_token",
                "excludes `input_push_channel`: one of them updates the activity",
            ),
            ("live_activity.alert", "is given twice: here and in `notification`"),
            ("live_activity", "is visible: omit `silent`"),
            ("silent", "a silent push shows nothing: leave out `silent`, or `title` of `notification`"),
        ],
    ),
    (
        {**activity(), "notification": {"title": "Goal", "badge": 1, "thread": "t"}},
        [
            (
                "live_activity",
                "its alert uses only `title`, `body`, `sound` of the notification: omit `badge`, `thread`",
            )
        ],
    ),
    (push(notification="hello there"), [("notification", "expected an object, found a string")]),
    (push(notification={"title": 5}), [("notification.title", "expected a string, found the number 5")]),
    (push(notification={"badge": True}), [("notification.badge", f"expected {BADGES}, found true")]),
    (
        push(notification={"badge": 3.5}),
        [("notification.badge", "must be a whole number")],
    ),
    (
        push(notification={"badge": -1}),
        [("notification.badge", "expected a whole number from 0 to 2,147,483,647, or `unread`, found the number -1")],
    ),
    (
        push(notification={"text": "x"}, data={"a": "b"}),
        [("notification.text", f"unknown field; known: {SHOWN_FIELDS}")],
    ),
    (push(data=["a"]), [("data", "expected an object, found a list")]),
    (
        push(data={"order": 7, "a b": None}),
        [
            ("data.order", "expected a string (the providers carry nothing else), found the number 7"),
            ('data["a b"]', "expected a string (the providers carry nothing else), found null"),
        ],
    ),
    (push(lane="fast"), [("lane", 'expected one of "urgent", "normal", "bulk", found "fast"')]),
    (push(priority=10), [("priority", 'expected one of "high", "normal", found the number 10')]),
    (push(push_type=""), [("push_type", "must not be empty")]),
    (push(push_type="x" * 33), [("push_type", "is 33 characters long, at most 32 are taken")]),
    (push(silent="yes"), [("silent", 'expected true or false, found "yes"')]),
    (
        push(silent=True),
        [("silent", "a silent push shows nothing: leave out `silent`, or `title` of `notification`")],
    ),
    (
        push(ttl=2_419_201),
        [("ttl", "expected a whole number of seconds from 0 to 2,419,200, found the number 2419201")],
    ),
    (push(ttl=2.5), [("ttl", "must be a whole number")]),
    (push(ttl="1h"), [("ttl", "expected a whole number of seconds from 0 to 2,419,200, found a string")]),
    (push(ttl="3600"), [("ttl", "expected a whole number of seconds from 0 to 2,419,200, found a string")]),
    (push(collapse=""), [("collapse", "must not be empty")]),
    (
        push(to={"tokens": [{"platform": "fcm", "token": "dQw4"}]}, collapse="x" * 65),
        [("collapse", "is 65 characters long, at most 64 are taken")],
    ),
    (push(to={"all": True}, collapse="x" * 70_000), [("collapse", "is 70,000 characters long, at most 64 are taken")]),
    *(
        (
            push(notification=None, live_activity={**START, name: "x" * 513}),
            [(f"live_activity.{name}", "is 513 characters long, at most 512 are taken")],
        )
        for name in ("attributes_type", "input_push_channel")
    ),
    (push(via="sms"), [("via", 'expected one of "auto", "live", "provider", found "sms"')]),
    (
        push(via="live"),
        [
            (
                "via",
                "only registered devices are reached by the live channel: name them in `to` by one of `devices`, "
                "`users`, `topic`, `where`, `all`",
            )
        ],
    ),
    *(
        (push(ack_within=wrong), [("ack_within", f"expected a number of seconds from 0.1 to 3,600, found {shown}")])
        for wrong, shown in ((0, "the number 0"), (3600.5, "the number 3600.5"), ("10", "a string"), (True, "true"))
    ),
    (push(dry_run=1), [("dry_run", "expected true or false, found the number 1")]),
    (push(colapse="x"), [("colapse", "unknown field; did you mean `collapse`?")]),
    (push(**{"x" * 41: 1}), [("[a name of 41 characters]", "unknown field")]),
    (push(overrides=[]), [("overrides", "expected an object, found a list")]),
    (push(overrides={"ios": {}}), [("overrides.ios", "unknown platform; known are `apns`, `fcm`, `webpush`")]),
    (push(overrides={"apns": None}), [("overrides.apns", "expected an object, found null")]),
    (
        {"to": {"tokens": [TOKEN]}, "overrides": {"apns": {"headers": {"apns-topic": "x"}}}},
        [("$", "has no content: add `notification`, `live_activity`, `data` or an override with a payload")],
    ),
    (push(send_at=7), [("send_at", "expected an instant like 2026-12-01T09:00:00Z, found the number 7")]),
    (
        push(send_at=1_796_115_600),
        [("send_at", "expected an instant like 2026-12-01T09:00:00Z, found the number 1796115600")],
    ),
    *(
        (
            push(send_at=text),
            [("send_at", "must be an instant as in RFC 3339, with its offset: 2026-12-01T09:00:00Z")],
        )
        for text in ("", "tomorrow", "2026-12-01", "2026-12-01T09:00:00", "2026-12-01T09:00Z", "1796115600")
    ),
    (push(send_at="2027-02-29T09:00:00Z"), [("send_at", "is a date or time that does not exist")]),
    (push(send_at="2027-12-02T09:00:00.001Z"), [("send_at", "must not be more than 366 days ahead")]),
    (push(send_at="9999-12-31T23:59:59-23:59"), [("send_at", "must not be more than 366 days ahead")]),
    # Audiences.
    (push(to={"topic": "a b"}), [("to.topic", "must be 1 to 128 printable characters without spaces")]),
    (push(to={"topic": ["news"]}), [("to.topic", "expected a string, found a list")]),
    (
        push(to={"where": "tags.plan = 'pro'"}),
        [("to.where", "column 11: `=` cannot stand here; write `==`")],
    ),
    (
        push(to={"where": "user < 'a' or platform == 'ios'"}),
        [
            ("to.where", "column 6: `user` has no order; compare it with ==, != or in"),
            ("to.where", "column 27: `platform` is 'apns' or 'fcm'"),
        ],
    ),
    (push(to={"where": True}), [("to.where", "expected a string, found true")]),
    (
        push(to={"where": "x" * 4097}),
        [("to.where", "is 4,097 characters long, at most 4,096 are taken")],
    ),
    (push(to={"all": False}), [("to.all", "expected true, found false")]),
    (push(to={"all": "yes"}), [("to.all", 'expected true, found "yes"')]),
    (
        push(to={"users": ["u1", 2, ""]}),
        [
            ("to.users[1]", "expected a string, found the number 2"),
            ("to.users[2]", "must not be empty"),
        ],
    ),
    (push(to={"users": []}), [("to.users", "must not be empty")]),
    (push(to={"devices": {}}), [("to.devices", "expected a list, found an object")]),
    (
        push(to={"devices": ["d"] * 51}),
        [("to.devices", "has 51 entries, at most 50 are taken")],
    ),
    (
        push(to={"tokens": [TOKEN], "all": True}),
        [("to", f"may have only one of {WAYS}; found `tokens`, `all`")],
    ),
    (
        push(to={"devices": ["d"], "where": "tags.", "topic": None}),
        [
            ("to", f"may have only one of {WAYS}; found `devices`, `where`"),
            ("to.where", "column 6: expected the name of a tag after `tags.`, found the end; or write tags['..']"),
        ],
    ),
]


@pytest.mark.parametrize(("document", "expected"), REFUSED, ids=lambda value: None)
def test_refusals(document: Any, expected: list[tuple[str, str]]) -> None:
    assert faults(document) == expected


@pytest.mark.parametrize(
    ("via", "platforms", "message"),
    [
        ("live", {"apns"}, "the app shop has no live channel: add [apps.shop.live] to the configuration"),
        ("provider", {"live"}, "the app shop has no provider: add one as [apps.shop.apns] to the configuration"),
    ],
)
def test_a_channel_that_the_app_does_not_have_is_refused(via: str, platforms: set[str], message: str) -> None:
    rules = dataclasses.replace(RULES, platforms=platforms, live="live" in platforms)
    with pytest.raises(InvalidRequest) as caught:
        read(msgspec.json.encode(push(to={"all": True}, via=via)), rules, NOW)
    assert caught.value.faults == (Fault("via", message),)
    assert read(msgspec.json.encode(push(to={"all": True}, via="auto")), rules, NOW).via == "auto"


def test_every_fault_is_named_at_once() -> None:
    document = push(
        to={"tokens": [{"platform": "apns", "token": " "} for _ in range(40)]},
        data={f"k{number}": number for number in range(156)},
        lane=1,
        ttl=-1,
        nonsense=0,
        notification={"badge": "3"},
    )
    found = faults(document)
    assert len(found) == 40 + 156 + 4
    assert ("to.tokens[39].token", "must be hexadecimal") in found
    assert ("data.k155", "expected a string (the providers carry nothing else), found the number 155") in found


def test_the_list_of_faults_is_bounded_and_says_so() -> None:
    with pytest.raises(InvalidRequest) as caught:
        take(push(data={f"k{number}": number for number in range(LIMIT + 1)}))
    assert len(caught.value.faults) == LIMIT
    assert caught.value.detail == "The first 1,000 faults are listed; there are more."
    with pytest.raises(InvalidRequest) as caught:
        take(push(data={f"k{number}": number for number in range(LIMIT)}))
    assert caught.value.detail == "1,000 faults were found."


def test_no_fault_repeats_a_token_or_a_long_value() -> None:
    secret = "5ec2e7" * 10
    documents = [
        push(to={"tokens": [secret]}),
        push(to={"tokens": [{"platform": "apns", "token": secret + " "}]}),
        push(to={"tokens": [{"platform": secret, "token": secret}]}),
        push(to={"tokens": [{"platform": "apns", "token": {secret: 1}}]}),
        push(to={"tokens": secret}),
        push(to={secret: secret}),
        push(lane=secret, priority=secret, silent=secret, ttl=secret, notification=secret),
    ]
    for document in documents:
        assert secret not in repr(faults(document))
    assert "dQw4" not in repr(faults(push(to={"tokens": ["dQw4"]})))


# --- not JSON ---------------------------------------------------------------------------------------

PREFIX = b'{"to":{"tokens":[{"platform":"apns","token":"8f3c"}]},"overrides":{"apns":{"payload":'
MALFORMED: list[tuple[bytes, str]] = [
    (b"", "The body is empty; a JSON object was expected."),
    (b" \n\t ", "The body is empty; a JSON object was expected."),
    (b"hello", "Not JSON: Expecting value, line 1, column 1."),
    (b'{"to":\n  nul}', "Not JSON: Expecting value, line 2, column 3."),
    (b'{"to": {}} x', "Not JSON: Extra data, line 1, column 12."),
    (b'{"ttl": NaN}', "Not JSON: invalid character, line 1, column 9."),
    (b'{"ttl":\n-Infinity}', "Not JSON: invalid character, line 2, column 2."),
    (b'{"ttl": 1e999}', "A number is out of range: beyond a 64-bit float, or of thousands of digits."),
    (b'{"ttl": ' + b"9" * 5000 + b"}", "A number is out of range: beyond a 64-bit float, or of thousands of digits."),
    (b'\xef\xbb\xbf{"to":{}}', "The body begins with a byte order mark; send it without."),
    (b'{"to": "\xff"}', "The body is not UTF-8: byte 8 (0xff)."),
    ('{"to": "ü"}'.encode("latin-1"), "The body is not UTF-8: byte 8 (0xfc)."),
    (json.dumps(push()).encode("utf-16"), "The body is not UTF-8: byte 0 (0xff)."),
    (b'{"to": "\\ud800"}', "Not JSON: a lone surrogate (\\ud800 to \\udfff) in a string."),
    (b'{"to": "\\udc00 "}', "Not JSON: invalid utf-16 surrogate pair, line 1, column 15."),
    (b'{"to": "a\nb"}', "Not JSON: Invalid control character at, line 1, column 10."),
    (b'{"to": "a\x00b"}', "Not JSON: Invalid control character at, line 1, column 10."),
    (b"[" * 100_000, "The JSON is nested too deeply."),
    (b'{"to":' * 100_000, "The JSON is nested too deeply."),
    (b"[" * 100_000 + b"]" * 100_000, "The JSON is nested too deeply."),
    (PREFIX + b"[" * 100_000 + b"]" * 100_000 + b"}}}", "The JSON is nested too deeply."),
    # Also within what passes through untouched.
    (PREFIX + b'"\xff"}}}', "The body is not UTF-8: byte 86 (0xff)."),
    (PREFIX + b"NaN}}}", "Not JSON: invalid character, line 1, column 86."),
    (PREFIX + b"1e999}}}", "A number is out of range: beyond a 64-bit float, or of thousands of digits."),
    (PREFIX + b'"\\ud800"}}}', "Not JSON: a lone surrogate (\\ud800 to \\udfff) in a string."),
]


@pytest.mark.parametrize(("body", "expected"), MALFORMED, ids=lambda value: None)
def test_what_is_not_json_is_said_with_its_place(body: bytes, expected: str) -> None:
    assert malformed(body) == expected


def test_depth_within_overrides_is_bounded() -> None:
    def nested(levels: int) -> Any:
        value: Any = {}
        for _ in range(levels - 1):
            value = {"payload": value}
        return push(overrides={"apns": value})

    assert take(nested(MAX_DEPTH)).total == 1
    assert faults(nested(MAX_DEPTH + 1)) == [("overrides.apns", "is nested more than 100 levels deep")]


def test_of_a_name_given_twice_the_last_counts() -> None:
    assert read(b'{"ttl":1,"ttl":2,' + msgspec.json.encode(push())[1:], RULES, NOW).content.ttl == 2
    with pytest.raises(InvalidRequest) as caught:
        read(b'{"ttl":"x","ttl":2,' + msgspec.json.encode(push())[1:], RULES, NOW)
    assert caught.value.faults == (Fault("ttl", "is given more than once in one object"),)


# --- the fast way and the slow way agree ------------------------------------------------------------

words = st.text(max_size=8)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-1, 3),
    st.sampled_from([2_419_200, 2_419_201, 2**31 - 1, 2**31]),
    st.floats(allow_nan=False, allow_infinity=False),
    words,
)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Nearly always right, so that whole documents are."""
    return st.one_of(*[good] * 12, st.none(), anything)


tokens = st.one_of(
    st.fixed_dictionaries(
        {
            "platform": mostly(st.sampled_from(["apns", "fcm", "webpush"])),
            "token": mostly(st.sampled_from(["8f3c", "aa", "AA", "a", " ", "\0", "\U0001f600", ""])),
        }
    ),
    st.fixed_dictionaries({"platform": st.just("fcm"), "fid": mostly(st.sampled_from(["dQw4", "8f", ""]))}),
    st.fixed_dictionaries(
        {"platform": st.sampled_from(["apns", "fcm"])},
        optional={"token": st.just("8f"), "fid": st.just("8f"), "x": scalars},
    ),
    st.fixed_dictionaries({"platform": st.just("apns"), "token": st.just("8f3c")}),
    st.fixed_dictionaries(
        {"platform": st.just("fcm")},
        optional={"topic": mostly(st.just("a")), "condition": mostly(st.sampled_from(["a", "", "'a' in topics"]))},
    ),
    st.fixed_dictionaries({"platform": st.just("apns"), "channel": mostly(st.sampled_from(["dA==", "é", ""]))}),
    st.fixed_dictionaries(
        {"platform": st.just("apns")},
        optional={"activity": mostly(st.just("8f")), "push_to_start": mostly(st.just("8f"))},
    ),
)
good_token = st.fixed_dictionaries({"platform": st.just("fcm"), "token": st.text(string.ascii_letters, min_size=1)})
ways: dict[str, st.SearchStrategy[Any]] = {
    "tokens": st.one_of(st.lists(good_token, min_size=1, max_size=4), mostly(st.lists(tokens, max_size=4))),
    "devices": mostly(st.lists(mostly(words), max_size=51)),
    "users": mostly(st.lists(mostly(words), max_size=4)),
    "topic": mostly(words),
    "where": mostly(st.sampled_from(["tags.a", "tags.a ==", "platform == 'webpush'", "platform != 'fcm'", "a or b"])),
    "all": mostly(st.booleans()),
}
receivers = st.one_of(
    *(st.fixed_dictionaries({way: given}, optional={"x": st.none()}) for way, given in ways.items()),
    st.fixed_dictionaries({}, optional=ways),
)
shown = st.fixed_dictionaries(
    {},
    optional={
        "title": mostly(words),
        "body": mostly(words),
        "badge": mostly(st.sampled_from([0, 3, 3.0, 3.5, 2**31 - 1])),
        "thread": mostly(words),
        "sound": mostly(words),
    },
)
instants = st.one_of(
    st.integers(NOW - DAY, NOW + 366 * DAY + 2).map(shown_at),
    st.integers(NOW - 2, NOW + 2).map(shown_at),
    st.integers(NOW + 366 * DAY - 2, NOW + 366 * DAY + 2).map(shown_at),
    st.datetimes().map(lambda when: when.isoformat() + "+02:00"),
)
objects = st.dictionaries(words, anything, max_size=2)
dates = st.sampled_from(["2026-12-01T09:00:00Z", "2026-12-01T10:00:00.5+01:00", "2026-13-01T09:00:00Z", "soon"])
activities = st.fixed_dictionaries(
    {"event": mostly(st.sampled_from(["start", "update", "end"])), "content_state": mostly(objects)},
    optional={
        "attributes_type": mostly(words),
        "attributes": mostly(objects),
        "alert": mostly(objects),
        "stale_date": mostly(dates),
        "dismissal_date": mostly(dates),
        "relevance_score": scalars,
        "input_push_channel": mostly(words),
        "input_push_token": mostly(st.booleans()),
        "x": st.none(),
    },
)
started = st.fixed_dictionaries(
    {
        "event": st.just("start"),
        "content_state": objects,
        "attributes_type": st.just("A"),
        "attributes": objects,
    },
    optional={"alert": objects, "input_push_token": st.booleans()},
)
documents = st.fixed_dictionaries(
    {"to": mostly(receivers)},
    optional={
        "notification": mostly(shown),
        "live_activity": st.one_of(st.none(), mostly(st.one_of(activities, started))),
        "data": mostly(st.dictionaries(words, mostly(words), max_size=3)),
        "lane": mostly(st.sampled_from(["urgent", "normal", "bulk"])),
        "priority": mostly(st.sampled_from(["high", "normal"])),
        "push_type": mostly(st.text(max_size=33)),
        "silent": mostly(st.booleans()),
        "ttl": mostly(st.integers(-1, 2_419_201) | st.sampled_from([0.0, -0.0, 60.0, 0.5, 2_419_200.0, 2_419_201.0])),
        "collapse": mostly(words),
        "send_at": mostly(instants),
        "via": mostly(st.sampled_from(["auto", "live", "provider"])),
        "ack_within": mostly(st.sampled_from([0.1, 10, 3600.0, 3601])),
        "dry_run": mostly(st.booleans()),
        "overrides": mostly(
            st.dictionaries(
                st.sampled_from(["apns", "fcm", "webpush", "x"]),
                mostly(st.dictionaries(st.sampled_from(["headers", "payload", "android"]), anything, max_size=2)),
                max_size=2,
            )
        ),
        "nonsense": st.none(),
    },
)


@given(document=st.one_of(documents, documents, documents, anything))
@example(document=push())
@example(document=push(notification={}, data={}))
@example(document=push(notification={"thread": "x"}, silent=True))
@example(document=activity())
@example(document=push(live_activity={**START, "alert": {}}))
@example(document=push(live_activity={**START, "alert": None}, notification={"sound": "x"}))
@example(document=activity(content_state={"x": 1e300}, alert={}, relevance_score=2**70))
@example(document=push(send_at=shown_at(NOW + 366 * DAY)))
@example(document=push(send_at=shown_at(NOW + 366 * DAY + 1)))
def test_the_fast_way_takes_exactly_what_the_walk_finds_no_fault_in(document: Any) -> None:
    refused: list[Fault] = []
    try:
        take(document)
    except InvalidRequest as error:
        refused = list(error.faults) or [Fault("", "a refusal names its faults")]
    value, found, _ = walk(document, RULES)
    assert refused == found
    if not found:
        typed = push_types(ADDRESSES, RULES.max_targets).decode(msgspec.json.encode(document))
        assert msgspec.json.encode(value) == msgspec.json.encode(typed)


@given(text=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_crash_it(text: bytes) -> None:
    with pytest.raises((MalformedBody, InvalidRequest)) as caught:
        read(text, RULES, NOW)
    assert str(caught.value)


@given(document=documents, data=st.data())
def test_no_mangled_document_crashes_it(document: Any, data: st.DataObject) -> None:
    body = bytearray(msgspec.json.encode(document))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        if not body:
            break
    named = 1
    try:
        draft = read(bytes(body), RULES, NOW)
        named = draft.total + (draft.audience is not None)
    except MalformedBody:
        with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
            msgspec.json.decode(bytes(body))
    except InvalidRequest as error:
        named = len(error.faults)
    assert named > 0


@given(value=anything)
def test_kinds_are_short(value: Any) -> None:
    assert 0 < len(kind(value)) <= 60


def test_the_walk_changes_nothing() -> None:
    document = push(to={"tokens": [TOKEN], "where": "x"}, ttl=math.pi)
    before = copy.deepcopy(document)
    walk(document, RULES)
    assert document == before


def test_the_walk_ends_when_the_list_is_full() -> None:
    asked = 0

    def count(token: str) -> bool:
        nonlocal asked
        asked += 1
        return False

    rules = Rules("shop", {"apns"}, Addresses({"apns": {"token": AddressKind(count, "no")}}))
    document = push(to={"tokens": [{"platform": "apns", "token": str(number)} for number in range(10_000)]})
    _, found, more = walk(document, rules)
    assert (len(found), more, asked) == (LIMIT, True, LIMIT + 1)


def test_of_too_many_receivers_none_is_looked_at() -> None:
    def looked(token: str) -> NoReturn:
        raise AssertionError("it was looked at")

    kind = AddressKind(looked, "no", looked)
    rules = Rules("shop", {"apns"}, Addresses({"apns": {"token": kind}}), max_targets=50)
    for way, each in (("tokens", TOKEN), ("devices", "a b"), ("users", "a b")):
        with pytest.raises(InvalidRequest) as caught:
            read(msgspec.json.encode(push(to={way: [each] * 51}, collapse="")), rules, NOW)
        assert {fault.path for fault in caught.value.faults} == {f"to.{way}", "collapse"}


def test_a_whole_number_may_have_a_decimal_point() -> None:
    draft = read(b'{"ttl":36e2,"notification":{"title":"x","badge":3.0},' + msgspec.json.encode(push())[1:], RULES, NOW)
    assert repr((draft.content.ttl, draft.content.notification)).count(".0") == 0
    content = read(msgspec.json.encode(push(ttl=3600.0, notification={"title": "x", "badge": 3.0})), RULES, NOW).content
    assert content.notification is not None
    assert (repr(content.ttl), repr(content.notification.badge)) == ("3600", "3")


LARGE = "x" * 70_000


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (push(overrides={"apns": {"payload": {"deep": [[[LARGE]]]}}}), "overrides.apns"),
        (push(overrides={"apns": {"payload": {}}, "fcm": {"data": {"a": LARGE}}}), "overrides.fcm"),
        (push(data={"a": LARGE}), "data"),
        (push(data={f"k{number}": "x" for number in range(20_000)}), "data"),
        (push(notification={"title": LARGE}), "notification"),
        (activity(content_state={"a": LARGE}), "live_activity.content_state"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_provider_takes_is_refused_before_anybody_looks_into_it(
    document: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(*_: object) -> NoReturn:
        raise AssertionError("it was looked into")

    monkeypatch.setattr("pushsvc.api.pushes.document.judge", looked)
    monkeypatch.setattr("pushsvc.api.pushes.document.refuse", looked)
    with pytest.raises(ContentTooLarge) as caught:
        read(msgspec.json.encode(document), RULES, NOW)
    assert [fault.path for fault in caught.value.faults] == [path]


def test_many_receivers_make_a_large_document_and_are_taken() -> None:
    tokens = [{"platform": "apns", "token": f"{number:064x}"} for number in range(5000)]
    overrides = {"apns": {"payload": {"a": "x" * 60_000}}}
    rules = dataclasses.replace(RULES, max_targets=5000)
    assert read(msgspec.json.encode(push(to={"tokens": tokens}, overrides=overrides)), rules, NOW).total == 5000
