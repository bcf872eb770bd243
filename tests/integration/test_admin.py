"""Administration over HTTP against the whole service: each call sees its own app, and needs the scope `admin`."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from pushsvc.api.admin import pushes
from pushsvc.api.admin.routes import CALLS
from pushsvc.lab.simulator import Simulator
from pushsvc.model.delivery import End
from pushsvc.model.instants import instant
from pushsvc.model.status import Counts, DeliveryRow, PushStatus
from pushsvc.ports.pushes import KeptPush, ListedPush
from pushsvc.ports.registry import Prune
from pushsvc.runtime.state import flow
from pushsvc.runtime.store import open_running_store

from .harness import Service, apns, fcm, running_service

DESK, PUSHER = "desk-of-news", "pusher-of-news"


def extra(simulator: Simulator, folder: Path) -> str:
    """A second app, and a webhook of the first that no one answers."""
    account = simulator.write_credentials(folder / "simulator")
    return f"""
[apps.shop.webhook]
url = "http://127.0.0.1:9/in"
secret = "whsec_{"A" * 44}"
allow_private = true
[apps.news]
[[apps.news.keys]]
name = "desk"
sha256 = "{hashlib.sha256(DESK.encode()).hexdigest()}"
scopes = ["push", "admin"]
[[apps.news.keys]]
name = "pusher"
sha256 = "{hashlib.sha256(PUSHER.encode()).hexdigest()}"
scopes = ["push", "devices", "feedback"]
[apps.news.fcm]
service_account_file = "{account.service_account_file}"
endpoint = "{simulator.fcm_url}"
ca_file = "{account.ca_file}"
"""


async def ask(service: Service, method: str, path: str, body: Any = None, *, key: str = "") -> tuple[int, Any]:
    """One call with the key of the shop, or with another one; status and body."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with service.session.request(method, path, json=body, headers=headers) as answer:
        assert answer.headers["X-Request-Id"]
        return answer.status, await answer.json(content_type=None) if answer.content_length else None


@pytest.mark.parametrize(
    ("rows", "failed", "expected"),
    [
        ([(2, "sent"), (3, "failed")], None, {"first_end": 2, "first_failure": 3, "last_end": 3}),
        ([(2, "sent")], 3, {"first_end": 2, "first_failure": 3, "last_end": 2, "replayed": 9}),
        ([], 3, {"first_end": 3, "first_failure": 3, "replayed": 9}),
        ([(12, "sent")], 3, {"first_end": 3, "first_failure": 3, "last_end": 12, "replayed": 9}),
        ([(12, "failed")], 3, {"first_end": 3, "first_failure": 3, "last_end": 12, "replayed": 9}),
    ],
)
def test_a_replay_keeps_what_was_first_and_what_is_last_has_ended(
    rows: list[tuple[int, End]], failed: int | None, expected: dict[str, int]
) -> None:
    status = PushStatus("p", "shop", "sending", 1, 12, Counts(total=2))
    kept = KeptPush(ListedPush(status), failed_at=failed, replayed_at=failed and 9)
    ended = [DeliveryRow("apns", None, "", end, "", 0, 1, "", at) for at, end in rows]
    moments = {each.what: each.at for each in pushes._timeline(kept, ended)}
    assert moments == {what: instant(at) for what, at in {"accepted": 1, **expected}.items()}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_each_call_needs_the_scope_admin(call: Any) -> None:
    assert (call.scopes, call.others) == (("admin",), "refused")


async def test_two_apps_each_see_and_change_their_own(tmp_path: Path) -> None:
    async with running_service(tmp_path, extra=lambda simulator: extra(simulator, tmp_path)) as service:
        await lists(service)
        await keys(service)
        await state(service)
        await acts(service)
        await previews(service)
        await devices(service)
        await guards(service)
        for call in CALLS:
            path = call.path.replace("{name}", "x").replace("{device_id}", "x")
            assert (await ask(service, call.method, path, {}, key=PUSHER))[0] == 403, path
            assert (await ask(service, call.method, path, {}, key="unknown"))[0] == 401, path


async def lists(service: Service) -> None:
    """Pushes, the newest first, and schedules."""
    first = await service.push(apns("ok", "a"), notification={"title": "1"}, collapse="order-7", lane="urgent")
    second = await service.push(fcm("ok", "b"), notification={"title": "2"})
    failed = await service.push(apns("PayloadEmpty", "c"), notification={"title": "3"})
    await service.done(first, second, failed)
    later = (datetime.now(UTC) + timedelta(minutes=30)).isoformat()
    waits = await service.push(apns("ok", "d"), notification={"title": "4"}, send_at=later)
    alien = (await ask(service, "POST", "/v1/push", {"to": {"tokens": fcm("ok", "e")}, "data": {"a": "b"}}, key=DESK))[
        1
    ]

    async def ids(query: str, key: str = "") -> list[str]:
        status, page = await ask(service, "GET", f"/v1/admin/pushes{query}", key=key)
        assert status == 200, page
        assert page["cursor"] is None
        return [item["id"] for item in page["items"]]

    assert await ids("") == [waits, failed, second, first]
    assert await ids("", DESK) == [alien["id"]]
    assert await ids("?state=scheduled") == [waits]
    assert await ids("?lane=urgent") == await ids("?collapse=order-7") == [first]
    assert await ids("?collapse=order") == await ids("?key=other") == []
    assert await ids("?key=test&state=done&app=shop") == [failed, second, first]
    items = (await ask(service, "GET", "/v1/admin/pushes?limit=2"))[1]
    assert [item["id"] for item in items["items"]] == [waits, failed]
    page = (await ask(service, "GET", f"/v1/admin/pushes?limit=2&cursor={items['cursor']}"))[1]
    assert ([item["id"] for item in page["items"]], page["cursor"]) == ([second, first], None)
    assert page["items"][1].items() >= {"lane": "urgent", "key": "test", "state": "done"}.items()
    assert page["items"][1]["counts"]["sent"] == 1
    since = items["items"][1]["created_at"]
    assert waits in await ids(f"?since={since}")
    assert first in await ids(f"?until={since}")
    for query, where in (("?cursor=x", "cursor"), ("?since=yesterday", "since"), ("?state=new", "state")):
        status, problem = await ask(service, "GET", f"/v1/admin/pushes{query}")
        assert (status, problem["errors"][0]["path"]) == (422, where)
    assert (await ask(service, "GET", "/v1/admin/pushes?app=news"))[0] == 403

    schedules = (await ask(service, "GET", "/v1/admin/schedules"))[1]
    assert [item["id"] for item in schedules["items"]] == [waits]
    assert schedules["items"][0]["send_at"]
    assert (await ask(service, "GET", "/v1/admin/schedules", key=DESK))[1] == {"items": [], "cursor": None}
    audience = {"to": {"all": True}, "data": {"a": "b"}, "send_at": later}
    audience_id = (await service.post(audience))[1]["id"]
    status, page = await ask(service, "GET", "/v1/admin/schedules?limit=1")
    more = (await ask(service, "GET", f"/v1/admin/schedules?limit=1&cursor={page['cursor']}"))[1]
    found = page["items"] + more["items"]
    assert {item["id"] for item in found} == {waits, audience_id}
    assert more["cursor"] is None
    listed = (await ask(service, "GET", "/v1/admin/pushes?state=scheduled"))[1]["items"]
    assert sorted(found, key=itemgetter("id")) == sorted(listed, key=itemgetter("id"))
    assert {(item["lane"], item["key"]) for item in found} == {("normal", "test")}
    assert [item["counts"]["total"] for item in listed] == [0, 1]
    await one_push(service, first, failed, waits, alien["id"])


async def one_push(service: Service, sent: str, failed: str, waits: str, alien: str) -> None:
    """One push with what is left of it, and its copy."""

    async def shown(push_id: str) -> Any:
        status, push = await ask(service, "GET", f"/v1/admin/pushes/{push_id}")
        assert (status, push["id"], push["key"]) == (200, push_id, "test"), push
        return push

    assert (await ask(service, "GET", f"/v1/admin/pushes/{alien}"))[0] == 404
    assert (await ask(service, "GET", "/v1/admin/pushes/x"))[0] == 404
    gone = await shown(sent)
    assert [each["what"] for each in gone["timeline"]] == ["accepted", "first_end", "last_end", "done"]
    assert (gone["lane"], gone["counts"]["sent"]) == ("urgent", 1)
    assert (gone["messages"], gone["copy"], gone["to"]) == ([], None, None)
    for push_id, title in ((failed, "3"), (waits, "4")):
        push = await shown(push_id)
        (message,) = push["messages"]
        assert (message["platform"], message["path"], message["deliveries"]) == ("apns", "/3/device/<token>", None)
        assert message["body"]["aps"]["alert"]["title"] == title
        assert push["copy"]["overrides"]["apns"]["payload"] == message["body"]
        assert push_id not in str(push["copy"])
        assert (push["copy"].keys(), push["copy_lacks"]) == ({"overrides", "lane"}, ["to"])
        copy = {**push["copy"], "to": {"tokens": apns("ok", "copy")}}
        status, preview = await ask(service, "POST", "/v1/admin/preview", copy)
        assert (status, preview["warnings"], preview["messages"][0]["body"]) == (200, [], message["body"])
    assert [each["what"] for each in (await shown(waits))["timeline"]] == ["accepted", "due"]

    # A large one, a push of devices by name, and an audience that waits for its time.
    large = await service.push(apns("ok", *range(40)), notification={"title": "5", "badge": "unread"}, collapse="c")
    later = (datetime.now(UTC) + timedelta(minutes=30)).isoformat()
    audience = {"where": "platform == 'fcm'"}
    _, accepted = await service.post({"to": audience, "notification": {"title": "6"}, "send_at": later})
    planned = await shown(accepted["id"])
    assert (planned["to"], planned["copy"]["to"]) == (audience, audience)
    assert {each["platform"] for each in planned["messages"]} == {"apns", "fcm"}
    assert planned["copy"]["overrides"]["fcm"]["notification"] == {"title": "6"}
    assert (await ask(service, "POST", "/v1/push", {**planned["copy"], "dry_run": True}))[0] == 202
    await service.done(large)
    assert (await shown(large))["counts"]["sent"] == 40
    # The copy of a dry run is one.
    asked: dict[str, Any] = {"notification": {"title": "7"}, "dry_run": True, "ttl": 600, "send_at": later}
    for tokens in (1, 40):
        tried = await service.push(fcm("ok", *range(tokens)), **asked)
        push = await shown(tried)
        assert (push["copy"]["dry_run"], push["copy"]["ttl"], push["copy_lacks"]) == (True, 600, ["to"])
        assert push["messages"][0]["body"]["validate_only"] is True
        assert (await ask(service, "DELETE", f"/v1/push/{tried}"))[0] == 200
    assert (await ask(service, "DELETE", f"/v1/push/{accepted['id']}"))[0] == 200


async def keys(service: Service) -> None:
    """Keys are shown once, work, and are revoked."""
    status, made = await ask(service, "POST", "/v1/admin/keys", {"name": "ci", "scopes": ["push", "admin"]})
    assert status == 201
    assert hashlib.sha256(made["key"].encode()).hexdigest() == made["sha256"]
    assert (await ask(service, "GET", "/v1/admin/stats", key=made["key"]))[1]["app"] == "shop"
    listed = (await ask(service, "GET", "/v1/admin/keys"))[1]["keys"]
    assert [(key["name"], key["kept_in"]) for key in listed] == [("ci", "store"), ("test", "configuration")]
    assert made["key"] not in str(listed)
    assert made["sha256"] not in str(listed)
    others = (await ask(service, "GET", "/v1/admin/keys", key=DESK))[1]["keys"]
    assert [key["name"] for key in others] == ["desk", "pusher"]
    assert (await ask(service, "POST", "/v1/admin/keys", {"name": "ci"}))[0] == 409
    assert (await ask(service, "DELETE", "/v1/admin/keys/ci", key=DESK))[0] == 404
    assert (await ask(service, "DELETE", "/v1/admin/keys/ci", key=made["key"]))[0] == 409
    assert (await ask(service, "DELETE", "/v1/admin/keys/test"))[0] == 409
    for document in ({"name": "a b"}, {"name": "a", "scopes": []}, {"name": "a", "intake": "much"}, {}):
        assert (await ask(service, "POST", "/v1/admin/keys", document))[0] == 422, document
    assert (await ask(service, "DELETE", "/v1/admin/keys/ci"))[0] == 204
    assert (await ask(service, "DELETE", "/v1/admin/keys/ci"))[0] == 404


async def state(service: Service) -> None:
    """The state of an app: what waits, what was sent, and why it is not."""

    async def counted() -> bool:
        rates = (await ask(service, "GET", "/v1/admin/stats"))[1]["rates"]
        return bool(rates["sent"] and rates["accepted"])

    await service.until("the rates are known", counted)
    stats = (await ask(service, "GET", "/v1/admin/stats"))[1]
    assert [lane["lane"] for lane in stats["lanes"]] == ["urgent", "normal", "bulk"]
    routes = {route["route"]: route for route in stats["routes"]}
    assert list(routes) == ["shop/apns", "shop/fcm"]
    assert routes["shop/apns"].items() >= {"state": "sending", "workers": 1, "waiting": 0}.items()
    assert routes["shop/apns"]["answers"]["sent"] >= 1
    assert routes["shop/apns"]["failed"] >= 1  # those of earlier tests in this process count too
    assert routes["shop/apns"]["p99"] is not None
    assert {part["part"]: part["count"] for part in stats["workers"]} == {
        "serve": 1,
        "dispatch": 1,
        "feedback": 1,
        "jobs": 0,
    }
    assert stats["scheduled"] == 1
    assert stats["scheduled_next_hour"] == 2
    assert stats["verdict"]["state"] == "critical", "no jobs run here"
    assert "jobs" in stats["verdict"]["text"]
    other = (await ask(service, "GET", "/v1/admin/stats", key=DESK))[1]
    assert "shop" not in str(other)
    assert other["scheduled"] == 0


async def acts(service: Service) -> None:
    """Webhooks, cleanup and check."""
    (webhook,) = (await ask(service, "GET", "/v1/admin/webhooks"))[1]["webhooks"]
    assert (webhook["kind"], webhook["host"], webhook["state"], webhook["calls"]) == (
        "feedback",
        "127.0.0.1:9",
        "ok",
        [],
    )
    assert (await ask(service, "GET", "/v1/admin/webhooks", key=DESK))[1] == {"webhooks": []}
    status, answer = await ask(service, "POST", "/v1/admin/webhooks/test")
    assert (status, answer["ok"], answer["reason"]) == (200, False, "unreachable")
    assert (await ask(service, "POST", "/v1/admin/webhooks/resume"))[0] == 200
    assert (await ask(service, "POST", "/v1/admin/webhooks/redeliver", {}))[1] == {"batches": 0, "events": 0}
    assert (await ask(service, "GET", "/v1/admin/webhooks/failed?since=2026-01-01T00:00:00Z"))[1] == {"batches": []}
    for act in ("test", "resume", "redeliver"):
        assert (await ask(service, "POST", f"/v1/admin/webhooks/{act}", key=DESK))[0] == 409
    status, counted = await ask(service, "POST", "/v1/admin/cleanup", {"dry_run": True})
    assert (status, counted["state"]) == (200, "counted")
    assert [(await ask(service, "POST", "/v1/admin/cleanup"))[1]["state"] for _ in range(2)] == ["requested", "running"]
    assert (await ask(service, "GET", "/v1/admin/stats"))[1]["cleanup"]["running"]
    found = (await ask(service, "GET", "/v1/admin/check"))[1]["findings"]
    assert any(finding["part"] == "apps.shop.apns" and finding["level"] == "ok" for finding in found)
    assert not any("news" in finding["part"] for finding in found)


async def previews(service: Service) -> None:
    """A preview is what the provider then gets, and sends nothing."""
    both: dict[str, Any] = {
        "to": {"tokens": [*apns("ok", "f"), *fcm("ok", "f")]},
        "notification": {"title": "Order 7"},
        "collapse": "o7",
    }
    record = service.simulator.record
    before = record.apns.total, record.fcm.total
    status, preview = await ask(service, "POST", "/v1/admin/preview", both)
    assert (status, preview["deliveries"], preview["audience"]) == (200, 2, None)
    assert (record.apns.total, record.fcm.total) == before
    shown = {message["route"]: message for message in preview["messages"]}
    assert [shown[route]["deliveries"] for route in ("apns", "fcm")] == [1, 1]
    await service.done((await service.post(both))[1]["id"])
    sent = {own.platform: own.requests()[-1] for own in (record.apns, record.fcm)}
    own = {name: text for name, text in sent["apns"].fields.items() if name.startswith("apns-")}
    assert own.keys() == shown["apns"]["headers"].keys()
    stable = own.keys() - {"apns-id", "apns-expiration"}
    assert {name: own[name] for name in stable} == {name: shown["apns"]["headers"][name] for name in stable}
    assert json.loads(sent["apns"].body) == shown["apns"]["body"]
    token = both["to"]["tokens"][1]["token"]
    assert sent["fcm"].fields[":path"] == shown["fcm"]["path"]
    assert json.loads(sent["fcm"].body.decode().replace(token, "<token>")) == shown["fcm"]["body"]
    everything = (await ask(service, "POST", "/v1/admin/preview", {"to": {"all": True}, "data": {"a": "b"}}))[1]
    assert everything["audience"] == {"kind": "all", "devices": 0, "complete": True}
    assert (await ask(service, "POST", "/v1/admin/preview", {"to": {}}))[0] == 422


async def devices(service: Service) -> None:
    """Devices are found by an expression, without tokens, and restored."""
    token = apns("ok", "phone")[0]["token"]
    for name, plan in (("phone-1", "pro"), ("phone-2", "free")):
        document = {"platform": "apns", "token": token + name[-1] * 2, "tags": {"plan": plan}, "user": "u1"}
        assert (await ask(service, "PUT", f"/v1/devices/{name}", document))[0] == 201
    page = (await ask(service, "GET", "/v1/admin/devices?where=tags.plan%20%3D%3D%20%27pro%27"))[1]
    assert [device["id"] for device in page["items"]] == ["phone-1"]
    assert token not in str(page)
    assert page["items"][0]["token_end"] == (token + "11")[-4:]
    counted = (await ask(service, "GET", "/v1/admin/devices/count?where=user%20%3D%3D%20%27u1%27"))[1]
    assert counted == {"devices": 2, "complete": True}
    assert (await ask(service, "GET", "/v1/admin/devices/count", key=DESK))[1]["devices"] == 0
    assert (await ask(service, "GET", "/v1/admin/devices", key=DESK))[1]["items"] == []
    assert (await ask(service, "GET", "/v1/admin/devices/phone-1", key=DESK))[0] == 404
    status, problem = await ask(service, "GET", "/v1/admin/devices?where=tags.plan%20%3D")
    assert (status, problem["errors"][0]["path"]) == (422, "where")
    assert (await ask(service, "GET", "/v1/admin/devices/phone-1"))[1]["user"] == "u1"
    assert (await ask(service, "POST", "/v1/admin/devices/phone-1/restore"))[0] == 409
    async with open_running_store(service.settings) as store:
        assert (await ask(service, "GET", "/v1/admin/devices/phone-1"))[1]["suppressed"] is False
        await store.suppressions.add("shop", [("apns", token + "11", store.clock())])
        assert (await ask(service, "GET", "/v1/admin/devices/phone-1"))[1]["suppressed"] is True
        later = store.clock() + 1000
        phone = await store.registry.get("shop", "phone-1")
        assert phone is not None
        pruned = Prune("phone-1", token + "11", phone.registered_at, "Unregistered", later)
        assert await store.registry.prune("shop", [pruned]) == [True]
    shown = (await ask(service, "GET", "/v1/admin/devices/phone-1"))[1]
    assert (shown["state"], shown["pruned_for"]) == ("pruned", "Unregistered")
    assert (await ask(service, "POST", "/v1/admin/devices/phone-1/restore", key=DESK))[0] == 404
    restored = (await ask(service, "POST", "/v1/admin/devices/phone-1/restore"))[1]
    assert (restored["state"], restored["suppressed"]) == ("active", False)

    # The last pushes to a device, also those to its token alone: `lists` has sent it one.
    document = {"platform": "apns", "token": apns("ok", "a")[0]["token"]}
    assert (await ask(service, "PUT", "/v1/devices/phone-3", document))[0] == 201
    again = (await service.post({"to": {"devices": ["phone-3"]}, "notification": {"title": "5"}}))[1]["id"]
    await service.done(again)
    status, page = await ask(service, "GET", "/v1/admin/devices/phone-3/pushes")
    assert (status, page["cursor"], page["too_large"]) == (200, None, 0)
    assert [each["delivery"]["outcome"] for each in page["items"]] == ["sent", "sent"]
    newest, oldest = page["items"]
    assert (newest["push_id"], newest["delivery"]["device_id"]) == (again, "phone-3")
    assert (oldest["delivery"]["device_id"], oldest["delivery"]["status"]) == (None, 200)
    assert page["since"] <= oldest["created_at"]
    one = (await ask(service, "GET", "/v1/admin/devices/phone-3/pushes?limit=1"))[1]
    assert [each["push_id"] for each in one["items"]] == [again]
    rest = (await ask(service, "GET", f"/v1/admin/devices/phone-3/pushes?cursor={one['cursor']}"))[1]
    assert rest["items"] == [oldest]
    assert one["examined"] + rest["examined"] == page["examined"]
    assert (await ask(service, "GET", "/v1/admin/devices/phone-3/pushes", key=DESK))[0] == 404
    assert (await ask(service, "GET", "/v1/admin/devices/phone-3/pushes?cursor=x"))[0] == 422
    assert (await ask(service, "DELETE", "/v1/devices/phone-3"))[0] == 204


async def guards(service: Service) -> None:
    """Dead letters by reason, rates, guards of pruning, and the live channel that this app does not have."""
    groups = (await ask(service, "GET", "/v1/admin/failed"))[1]
    assert [(group["platform"], group["reason"], group["count"]) for group in groups["groups"]] == [
        ("apns", "PayloadEmpty", 1)
    ]
    expected = {"status": 400, "meaning": "The payload is empty.", "retryable": False}
    assert groups["groups"][0].items() >= expected.items()
    (letter,) = groups["groups"][0]["sample"]
    for narrow, total in ((f"push={letter['push_id']}", 1), ("reason=PayloadEmpty", 1), ("reason=BadTopic", 0)):
        assert (await ask(service, "GET", f"/v1/admin/failed?{narrow}"))[1]["total"] == total
    assert (await ask(service, "GET", "/v1/admin/failed", key=DESK))[1]["total"] == 0
    series: dict[tuple[str, str, str], list[int | None]] = {}

    async def level_is_noted() -> bool:
        rates = (await ask(service, "GET", "/v1/admin/rates?span=600&step=60"))[1]
        series.update({(each["name"], each["platform"], each["lane"]): each["values"] for each in rates["series"]})
        assert len(series["accepted", "", ""]) == rates["points"] == 10
        return ("waiting", "", "urgent") in series

    await service.until("how much waits is noted with the end of a slot", level_is_noted)
    guard = (await ask(service, "GET", "/v1/admin/feedback"))[1]
    assert [(route["route"], route["frozen"]) for route in guard["routes"]] == [
        ("shop/apns", False),
        ("shop/fcm", False),
    ]
    assert (await ask(service, "POST", "/v1/admin/feedback/release", {"route": "shop/apns"}, key=DESK))[0] == 404
    released = (await ask(service, "POST", "/v1/admin/feedback/release", {"route": "shop/apns", "for": 60}))[1]
    assert [bool(route["prune_anyway_until"]) for route in released["routes"]] == [True, False]
    kept = (await ask(service, "POST", "/v1/admin/feedback/keep", {"route": "shop/apns"}))[1]
    assert not any(route["prune_anyway_until"] for route in kept["routes"])
    assert (await ask(service, "GET", "/v1/admin/live"))[0] == 409
    assert (await ask(service, "POST", "/v1/admin/live/cut", {"device_id": "phone-1"}))[0] == 409


def test_percentiles_are_estimated_within_their_bucket() -> None:
    counts = {"took:apns:0:0.1": 50, "took:apns:0.1:0.2": 49, "took:apns:30.0:+Inf": 1, "took:fcm:0:0.1": 7}
    assert flow.quantile(counts, "apns", 0.5) == pytest.approx(0.1)
    assert flow.quantile(counts, "apns", 0.99) == pytest.approx(0.2)
    assert flow.quantile(counts, "apns", 1.0) == 30.0
    assert flow.quantile(counts, "live", 0.5) is None
