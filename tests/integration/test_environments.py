"""One app, an account in each environment of APNs: each token goes where it belongs, and whom none reaches is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pushsvc.simulator import Simulator, SimulatorConfig, apns_token

from .harness import running_service


def test_each_environment_is_reached_by_its_own_account(tmp_path: Path) -> None:
    async def main() -> None:
        async with Simulator(SimulatorConfig(folder=str(tmp_path / "sandbox"))) as sandbox:
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
                for simulator, wanted in ((service.simulator, {"p"}), (sandbox, {"s", "x"})):
                    paths = {
                        request.fields[":path"].rpartition("/")[2]
                        for request in simulator.record.platform("apns").requests()
                    }
                    assert paths == {apns_token("Unregistered" if name == "x" else "ok", name) for name in wanted}

                async def suppressed() -> bool:
                    return await service.done(await service.push([dead])) == {"total": 1, "suppressed": 1}

                await service.until("the dead token is suppressed", suppressed)
                async with service.session.get("/v1/feedback") as answer:
                    (event,) = (await answer.json())["items"]
                assert (event["platform"], event["action"]) == ("apns", "suppressed")

    asyncio.run(main())


def test_whom_no_account_reaches_is_counted_and_has_a_row(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_service(tmp_path) as service:
            stranger = {"platform": "apns", "token": apns_token("ok", "s"), "environment": "sandbox"}
            push = await service.push([{"platform": "apns", "token": apns_token("ok", "p")}, stranger])
            assert await service.done(push) == {"total": 2, "sent": 1, "failed": 1}
            (row,) = [row for row in await service.rows(push) if row["outcome"] == "failed"]
            assert (row["platform"], row["reason"], row["attempts"]) == ("apns", "no_route", 0)
            async with service.session.get("/v1/failed") as answer:
                assert (await answer.json())["items"] == []

    asyncio.run(main())
