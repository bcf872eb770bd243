"""Audiences at the HTTP API: what is looked up at once and what is left to `jobs`, and what it is rendered for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pushsvc.api.pushes.audiences import FEW, MOST
from pushsvc.errors import StoreUnavailable
from pushsvc.model.codec import decode_audience
from pushsvc.model.devices import Audience, ByDevices, ByTopic, ByUsers, ByWhere, Device, ToAll
from pushsvc.model.push import Push, Target
from pushsvc.rules.audience import owner_of

from .test_intake_kit import LOOP as LOOP, NOW, Service, call, running

CONTENT = {"notification": {"title": "x"}}


def device(number: int, **fields: Any) -> Device:
    return Device(id=f"d{number}", token=f"t{number}", registered_at=NOW, **{"platform": "apns", **fields})


DEVICES = [
    device(1, user="u1"),
    device(2, user="u1", platform="fcm", kind="fid"),
    device(3, user="u2", environment="sandbox"),
    device(4, user="u2", platform="webpush"),
    device(5, user="u3", state="pruned", pruned_at=NOW),
    device(6),
]


def target(index: int, number: int) -> Target:
    """Of the device of this number, as its `index` in a push."""
    own = DEVICES[number - 1]
    return Target(index, own.token, own.id, own.kind, owner_of(own))


async def post(service: Service, to: dict[str, Any], **fields: Any) -> tuple[dict[str, Any], Push]:
    """An accepted push: the answer, and what the store got."""
    answer = await call(service, "POST", "/v1/push", {"to": to, **(fields or CONTENT)})
    assert answer.status == 202, answer.body
    return answer.json, service.store.pushes[answer.json["id"]]


@pytest.mark.parametrize(
    ("to", "audience"),
    [
        ({"topic": "news"}, ByTopic("news")),
        ({"where": "tags.plan == 'pro'"}, ByWhere("tags.plan == 'pro'")),
        ({"all": True}, ToAll()),
        ({"devices": [f"d{n}" for n in range(FEW + 1)]}, ByDevices(tuple(f"d{n}" for n in range(FEW + 1)))),
    ],
)
async def test_a_large_audience_is_left_to_the_jobs(to: dict[str, Any], audience: Audience, service: Service) -> None:
    await service.registry.put_many("shop", [*DEVICES, device(7, topics=("news",))])
    answer, push = await post(service, to)
    assert answer == {"id": push.id, "state": "expanding", "deliveries": None}
    assert decode_audience(push.audience) == audience
    assert (push.targets, push.total) == ({}, 0)
    assert push.messages.keys() == {"apns", "fcm"}
    status = (await call(service, "GET", f"/v1/push/{push.id}")).json
    assert (status["state"], status["counts"]["total"]) == ("expanding", 0)


@pytest.mark.parametrize(
    ("to", "targets", "unknown"),
    [
        (
            {"users": ["u1", "u2", "u3", "u1", "nobody"]},
            {
                "apns": (target(0, 1),),
                "fcm": (target(1, 2),),
                "apns_sandbox": (target(2, 3),),
                "webpush": (target(3, 4),),
            },
            ("to.users[2]", "; so for 1 more of the 4 names"),
        ),
        ({"devices": ["d6", "d9", "d1"]}, {"apns": (target(0, 6), target(1, 1))}, ("to.devices[1]", "sent there")),
        ({"devices": ["d6", "d1"]}, {"apns": (target(0, 6), target(1, 1))}, None),
        ({"users": ["nobody"]}, {}, ("to.users[0]", "this user has no device, or only pruned ones")),
        ({"devices": ["d5"]}, {}, ("to.devices[0]", "no device has this id, or it is pruned")),
    ],
)
async def test_few_are_looked_up_at_once(
    to: dict[str, Any], targets: dict[str, tuple[Target, ...]], unknown: tuple[str, str] | None, service: Service
) -> None:
    await service.registry.put_many("shop", DEVICES)
    answer, push = await post(service, to)
    total = sum(map(len, targets.values()))
    warnings = answer.pop("warnings", [])
    missing = targets.keys() - {"apns", "fcm"}
    unfound = {"u3", "nobody", "d9", "d5"} & {name for names in to.values() for name in names}
    assert answer.pop("unreached", 0) == len(missing) + len(unfound)
    if unknown is not None:
        first = warnings.pop(0)
        assert first["path"] == unknown[0]
        assert unknown[1] in first["message"]
        assert "nobody" not in first["message"]  # the answer is kept for repeats; no erasure would find it there
    warned = [warning["message"] for warning in warnings]
    assert answer == {"id": push.id, "state": "sending" if total else "done", "deliveries": total}
    assert [text for text in warned if "no account of the app reaches 1 of the targets" not in text] == []
    assert len(warned) == len(missing)
    assert (push.targets, push.audience) == (targets, b"")


async def test_users_with_too_many_devices_are_left_to_the_jobs(service: Service) -> None:
    crowd = [device(n, user=f"u{n // 500}") for n in range(MOST)]
    await service.registry.put_many("shop", crowd)
    answer, push = await post(service, {"users": ["u0", "u1"]})
    assert answer["deliveries"] is None
    assert decode_audience(push.audience) == ByUsers(("u0", "u1"))
    answer, push = await post(service, {"users": ["u0"]})
    assert (answer["deliveries"], push.total) == (500, 500)


async def test_a_scheduled_audience_is_looked_up_when_it_is_sent(service: Service) -> None:
    await service.registry.put_many("shop", DEVICES)
    answer, push = await post(service, {"users": ["u1"]}, **CONTENT, send_at="2026-12-01T10:00:00Z")
    assert (answer["state"], answer["deliveries"]) == ("scheduled", None)
    assert decode_audience(push.audience) == ByUsers(("u1",))
    assert push.send_at == NOW + 3_600_000


async def test_an_override_alone_goes_to_the_devices_of_its_platform(service: Service) -> None:
    await service.registry.put_many("shop", DEVICES)
    override = {"fcm": {"android": {"ttl": "1s"}}}
    _, push = await post(service, {"all": True}, overrides=override)
    assert push.messages.keys() == {"fcm"}
    _, push = await post(service, {"users": ["u1"]}, overrides=override)
    assert push.targets == {"fcm": (target(0, 2),)}
    accepted, push = await post(service, {"devices": ["d1"]}, overrides=override)
    nobody = [{"path": "to", "message": "reaches no device: the push has no content for `apns`"}]
    assert (push.targets, accepted["warnings"]) == ({}, nobody)
    body = {"to": {"topic": "x"}, "overrides": {"apns": {"payload": {"aps": {}}}}}
    answer = await call(service, "POST", "/v1/push", body, key="newsie")
    assert answer.status == 422
    assert answer.errors == [("overrides", "has content only for `apns`, and the app uses `fcm`")]
    # Named tokens differ: the push must have content for each.
    both = {"tokens": [{"platform": "fcm", "token": "a"}]}
    _, push = await post(service, both, overrides={"apns": {"payload": {"aps": {}}}})
    assert push.messages.keys() == {"fcm"}


async def test_payload_limits_hold_for_every_platform_of_the_app(service: Service) -> None:
    body = {"to": {"topic": "news"}, "notification": {"title": "x" * 5000}}
    answer = await call(service, "POST", "/v1/push", body)
    assert answer.status == 413
    assert [(path, "fcm" in message) for path, message in answer.errors] == [
        ("notification", False),
        ("notification", True),
    ]
    assert service.store.pushes == {}


async def test_what_is_wrong_with_an_expression_is_said_with_its_columns(service: Service) -> None:
    body = {"to": {"where": "locale = 'de'"}, **CONTENT}
    answer = await call(service, "POST", "/v1/push", body)
    assert answer.status == 422
    assert answer.errors == [("to.where", "column 8: `=` cannot stand here; write `==`")]
    body = {"to": {"where": "platform == 'apns'"}, **CONTENT}
    answer = await call(service, "POST", "/v1/push", body, key="newsie")
    assert answer.errors == [("to.where", "column 13: `platform` is 'fcm'")]


async def test_a_batch_may_mix_them(service: Service) -> None:
    await service.registry.put_many("shop", DEVICES)
    bodies = [
        {"to": {"topic": "news"}, **CONTENT},
        {"to": {"users": ["u1"]}, **CONTENT},
        {"to": {"users": []}, **CONTENT},
        {"to": {"tokens": [{"platform": "fcm", "token": "a"}]}, **CONTENT},
    ]
    answer = await call(service, "POST", "/v1/push/batch", bodies)
    assert answer.status == 200
    results = [(item["status"], item.get("state"), item.get("deliveries")) for item in answer.json["results"]]
    assert results == [(202, "expanding", None), (202, "sending", 2), (422, None, None), (202, "sending", 1)]


async def test_a_repeat_under_a_key_is_answered_as_the_first(service: Service) -> None:
    body = {"to": {"topic": "news"}, **CONTENT}
    first = await call(service, "POST", "/v1/push", body, headers={"Idempotency-Key": "k"})
    again = await call(service, "POST", "/v1/push", body, headers={"Idempotency-Key": "k"})
    assert (again.body, again.headers["idempotent-replay"]) == (first.body, "true")
    assert first.json["deliveries"] is None
    unheard = {"path": "to.topic", "message": "no device follows this topic: nothing is sent"}
    assert first.json["warnings"] == [unheard]
    assert len(service.store.pushes) == 1
    await service.registry.put_many("shop", [device(1, topics=("news",))])
    assert "warnings" not in (await call(service, "POST", "/v1/push", body)).json


async def test_without_the_registry_it_is_503_and_nothing_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("gone")

    async with running() as service:
        monkeypatch.setattr(service.registry, "members", away)
        answer = await call(service, "POST", "/v1/push", {"to": {"users": ["u1"]}, **CONTENT})
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert service.store.pushes == {}
        assert msgspec.json.decode(answer.body)["title"]
