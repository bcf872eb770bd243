"""One app, an account in each environment of APNs: each token is sent to its own, unreachable ones are reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

from pushsvc.lab.simulator import Simulator, SimulatorConfig, apns_token

from .harness import apns, fcm, running_service


async def test_each_environment_is_reached_by_its_own_account(tmp_path: Path) -> None:
    config = SimulatorConfig(folder=str(tmp_path / "sandbox"), environment="sandbox")
    async with Simulator(config) as sandbox:
        credentials = sandbox.write_credentials(tmp_path / "sandbox")
        account = f"""
[apps.shop.apns_sandbox]
key_file = "{credentials.apns_key_file}"
key_id = "{credentials.key_id}"
team_id = "{credentials.team_id}"
topic = "{credentials.topic}"
endpoint = "{sandbox.apns_url}"
ca_file = "{credentials.ca_file}"
"""
        async with running_service(tmp_path, extra=account) as service:
            for name, environment in (("p", "production"), ("s", "sandbox")):
                device = {
                    "platform": "apns",
                    "token": apns_token("ok", name),
                    "environment": environment,
                    "user": "ann",
                }
                async with service.session.put(f"/v1/devices/{name}", json=device) as answer:
                    assert answer.status == 201
            dead = {"platform": "apns", "token": apns_token("Unregistered", "x"), "environment": "sandbox"}
            tokens = await service.push([dead])
            status, body = await service.post({"to": {"users": ["ann"]}, "notification": {"title": "t"}})
            assert (status, body["deliveries"]) == (202, 2)
            assert await service.done(tokens, body["id"]) == {"total": 3, "sent": 2, "invalid": 1}
            rows = await service.rows(tokens) + await service.rows(body["id"])
            assert {row["platform"] for row in rows} == {"apns"}
            # The sandbox gives an id for Apple's console, which stands in the row.
            unique = {row["device_id"]: "provider_unique_id" in row for row in rows}
            assert unique == {"p": False, "s": True, None: False}
            for simulator, wanted in ((service.simulator, {"p"}), (sandbox, {"s", "x"})):
                paths = {
                    request.fields[":path"].rpartition("/")[2]
                    for request in simulator.record.platforms["apns"].requests()
                }
                assert paths == {apns_token("Unregistered" if name == "x" else "ok", name) for name in wanted}

            async def suppressed() -> bool:
                async with service.session.get("/v1/feedback") as answer:
                    events = (await answer.json())["items"]
                return [(each["platform"], each["action"]) for each in events] == [("apns", "suppressed")]

            await service.until("the dead token is suppressed", suppressed)
            assert await service.done(await service.push([dead])) == {"total": 1, "suppressed": 1}


async def test_a_device_that_no_account_reaches_is_counted_and_has_a_row(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        stranger = {"platform": "apns", "token": apns_token("ok", "s"), "environment": "sandbox"}
        tokens = [{"platform": "apns", "token": apns_token("ok", "p")}, stranger]
        document = {"to": {"tokens": tokens}, "notification": {"title": "t"}}
        status, body = await service.post(document)
        assert status == 202
        warning = {
            "path": "to",
            "message": "no account of the app reaches 1 of the targets, of apns in the environment sandbox: "
            "they end as `failed`, reason `no_route`",
        }
        assert (body["unreached"], body["warnings"]) == (1, [warning])
        push = body["id"]
        assert await service.done(push) == {"total": 2, "sent": 1, "failed": 1}
        (row,) = [row for row in await service.rows(push) if row["outcome"] == "failed"]
        assert (row["platform"], row["reason"], row["attempts"]) == ("apns", "no_route", 0)
        async with service.session.get("/v1/failed") as answer:
            assert (await answer.json())["items"] == []
        # What the vendors' pages say stands beside it, in a batch and in a dry run as well.
        own = {"apns": {"payload": {"aps": {"badge": "3"}}}}
        odd = {"to": {"tokens": tokens[:1]}, "notification": {"title": "t"}, "overrides": own, "dry_run": True}
        said = {"path": "overrides.apns.payload.aps.badge", "message": "is expected to be a whole number from 0 up"}
        status, body = await service.post(odd)
        assert (status, body["warnings"]) == (202, [said])
        async with service.session.post("/v1/push/batch", json=[odd, document, {**odd, "overrides": {}}]) as answer:
            results = (await answer.json())["results"]
        assert [result.get("warnings") for result in results] == [[said], [warning], None]
        # A caller that waits for the end has them too: with the status, and when the call is repeated.
        for _ in range(2):
            waiting = {"Prefer": "wait=30", "Idempotency-Key": "once"}
            async with service.session.post("/v1/push", json=document, headers=waiting) as answer:
                status, body = answer.status, await answer.json()
            assert (status, body["counts"]["failed"], body["warnings"]) == (200, 1, [warning])
        async with service.session.get(f"/v1/push/{body['id']}") as answer:
            assert "warnings" not in await answer.json()


def _account(folder: Path, simulator: Simulator, key_file: str) -> str:
    credentials = simulator.write_credentials(folder)
    return f"""
[apps.shop.apns_sandbox]
key_file = "{key_file}"
key_id = "{credentials.key_id}"
team_id = "{credentials.team_id}"
topic = "{credentials.topic}"
endpoint = "{simulator.apns_url}"
ca_file = "{credentials.ca_file}"
"""


async def test_a_credential_that_cannot_be_read_holds_its_own_route_until_it_can(tmp_path: Path) -> None:
    """The others start and send; where it is damaged later, the route goes on by the earlier one and says so."""
    async with Simulator(SimulatorConfig(folder=str(tmp_path / "sandbox"))) as sandbox:
        key_file = tmp_path / "missing.p8"
        good = sandbox.write_credentials(tmp_path / "sandbox").apns_key_file.read_bytes()
        account = _account(tmp_path / "sandbox", sandbox, str(key_file))
        async with running_service(tmp_path, extra=account) as service:

            async def ready() -> dict[str, Any]:
                async with service.session.get("/readyz") as answer:
                    assert answer.status == 200
                    found: dict[str, Any] = await answer.json()
                    return found

            async def is_held() -> bool:
                why = (await ready()).get("held", {}).get("shop/apns_sandbox", "")
                return bool(why.startswith("credential: ") and "missing.p8: no such file" in why)

            async def is_noted() -> bool:
                notes = (await ready()).get("notes", [])
                return len(notes) == 1 and notes[0].startswith("shop/apns_sandbox: sends by its earlier account")

            async def all_is_well() -> bool:
                return not (await ready()).keys() & {"held", "notes"}

            waiting = await service.push([{**token, "environment": "sandbox"} for token in apns("ok", 1)])
            assert await service.done(await service.push(apns("ok", 2) + fcm("ok", 2))) == {"total": 2, "sent": 2}
            await service.until("the route is held for its credential", is_held)
            labels = {"app": "shop", "platform": "apns_sandbox", "reason": "credential"}
            await service.until(
                "the metric says so", lambda: REGISTRY.get_sample_value("pushsvc_route_held", labels) == 1.0
            )
            # What waits for the account follows its device to the other one.
            phone = {"platform": "apns", "token": apns_token("ok", "phone")}
            for environment in ("sandbox", "production"):
                document = {**phone, "environment": environment}
                async with service.session.put("/v1/devices/phone", json=document) as answer:
                    assert answer.status in (200, 201)
                if environment == "sandbox":
                    to = {"devices": ["phone"]}
                    status, body = await service.post({"to": to, "notification": {"title": "t"}})
                    assert status == 202
            assert await service.done(body["id"]) == {"total": 1, "sent": 1}
            key_file.write_bytes(good)
            assert await service.done(waiting) == {"total": 1, "sent": 1}
            await service.until("nothing is held", all_is_well)
            key_file.write_bytes(b"damaged")
            await service.until("it is noted", is_noted)
            again = await service.push([{**token, "environment": "sandbox"} for token in apns("ok", 3)])
            assert await service.done(again) == {"total": 1, "sent": 1}
            key_file.write_bytes(good)
            await service.until("the note is gone", all_is_well)
