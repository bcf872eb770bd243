"""Channels and Live Activities through the whole service, as a backend uses them: HTTP in, the simulator out."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import pytest

from pushsvc.lab.simulator import apns_token, channel_id, fcm_token

from .harness import Service

GOAL = {"event": "update", "content_state": {"home": 1, "away": 0}}


def channel(channel_id: str) -> list[dict[str, str]]:
    return [{"platform": "apns", "channel": channel_id}]


async def make(service: Service, storage: str) -> str:
    async with service.session.post("/v1/channels", json={"storage": storage}) as answer:
        assert answer.status == 201
        return str((await answer.json())["id"])


async def delete(service: Service, channel_id: str) -> int:
    async with service.session.delete(f"/v1/channels/{quote(channel_id, safe='')}") as answer:
        return answer.status


@pytest.fixture
def service(whole_service: Service) -> Service:
    return whole_service


async def test_an_event_from_its_channel_to_its_end(service: Service) -> None:
    match = await make(service, "latest")
    push = await service.push(channel(match), live_activity=GOAL, ttl=600, priority="normal", lane="urgent")
    assert await service.done(push) == {"total": 1, "sent": 1}
    (received,) = service.simulator.record.apns.requests(token=match)
    assert received.fields[":path"] == "/4/broadcasts/apps/com.example.shop"
    assert received.fields["apns-priority"] == "5"
    assert 0 < int(received.fields["apns-expiration"]) - time.time() <= 600
    aps = json.loads(received.body)["aps"]
    assert abs(aps.pop("timestamp") - time.time()) < 60
    assert aps == {"event": "update", "content-state": {"home": 1, "away": 0}}
    (row,) = await service.rows(push)
    assert row["provider_id"] == received.fields["apns-request-id"]
    assert match not in json.dumps(row)

    assert await delete(service, match) == 204
    assert await delete(service, match) == 404
    gone = await service.push(channel(match), live_activity=GOAL)
    assert await service.done(gone) == {"total": 1, "invalid": 1}
    (row,) = await service.rows(gone)
    assert (row["outcome"], row["reason"], row["attempts"]) == ("invalid", "ChannelNotRegistered", 1)

    async def suppressed() -> bool:
        again = await service.push(channel(match), live_activity=GOAL)
        return bool((await service.done(again))["suppressed"])

    await service.until("a channel that is gone is not sent to", suppressed)


async def test_one_push_reaches_many_channels_and_a_bad_one_touches_no_other(service: Service) -> None:
    targets = [each for number in range(50) for each in channel(channel_id("ok", str(number)))]
    targets += channel(channel_id("ServiceUnavailable.1", "a"))
    targets += channel(channel_id("BadPriority", "a")) + targets[:1]
    push = await service.push(targets, live_activity=GOAL)
    assert await service.done(push) == {"total": 52, "sent": 51, "failed": 1}
    assert service.simulator.record.apns.duplicates == 0


async def test_an_activity_is_started_updated_and_ended_by_its_tokens(service: Service) -> None:
    start = {
        "event": "start",
        "content_state": {"home": 0, "away": 0},
        "attributes_type": "MatchAttributes",
        "attributes": {"home": "A", "away": "B"},
        "input_push_channel": channel_id("ok", "match"),
    }
    ended = {"event": "end", "content_state": {"home": 1, "away": 0}, "dismissal_date": "2020-01-01T00:00:00Z"}
    shown = {"notification": {"title": "Kick-off", "sound": "whistle.aiff"}}
    token = apns_token("ok", "activity")
    for kind, activity, more in (
        ("push_to_start", start, shown), ("activity", GOAL, {}), ("activity", ended, {}),
    ):  # fmt: skip
        push = await service.push([{"platform": "apns", kind: token}], live_activity=activity, **more)
        assert await service.done(push) == {"total": 1, "sent": 1}
    received = service.simulator.record.apns.requests(token=token)
    payloads = [json.loads(item.body)["aps"] for item in received]
    assert [aps["event"] for aps in payloads] == ["start", "update", "end"]
    assert payloads[0]["alert"] == {"title": "Kick-off", "sound": "whistle.aiff"}
    assert payloads[0]["input-push-channel"] == channel_id("ok", "match")
    assert payloads[2]["dismissal-date"] == 1_577_836_800
    topics = {item.fields["apns-topic"] for item in received}
    assert topics == {"com.example.shop.push-type.liveactivity"}


async def test_fcm_reaches_an_activity_by_its_token(service: Service) -> None:
    target = {"platform": "fcm", "token": fcm_token("ok", "a")}
    own = {"fcm": {"apns": {"live_activity_token": "ab12"}}}
    push = await service.push([target], live_activity=GOAL, overrides=own)
    assert await service.done(push) == {"total": 1, "sent": 1}
    (received,) = service.simulator.record.fcm.requests()
    message = json.loads(received.body)["message"]
    assert message["apns"]["live_activity_token"] == "ab12"
    assert message["apns"]["payload"]["aps"]["content-state"] == {"home": 1, "away": 0}


@pytest.mark.parametrize(
    ("document", "places"),
    [
        ({"to": {"tokens": [{"platform": "apns", "activity": "aa"}]}, "live_activity": {**GOAL, "event": "start"}},
         ["live_activity.attributes_type", "live_activity.attributes", "live_activity.alert"]),
        ({"to": {"tokens": [{"platform": "apns", "push_to_start": "aa"}]}, "live_activity": GOAL}, ["to"]),
        ({"to": {"tokens": [{"platform": "apns", "token": "aa"}]}, "live_activity": GOAL}, ["to"]),
        ({"to": {"tokens": [{"platform": "apns", "channel": "AA=="}]}, "notification": {"title": "x"}}, ["to"]),
        ({"to": {"tokens": [{"platform": "apns", "channel": "AA=="}]}, "live_activity": GOAL, "collapse": "x"},
         ["collapse"]),
        ({"to": {"tokens": [{"platform": "fcm", "channel": "AA=="}]}, "live_activity": GOAL}, ["to.tokens[0].channel"]),
        ({"to": {"tokens": [{"platform": "fcm", "token": "aa"}, {"platform": "apns", "token": "aa"}]},
          "live_activity": GOAL}, ["overrides.fcm.apns.live_activity_token", "to"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
async def test_what_does_not_fit_is_refused_before_it_is_accepted(
    document: dict[str, Any], places: list[str], service: Service
) -> None:
    status, problem = await service.post(document)
    assert status == 422
    assert [fault["path"] for fault in problem["errors"]] == places


async def test_an_own_payload_may_go_to_a_channel(service: Service) -> None:
    payload = b'{"aps": {"timestamp":1234, "event":"update", "content-state":{"x":1.10}}}'
    body = b'{"to":{"tokens":[{"platform":"apns","channel":"%b"}]},"overrides":{"apns":{"payload":%b}}}' % (
        channel_id("ok", "own").encode(),
        payload,
    )
    headers = {"Content-Type": "application/json"}
    async with service.session.post("/v1/push", data=body, headers=headers) as answer:
        assert answer.status == 202, await answer.text()
        push = (await answer.json())["id"]
    assert await service.done(push) == {"total": 1, "sent": 1}
    assert service.simulator.record.apns.requests()[-1].body == payload
