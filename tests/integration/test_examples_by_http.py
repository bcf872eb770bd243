"""The payloads of Apple's and Firebase's documentation, posted over HTTP, as the providers receive them.

What a caller posts in `overrides` reaches the provider byte for byte: no key moves, no number is respelt, no space is
lost. The simulator verifies beside that what the providers verify: signatures, topics, priorities, field names.
"""

from __future__ import annotations

import json
import re
import time
import tomllib
import uuid
from pathlib import Path
from typing import Any

import pytest

from pushsvc.providers.apns.fields import NAMESPACE

from ..unit.provider_fakes import FULL
from .harness import Service

GOLDEN = Path(__file__).parents[1] / "unit" / "golden"
EXAMPLES: dict[str, list[dict[str, Any]]] = tomllib.loads((GOLDEN / "examples.toml").read_text())
APNS_TOKEN = "8f3c" * 16
FCM_TOKEN = "bk3RNwTe3H0:CI2k_HHwgIpoDKCIZvvDMExUdFQ3P1..."
JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
APNS_ALWAYS = {":method", ":scheme", ":path", ":authority", "authorization", "apns-topic", "apns-id"}


def to(platform: str, token: str) -> bytes:
    """The opening of a push document for one target."""
    return b'{"to": {"tokens": [{"platform": "%b", "token": "%b"}]}, ' % (platform.encode(), token.encode())


async def send(service: Service, body: bytes) -> str:
    """POST the bytes as they are and wait until the one delivery has been sent; the push's id."""
    async with service.session.post("/v1/push", data=body, headers={"Content-Type": "application/json"}) as answer:
        document = await answer.json(content_type=None)
        assert answer.status == 202, (body, document)
    push = str(document["id"])
    assert await service.done(push) == {"total": 1, "sent": 1}, await service.rows(push)
    return push


def example(row: dict[str, Any]) -> bytes:
    return (GOLDEN / "examples" / str(row["file"])).read_bytes().strip()


def without_target(page: bytes) -> bytes:
    """The `message` object of a page of Firebase's, its target cut out and nothing else touched."""
    found = re.fullmatch(rb'\{\s*"message":(\{\s*)"token":"[^"]*",(.*\})\s*\}', page, re.DOTALL)
    assert found is not None, page
    return found[1] + found[2]


# --- Apple ----------------------------------------------------------------------------------------


@pytest.fixture
def service(whole_service: Service) -> Service:
    return whole_service


async def test_apples_examples_arrive_byte_for_byte_with_the_right_headers(service: Service) -> None:
    assert len(EXAMPLES["apns"]) == 8
    for row in EXAMPLES["apns"]:
        payload = example(row)
        push_type = b'"push_type": "%b", ' % row["push_type"].encode() if "push_type" in row else b""
        push = await send(
            service, to("apns", APNS_TOKEN) + push_type + b'"overrides": {"apns": {"payload": ' + payload + b"}}}"
        )
        received = service.simulator.record.apns.requests()[-1]
        fields = received.fields
        expected = {name: value.replace("PUSH-ID", push) for name, value in row["headers"].items()}

        assert received.body == payload, row["file"]
        assert {name: fields.get(name) for name in expected} == expected, row["file"]
        assert fields["apns-topic"] == row["topic"], row["file"]
        assert fields.keys() == expected.keys() | APNS_ALWAYS, row["file"]
        assert (fields[":method"], fields[":path"]) == ("POST", f"/3/device/{APNS_TOKEN}")
        scheme, _, token = fields["authorization"].partition(" ")
        assert scheme == "bearer"
        assert JWT.fullmatch(token)
        # The id of the delivery, and so the same however often it is sent.
        assert fields["apns-id"] == str(uuid.uuid5(NAMESPACE, f"{push}:0"))
        assert [delivery["provider_id"] for delivery in await service.rows(push)] == [fields["apns-id"]]
    assert service.simulator.record.apns.totals == {"200": 8}


async def test_headers_of_the_caller_win_and_ttl_is_an_instant(service: Service) -> None:
    payload = example(EXAMPLES["apns"][0])
    start = to("apns", APNS_TOKEN)
    before = int(time.time())
    await send(service, start + b'"ttl": 3600, "overrides": {"apns": {"payload": ' + payload + b"}}}")
    expires = int(service.simulator.record.apns.requests()[-1].fields["apns-expiration"])
    assert before + 3600 <= expires <= time.time() + 3600

    await send(service, start + b'"ttl": 0, "overrides": {"apns": {"payload": ' + payload + b"}}}")
    assert service.simulator.record.apns.requests()[-1].fields["apns-expiration"] == "0"

    own = {
        "apns-topic": "com.example.shop.complication",
        "apns-push-type": "complication",
        "apns-priority": "5",
        "apns-expiration": "2000000000",
        "apns-collapse-id": "one at a time",
    }
    headers = json.dumps(own).encode()
    await send(service, start + b'"overrides": {"apns": {"headers": ' + headers + b', "payload": ' + payload + b"}}}")
    received = service.simulator.record.apns.requests()[-1]
    assert received.body == payload
    assert {name: received.fields[name] for name in own} == own


# --- Firebase -------------------------------------------------------------------------------------


async def test_firebases_examples_arrive_byte_for_byte_but_for_their_target(service: Service) -> None:
    assert len(EXAMPLES["fcm"]) == 3
    for row in EXAMPLES["fcm"]:
        page = example(row)
        message = without_target(page)
        await send(service, to("fcm", FCM_TOKEN) + b'"overrides": {"fcm": ' + message + b"}}")
        received = service.simulator.record.fcm.requests()[-1]
        fields = received.fields

        assert received.body == b'{"message":{"token":"%b",%b}' % (FCM_TOKEN.encode(), message[1:]), row["file"]
        # The page itself, in the order of its keys, whatever the spaces are.
        assert json.dumps(json.loads(received.body)) == json.dumps(json.loads(page)), row["file"]
        assert (fields[":method"], fields[":path"]) == ("POST", "/v1/projects/example-shop/messages:send")
        assert fields["content-type"] == "application/json; charset=UTF-8"
        assert re.fullmatch(r"Bearer \S{20,}", fields["authorization"])
    assert service.simulator.record.fcm.totals == {"200": 3}


async def test_a_firebase_installation_id_stands_where_the_token_would(service: Service) -> None:
    message = without_target(example(EXAMPLES["fcm"][1]))
    opening = b'{"to": {"tokens": [{"platform": "fcm", "fid": "eG1hbXBsZS1pbnN0YWxs"}]}, '
    await send(service, opening + b'"overrides": {"fcm": ' + message + b"}}")
    received = service.simulator.record.fcm.requests()[-1]
    assert received.body == b'{"message":{"fid":"eG1hbXBsZS1pbnN0YWxs",' + message[1:] + b"}"


# --- what a parser could spoil --------------------------------------------------------------------

AWKWARD = (
    '{ "z":1.10,"a" : 1e3 , "big":123456789012345678901234567890,"small":-0.0,"none":null,\n'
    '\t"text":"\\u00e4 \\/ ä \\ud83d\\ude80 🚀 <>&","z":2,"":{ } ,"list":[ 1 , [ ],{"b":0,"a":1}]}'
).encode()


async def test_no_number_name_or_space_is_respelt(service: Service) -> None:
    payload = b'{"x" : %b, "aps":{ "alert":"x" }}' % AWKWARD
    await send(service, to("apns", APNS_TOKEN) + b'"overrides": {"apns": {"payload":' + payload + b" }}}")
    assert service.simulator.record.apns.requests()[-1].body == payload

    message = b'{"apns" : {"payload" :{"aps":{} , "x":%b}} , "data":{"b":"2","a":"1"}}' % AWKWARD
    await send(service, to("fcm", FCM_TOKEN) + b'"overrides" : {"fcm" :  ' + message + b"\n}}")
    received = service.simulator.record.fcm.requests()[-1].body
    assert received == b'{"message":{"token":"%b",%b}' % (FCM_TOKEN.encode(), message[1:])


# --- the neutral form -----------------------------------------------------------------------------


async def test_the_neutral_notification_is_rendered_to_both(service: Service) -> None:
    """The push document of the contract, field by field."""
    document = {
        "to": {"tokens": [{"platform": "apns", "token": APNS_TOKEN}, {"platform": "fcm", "token": FCM_TOKEN}]},
        "notification": FULL,
        "data": {"order": "7"},
        "lane": "urgent",
        "priority": "high",
        "push_type": "alert",
        "silent": False,
        "ttl": 3600,
        "collapse": "order-7",
        "dry_run": False,
    }
    status, answer = await service.post(document)
    assert status == 202, answer
    assert answer["deliveries"] == 2
    assert await service.done(answer["id"]) == {"total": 2, "sent": 2}
    (apns,) = service.simulator.record.apns.requests()
    (fcm,) = service.simulator.record.fcm.requests()
    expiration = apns.fields["apns-expiration"]
    alert = {"title": "Order 7 shipped", "subtitle": "Two parcels", "body": "Arrives Friday"}
    aps = {"badge": 3, "sound": "default", "thread-id": "orders", "category": "ORDER", "mutable-content": 1}

    assert json.loads(apns.body) == {
        "aps": {"alert": alert, **aps},
        "image": "https://example.com/7.png",
        "link": "https://example.com/orders/7",
        "order": "7",
    }
    assert {name: value for name, value in apns.fields.items() if name.startswith("apns-")} == {
        "apns-topic": "com.example.shop",
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-collapse-id": "order-7",
        "apns-expiration": expiration,
        "apns-id": str(uuid.uuid5(NAMESPACE, f"{answer['id']}:0")),
    }
    assert json.loads(fcm.body) == {
        "message": {
            "token": FCM_TOKEN,
            "notification": {
                "title": "Order 7 shipped",
                "body": "Arrives Friday",
                "image": "https://example.com/7.png",
            },
            "data": {"link": "https://example.com/orders/7", "order": "7"},
            "android": {
                "collapse_key": "order-7",
                "priority": "HIGH",
                "ttl": "3600s",
                "notification": {
                    "channel_id": "orders",
                    "click_action": "ORDER",
                    "notification_count": 3,
                    "sound": "default",
                    "tag": "order-7",
                },
            },
            "apns": {
                "headers": {"apns-expiration": expiration, "apns-collapse-id": "order-7"},
                "payload": {"aps": {"alert": alert, **aps}},
                "fcm_options": {"image": "https://example.com/7.png"},
            },
            "webpush": {
                "headers": {"TTL": "3600"},
                "fcm_options": {"link": "https://example.com/orders/7"},
            },
        }
    }
