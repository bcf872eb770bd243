"""A push as APNs takes it: payload, headers, and every fault with its place."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec import Raw, structs

from pushsvc.model.push import Content, LiveActivity, Message
from pushsvc.ports.provider import RenderError
from pushsvc.providers.apns import ADDRESSES, RENDERER

from .provider_fakes import CREATED_AT, FULL, GOLDEN, PUSH_ID, content, faults_of, golden, rendered_or_refused


def render(given: Content, *kinds: str, push_id: str = PUSH_ID) -> Message:
    return RENDERER.render(given, push_id=push_id, starts_at=CREATED_AT, kinds=kinds or ("token",))


def faults(given: Content, *kinds: str) -> dict[str, str]:
    return faults_of(lambda: render(given, *kinds))


# --- the vendor's own examples ------------------------------------------------------------------


@pytest.mark.parametrize("row", golden("examples.toml", "apns"), ids=lambda row: row["file"])
def test_apples_examples_travel_byte_for_byte(row: dict[str, Any]) -> None:
    text = (GOLDEN / "examples" / row["file"]).read_bytes().strip()
    given = content(overrides={"apns": b'{"payload": ' + text + b"}"}, push_type=row.get("push_type"))

    message = render(given)

    assert message.body == text
    assert message.headers == {name: value.replace("PUSH-ID", PUSH_ID) for name, value in row["headers"].items()}


def test_nothing_of_an_own_payload_is_touched() -> None:
    text = (
        '{ "aps":{"alert":"\\u00e4 \\/ ä"},\n"n":1.10, "big":123456789012345678901, "twice":1,"twice":2 ,"none":null}'
    )

    assert render(content(overrides={"apns": f'{{"payload":{text}}}'})).body == text.encode()


# --- the neutral notification -------------------------------------------------------------------


def test_the_whole_notification() -> None:
    message = render(content(notification=FULL, data={"order": "7"}, priority="high", ttl=3600, collapse="order-7"))

    assert json.loads(message.body) == {
        "aps": {
            "alert": {"title": "Order 7 shipped", "subtitle": "Two parcels", "body": "Arrives Friday"},
            "badge": 3,
            "sound": "default",
            "thread-id": "orders",
            "category": "ORDER",
            "mutable-content": 1,
        },
        "image": "https://example.com/7.png",
        "link": "https://example.com/orders/7",
        "order": "7",
    }
    assert message.headers == {
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-expiration": "1700003600",
        "apns-collapse-id": "order-7",
    }


def test_a_repeat_after_a_crash_replaces_the_first() -> None:
    headers = render(content(notification={"title": "Hi"})).headers

    assert headers == {"apns-push-type": "alert", "apns-priority": "10", "apns-collapse-id": PUSH_ID}


@pytest.mark.parametrize(
    ("given", "aps"),
    [
        (content(data={"order": "7"}), {"content-available": 1}),
        (content(silent=True), {"content-available": 1}),
        (content(silent=True, data={"order": "7"}, priority="high"), {"content-available": 1}),
        (content(notification={"category": "ORDER"}, silent=True), {"content-available": 1}),
        (content(data={"order": "7"}, push_type="background"), {"content-available": 1}),
    ],
    ids=["data only", "silent", "silent, high", "silent with a category", "named"],
)
def test_what_shows_nothing_is_a_background_push_with_priority_5(given: Content, aps: dict[str, Any]) -> None:
    message = render(given)

    assert json.loads(message.body)["aps"] == aps
    assert message.headers == {"apns-push-type": "background", "apns-priority": "5"}


def test_ttl_0_means_now_or_never_and_normal_priority_is_5() -> None:
    headers = render(content(notification={"title": "Hi"}, ttl=0, priority="normal")).headers

    assert headers["apns-expiration"] == "0"
    assert headers["apns-priority"] == "5"


def test_a_badge_of_0_clears_and_an_empty_text_stays() -> None:
    assert json.loads(render(content(notification={"badge": 0})).body) == {"aps": {"badge": 0}}
    assert json.loads(render(content(notification={"title": ""})).body) == {"aps": {"alert": {"title": ""}}}


def test_data_wins_over_the_custom_keys_of_the_notification() -> None:
    given = content(notification={"title": "Hi", "link": "https://a.example"}, data={"link": "app://7"})

    assert json.loads(render(given).body)["link"] == "app://7"


def test_data_of_another_push_type_is_not_woken_as_background() -> None:
    message = render(content(data={"callUUID": "1"}, push_type="voip"))

    assert message.body == b'{"aps":{},"callUUID":"1"}'
    assert message.headers == {"apns-push-type": "voip", "apns-priority": "10"}


# --- overrides ----------------------------------------------------------------------------------


def test_an_own_payload_is_merged_over_the_rendered_one() -> None:
    payload = {"aps": {"alert": {"body": None, "loc-key": "K"}, "sound": {"critical": 1, "volume": 0.5}}, "x": [1]}
    given = content(notification={"title": "Hi", "body": "there"}, overrides={"apns": {"payload": payload}})

    assert json.loads(render(given).body) == {
        "aps": {"alert": {"title": "Hi", "loc-key": "K"}, "sound": {"critical": 1, "volume": 0.5}},
        "x": [1],
    }


def test_numbers_of_a_merged_payload_keep_their_digits() -> None:
    override = '{"payload":{"a":1.10,"b":1E400,"c":123456789012345678901234567890}}'
    given = content(notification={"title": "Hi"}, overrides={"apns": override})

    assert render(given).body.endswith(b'"a":1.10,"b":1E+400,"c":123456789012345678901234567890}')


@pytest.mark.parametrize(
    ("payload", "push_type"),
    [
        ({"aps": {"alert": "Hi"}}, "alert"),
        ({"aps": {"content-available": 1}}, "background"),
        ({"aps": {"content-available": 1, "alert": "Hi"}}, "alert"),
        ({"aps": {"content-available": 1, "sound": ""}}, "alert"),
        ({"aps": {"content-available": 0}}, "alert"),
        ({"aps": {"event": "update", "content-state": {}}}, "liveactivity"),
        ({"aps": {"event": "update"}}, "alert"),
        ({"aps": {"event": "concert", "content-state": {}}}, "alert"),
        ({"aps": "Hi"}, "alert"),
        ({"callUUID": "1"}, "alert"),
    ],
    ids=str,
)
def test_the_push_type_is_read_from_the_payload_only_where_that_leaves_no_doubt(
    payload: dict[str, Any], push_type: str
) -> None:
    assert render(content(overrides={"apns": {"payload": payload}})).headers["apns-push-type"] == push_type


def test_an_alert_merged_over_data_is_an_alert() -> None:
    given = content(data={"a": "1"}, overrides={"apns": {"payload": {"aps": {"alert": "Hi"}}}})

    assert render(given).headers["apns-push-type"] == "alert"


def test_own_headers_win() -> None:
    given = content(
        notification={"title": "Hi"},
        ttl=60,
        overrides={
            "apns": {
                "headers": {
                    "APNS-Topic": "com.example.clip",
                    "apns-push-type": "voip",
                    "apns-priority": 1,
                    "apns-expiration": "0",
                    "apns-collapse-id": "mine",
                    "apns-of-tomorrow": "yes",
                }
            }
        },
    )

    assert render(given).headers == {
        "apns-push-type": "voip",
        "apns-priority": "1",
        "apns-expiration": "0",
        "apns-collapse-id": "mine",
        "apns-topic": "com.example.clip",
        "apns-of-tomorrow": "yes",
    }


@pytest.mark.parametrize(
    ("headers", "push_type", "path"),
    [
        ({"apns-push-type": "nowplaying", "apns-topic": "com.example.shop.push-type.nowplaying"}, None, None),
        ({"apns-push-type": "nowplaying"}, None, "overrides.apns.headers.apns-push-type"),
        ({"apns-topic": "com.example.shop.push-type.nowplaying"}, "nowplaying", "push_type"),
        ({"apns-push-type": "mdm"}, None, "overrides.apns.headers.apns-push-type"),
        ({}, "mdm", "push_type"),
        ({"apns-topic": "com.apple.mgmt.External.1"}, "mdm", None),
    ],
)
def test_a_push_type_without_a_topic_of_ours_brings_its_own(
    headers: dict[str, str], push_type: str | None, path: str | None
) -> None:
    """Apple adds types: one that is not in our list passes as it is. The topic of `mdm` no suffix can make."""
    own = {"headers": headers, "payload": {"mdm": "magic"}}
    given = content(push_type=push_type, overrides={"apns": own})
    if path is None:
        sent = render(given).headers
        assert sent.items() >= headers.items()
        assert sent["apns-push-type"] == headers.get("apns-push-type", push_type)
        assert "apns-collapse-id" not in sent
    else:
        assert list(faults(given)) == [path]


def test_null_is_the_same_as_leaving_it_out() -> None:
    plain = render(content(notification={"title": "Hi"}))

    for override in ('{"payload":null}', '{"headers":null}', '{"headers":{"apns-topic":null},"payload":null}', "{}"):
        assert render(content(notification={"title": "Hi"}, overrides={"apns": override})) == plain


# --- Live Activities ----------------------------------------------------------------------------

STATE = {"currentHealthLevel": Raw(b"100"), "eventDescription": Raw(b'"Adventure has begun!"')}
START = LiveActivity(
    event="start",
    content_state=STATE,
    attributes_type="AdventureAttributes",
    attributes={"hero": Raw(b'{"name":"Power Panda","level":3.0}')},
)
UPDATE = LiveActivity(event="update", content_state=STATE)


def test_a_live_activity_is_started() -> None:
    activity = structs.replace(
        START, alert={"title": Raw(b'{"loc-key":"K"}')}, stale_date=1_800_000_000, input_push_channel="dA=="
    )
    message = render(content(live_activity=activity), "push_to_start")

    assert message.body == (
        b'{"aps":{"timestamp":1700000000,"event":"start",'
        b'"content-state":{"currentHealthLevel":100,"eventDescription":"Adventure has begun!"},'
        b'"attributes-type":"AdventureAttributes","attributes":{"hero":{"name":"Power Panda","level":3.0}},'
        b'"input-push-channel":"dA==","stale-date":1800000000,"alert":{"title":{"loc-key":"K"}}}}'
    )
    # A repeat after a time-out must not start a second one.
    assert message.headers == {"apns-push-type": "liveactivity", "apns-priority": "10", "apns-collapse-id": PUSH_ID}


def test_the_alert_of_a_live_activity_may_be_the_notification() -> None:
    given = content(
        live_activity=structs.replace(START, input_push_token=True),
        notification={"title": "Go", "body": "Now", "sound": "chime.aiff"},
        ttl=60,
        priority="normal",
    )
    message = render(given, "push_to_start")

    aps = json.loads(message.body)["aps"]
    assert aps["alert"] == {"title": "Go", "body": "Now", "sound": "chime.aiff"}
    assert aps["input-push-token"] == 1
    assert message.headers == {
        "apns-push-type": "liveactivity",
        "apns-priority": "5",
        "apns-expiration": "1700000060",
        "apns-collapse-id": PUSH_ID,
    }


def test_a_live_activity_is_ended_and_data_stands_beside_aps() -> None:
    ended = LiveActivity(event="end", dismissal_date=1_685_959_200, relevance_score=0.5)
    message = render(content(live_activity=ended, data={"a": "1"}), "activity")

    assert json.loads(message.body) == {
        "aps": {"timestamp": 1700000000, "event": "end", "dismissal-date": 1_685_959_200, "relevance-score": 0.5},
        "a": "1",
    }
    assert message.headers["apns-push-type"] == "liveactivity"


def test_an_own_payload_is_merged_into_a_live_activity_at_any_depth() -> None:
    patch = {"aps": {"timestamp": 5, "attributes": {"hero": {"level": 4}}, "filter": "x"}}
    message = render(content(live_activity=START, overrides={"apns": {"payload": patch}}), "push_to_start")

    aps = json.loads(message.body)["aps"]
    assert (aps["timestamp"], aps["filter"]) == (5, "x")
    assert aps["attributes"] == {"hero": {"name": "Power Panda", "level": 4}}


BROADCAST = content(live_activity=UPDATE)


def test_a_broadcast_says_the_expiration_that_it_is_given() -> None:
    assert render(BROADCAST, "channel").headers == {"apns-push-type": "liveactivity", "apns-priority": "10"}
    stored = content(live_activity=UPDATE, ttl=3600)
    assert render(stored, "channel").headers["apns-expiration"] == "1700003600"
    own = {"headers": {"apns-expiration": "0", "apns-priority": "1"}}
    headers = render(content(live_activity=UPDATE, ttl=60, overrides={"apns": own}), "channel").headers
    assert (headers["apns-expiration"], headers["apns-priority"]) == ("0", "1")


@pytest.mark.parametrize(
    ("given", "kinds", "says"),
    [
        (content(live_activity=START), ("activity",), "started on `push_to_start` targets, not on `activity`"),
        (content(live_activity=START), ("channel",), "started on `push_to_start` targets, not on `channel`"),
        (content(live_activity=UPDATE), ("push_to_start",), "only starts"),
        (content(live_activity=UPDATE), ("token",), "not to device tokens"),
        (content(live_activity=UPDATE), ("activity", "token"), "not to device tokens"),
        (content(live_activity=UPDATE), ("activity", "channel"), "do not share a push"),
        (content(notification={"title": "Hi"}), ("activity",), "`live_activity` is missing"),
        (content(data={"a": "1"}), ("channel", "push_to_start"), "`live_activity` is missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_target_of_the_wrong_kind_is_refused(given: Content, kinds: tuple[str, ...], says: str) -> None:
    refused = faults(given, *kinds)
    assert refused.keys() == {"to"}
    with pytest.raises(RenderError, match=re.escape(says)):
        render(given, *kinds)


def test_an_own_payload_goes_to_those_that_the_caller_vouches_for() -> None:
    update = {"aps": {"timestamp": 1, "event": "update", "content-state": {}}}
    own = content(overrides={"apns": {"payload": update}})
    for kind in ("token", "activity", "channel"):
        assert render(own, kind).headers["apns-push-type"] == "liveactivity"
    assert "only starts" in faults(own, "push_to_start")["to"]


@pytest.mark.parametrize(
    ("given", "path", "says"),
    [
        (content(live_activity=UPDATE, push_type="alert"), "push_type", "of type `liveactivity`"),
        (content(live_activity=UPDATE, silent=True), "silent", "shows nothing"),
        (
            content(live_activity=structs.replace(UPDATE, input_push_channel="!")),
            "live_activity.input_push_channel",
            "base64",
        ),
        (
            content(live_activity=UPDATE, overrides={"apns": {"headers": {"apns-push-type": "voip"}}}),
            "overrides.apns.headers.apns-push-type",
            "of type `liveactivity`",
        ),
        (content(live_activity=UPDATE, collapse="x"), "collapse", "collapses nothing"),
        (
            content(live_activity=UPDATE, overrides={"apns": {"headers": {"apns-collapse-id": "x"}}}),
            "overrides.apns.headers.apns-collapse-id",
            "collapses nothing",
        ),
        (
            content(live_activity=UPDATE, overrides={"apns": {"headers": {"apns-topic": "x"}}}),
            "overrides.apns.headers.apns-topic",
            "configured topic",
        ),
        (
            content(live_activity=UPDATE, overrides={"apns": {"headers": {"apns-channel-id": "x"}}}),
            "overrides.apns.headers.apns-channel-id",
            "given in `to.tokens`",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_of_a_live_activity_names_its_place(given: Content, path: str, says: str) -> None:
    assert says in faults(given, "channel")[path]


@pytest.mark.parametrize(("kind", "limit"), [("channel", 5120), ("activity", 4096)])
def test_a_broadcast_may_be_larger(kind: str, limit: int) -> None:
    def sized(size: int) -> Content:
        empty = len(
            render(
                content(live_activity=LiveActivity(event="update", content_state={"x": Raw(b'""')})), "activity"
            ).body
        )
        return content(
            live_activity=LiveActivity(event="update", content_state={"x": Raw(b'"' + b"x" * (size - empty) + b'"')})
        )

    assert len(render(sized(limit), kind).body) == limit
    with pytest.raises(RenderError, match=f"is {limit + 1:,} bytes.* is {limit:,}") as caught:
        render(sized(limit + 1), kind)
    assert caught.value.too_large
    assert [fault.path for fault in caught.value.faults] == ["live_activity"]


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "path", "says"),
    [
        (content(), "overrides.apns.payload", "nothing to send"),
        (content(overrides={"apns": {"headers": {}}}), "overrides.apns.payload", "nothing to send"),
        (content(notification={"channel": "x"}), "overrides.apns.payload", "nothing to send"),
        (content(overrides={"apns": "[]"}), "overrides.apns", "must be a JSON object"),
        (content(overrides={"apns": "{"}), "overrides.apns", "not valid JSON"),
        (content(overrides={"apns": {"payload": [1]}}), "overrides.apns.payload", "must be a JSON object"),
        (content(overrides={"apns": {"payload": {}}}), "overrides.apns.payload", "is empty"),
        (content(overrides={"apns": b'{"payload":{"a":"\xff"}}'}), "overrides.apns.payload", "not valid JSON"),
        (content(overrides={"apns": {"aps": {}}}), "overrides.apns.aps", "only `headers` and `payload`"),
        (content(silent=True, overrides={"apns": {"headers": [1]}}), "overrides.apns.headers", "must be an object"),
        (content(data={"aps": "x"}), "data.aps", "Apple's own key"),
        (content(notification={"title": "Hi"}, silent=True), "silent", "shows nothing"),
        (content(notification={"title": "Hi"}, push_type="loud"), "push_type", "is not one of alert, background"),
        (content(notification={"title": "Hi"}, push_type="background"), "push_type", "shows nothing"),
        (content(silent=True, push_type="voip"), "push_type", "is of type `background`"),
        (content(notification={"title": "Hi"}, collapse="größe"), "collapse", "printable ASCII"),
        (content(notification={"title": "Hi"}, collapse="a\nb"), "collapse", "printable ASCII"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_names_its_place(given: Content, path: str, says: str) -> None:
    assert says in faults(given)[path]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("apns-id", "6f", "made for each delivery"),
        ("Authorization", "bearer x", "belongs to the connection"),
        (":path", "/3/device/00", "belongs to the connection"),
        ("content-length", "7", "is not a header of APNs"),
        ("apns-", "7", "is not a header of APNs"),
        ("apns-push-type", "loud", "is not one of"),
        ("apns-push-type", "background", "shows nothing"),
        ("apns-priority", "7", "is not one of 10, 5, 1"),
        ("apns-priority", True, "must be a string"),
        ("apns-priority", ["10"], "must be a string"),
        ("apns-expiration", "tomorrow", "Unix seconds"),
        ("apns-expiration", -1, "Unix seconds"),
        ("apns-collapse-id", "x" * 65, "longer than 64 bytes"),
        ("apns-collapse-id", "", "printable ASCII"),
        ("apns-topic", "com.example\r\nx: y", "printable ASCII"),
        ("apns-topic", "com.exämple", "printable ASCII"),
        ("apns-topic", "x" * 1025, "printable ASCII"),
    ],
)
def test_each_fault_of_an_own_header_names_it(name: str, value: Any, says: str) -> None:
    given = content(notification={"title": "Hi"}, overrides={"apns": {"headers": {name: value}}})

    assert says in faults(given)[f"overrides.apns.headers.{name}"]


def test_a_header_in_two_cases_is_given_twice() -> None:
    given = content(
        notification={"title": "Hi"}, overrides={"apns": {"headers": {"apns-topic": "a", "APNS-Topic": "b"}}}
    )

    assert faults(given) == {"overrides.apns.headers.APNS-Topic": "is given twice"}


def test_background_with_priority_10_is_a_fault_of_who_asked_for_it() -> None:
    given = content(silent=True, overrides={"apns": {"headers": {"apns-priority": "10"}}})

    assert "priority 5" in faults(given)["overrides.apns.headers.apns-priority"]


def test_all_faults_come_at_once() -> None:
    override = {"headers": {"apns-id": "x", "apns-priority": "7"}, "payload": [], "more": 1}
    given = content(
        notification={"title": "Hi"}, data={"aps": "1"}, push_type="loud", collapse="ä", overrides={"apns": override}
    )

    assert faults(given).keys() == {
        "overrides.apns.more",
        "overrides.apns.headers.apns-id",
        "overrides.apns.headers.apns-priority",
        "overrides.apns.payload",
        "data.aps",
        "push_type",
        "collapse",
    }


# --- size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("push_type", "limit"), [("alert", 4096), ("voip", 5120), ("liveactivity", 4096)])
def test_the_payload_limit_is_exact_and_the_fault_names_both_sizes(push_type: str, limit: int) -> None:
    def sized(size: int) -> Content:
        text = '{"a":"' + "x" * (size - 8) + '"}'
        return content(overrides={"apns": f'{{"payload":{text}}}'}, push_type=push_type)

    assert len(render(sized(limit)).body) == limit
    with pytest.raises(RenderError, match=f"is {limit + 1:,} bytes.* is {limit:,}") as caught:
        render(sized(limit + 1))
    assert caught.value.too_large
    assert [fault.path for fault in caught.value.faults] == ["overrides.apns.payload"]


def test_size_counts_bytes_not_characters() -> None:
    with pytest.raises(RenderError) as caught:
        render(content(notification={"body": "ä" * 2040}))

    assert caught.value.too_large
    assert caught.value.faults[0].path == "notification"


def test_what_is_wrong_and_too_large_is_first_of_all_wrong() -> None:
    assert faults(content(notification={"body": "x" * 5000}, push_type="loud")).keys() == {"push_type"}


# --- tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["00", "aBcDeF0123456789", "f" * 64, "0" * 400])
def test_tokens_of_any_even_length_pass(token: str) -> None:
    assert ADDRESSES["token"].fits(token)


@pytest.mark.parametrize(
    "token",
    ["", "0", "0" * 402, "0g", "00 00", " 00", "00\n", "\u0660\u0660", "00\x00", "\U0001f600", "<00>", "\uff41\uff41"],
)
def test_what_cannot_be_a_token_is_refused(token: str) -> None:
    assert not ADDRESSES["token"].fits(token)


@pytest.mark.parametrize("channel", ["dHN0LXNyY2gtY2hubA==", "a", "+/_-09AZ=", "x" * 510])
def test_the_ids_of_channels_are_base64_of_any_size(channel: str) -> None:
    assert ADDRESSES["channel"].fits(channel)


@pytest.mark.parametrize("channel", ["", "=", "a===", "a=b", "a b", "a\n", "ä", "x" * 511])
def test_what_cannot_be_the_id_of_a_channel_is_refused(channel: str) -> None:
    assert not ADDRESSES["channel"].fits(channel)


# --- properties ---------------------------------------------------------------------------------

_text = st.text(max_size=30)
_notifications = st.fixed_dictionaries(
    {},
    optional={
        **{name: _text for name in FULL if name != "badge"},
        "badge": st.integers(min_value=0, max_value=99),
    },
)
_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), _text),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["aps", "alert", "event", "content-state", "headers", "payload", "x"]), inner),
    ),
    max_leaves=12,
)


@given(
    notification=st.one_of(st.none(), _notifications),
    data=st.one_of(st.none(), st.dictionaries(_text, _text, max_size=4)),
    push_type=st.sampled_from([None, "alert", "background", "voip", "loud"]),
    silent=st.booleans(),
    ttl=st.one_of(st.none(), st.integers(0, 2_419_200)),
    collapse=st.one_of(st.none(), _text),
    override=st.one_of(
        st.none(), _json.map(msgspec.json.encode), st.builds(lambda p: msgspec.json.encode({"payload": p}), _json)
    ),
)
def test_a_push_is_rendered_whole_or_refused_with_reasons(
    notification: dict[str, Any] | None,
    data: dict[str, str] | None,
    push_type: str | None,
    silent: bool,
    ttl: int | None,
    collapse: str | None,
    override: bytes | None,
) -> None:
    given = content(
        notification=notification,
        data=data,
        push_type=push_type,
        silent=silent,
        ttl=ttl,
        collapse=collapse,
        overrides=None if override is None else {"apns": Raw(override)},
    )
    message = rendered_or_refused(lambda: render(given))
    if message is None:
        return
    assert isinstance(msgspec.json.decode(message.body), dict)
    assert len(message.body) <= 5120
    assert all(re.fullmatch(r"[\x20-\x7e]+", value) for value in message.headers.values())
    assert {"apns-push-type", "apns-priority"} <= message.headers.keys()
    assert (message.headers["apns-push-type"], message.headers["apns-priority"]) != ("background", "10")


@pytest.mark.parametrize(
    ("given", "collapse"),
    [
        (content(notification={"title": "Hi"}), ""),
        (content(data={"a": "1"}), ""),
        (content(notification={"title": "Hi"}, collapse="c"), "c"),
        (content(data={"a": "1"}, collapse="c"), "c"),
        (content(notification={"title": "Hi"}, overrides={"apns": {"headers": {"apns-collapse-id": "d"}}}), "d"),
        (
            content(
                notification={"title": "Hi"}, collapse="c", overrides={"apns": {"headers": {"apns-collapse-id": "d"}}}
            ),
            "d",
        ),
    ],
)
def test_what_replaces_an_earlier_push_says_so(given: Content, collapse: str) -> None:
    message = render(given)

    assert message.collapse == collapse
    assert bool(message.since) == bool(collapse)
