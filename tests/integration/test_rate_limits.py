"""Rate limits in the running service: delayed, dropped, refused; and what is not over a limit is not held up."""

from __future__ import annotations

import asyncio
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from .harness import Service, apns, fcm, running_service


def limits(**rates: str) -> str:
    return "[apps.shop.limits]\n" + "".join(f'{name} = "{rate}"\n' for name, rate in rates.items())


async def metric(service: Service, line: str) -> float:
    async with service.session.get("/metrics") as answer:
        text = await answer.text()
    return sum(float(each.rpartition(" ")[2]) for each in text.splitlines() if each.startswith(line))


async def test_pushes_over_a_tokens_limit_wait_and_all_arrive(tmp_path: Path) -> None:
    async with running_service(tmp_path, extra=limits(per_token="5/s")) as service:
        started = asyncio.get_running_loop().time()
        busy = [await service.push(apns("ok", "busy")) for _ in range(12)]
        assert await service.done(*busy) == {"total": 12, "sent": 12}
        # 5 at once, 7 more at 5 a second.
        assert asyncio.get_running_loop().time() - started >= 7 / 5 - 0.05
        for push in busy:
            [row] = await service.rows(push)
            assert row["attempts"] == 1
        assert service.simulator.record.apns.duplicates == 0

        async def counted() -> bool:
            return (
                await metric(service, 'pushsvc_attempts_total{app="shop",platform="apns",result="rate_limited"}') >= 7
            )

        await service.until("the metric says so", counted)


async def test_a_limited_token_holds_up_nobody(tmp_path: Path) -> None:
    async with running_service(tmp_path, extra=limits(per_token="2/h")) as service:
        busy = [await service.push(apns("ok", "busy")) for _ in range(20)]
        others = await service.push(apns("ok", *range(3000)) + fcm("ok", *range(500)) + apns("ok", "busy"))

        async def sent() -> bool:
            counts = (await service.status(others))["counts"]
            ended = [push for push in busy if (await service.status(push))["state"] == "done"]
            assert len(ended) <= 2
            return (counts["sent"], counts["retrying"], len(ended)) == (3500, 1, 2)

        await service.until("all others are sent, and the rest waits", sent)


async def test_over_the_limit_may_be_dropped(tmp_path: Path) -> None:
    async with running_service(tmp_path, extra=limits(per_token="2/h", on_exceed="drop")) as service:
        pushes = [await service.push(apns("ok", "busy", f"other-{number}")) for number in range(5)]
        assert await service.done(*pushes) == {"total": 10, "sent": 7, "suppressed": 3}
        rows = [row for push in pushes for row in await service.rows(push) if row["outcome"] == "suppressed"]
        assert [(row["reason"], row["attempts"], row["status"]) for row in rows] == [("rate_limited", 0, 0)] * 3

        async def counted() -> bool:
            line = 'pushsvc_deliveries_total{app="shop",outcome="suppressed",platform="apns",reason="rate_limited"}'
            return await metric(service, line) >= 3

        await service.until("the metric says so", counted)


async def register(service: Service, phone: dict[str, str], user: str) -> None:
    async with service.session.put("/v1/devices/phone", json={**phone, "user": user}) as answer:
        assert answer.status in (200, 201), await answer.text()


async def test_what_is_not_sent_to_a_suppressed_token_does_not_count(tmp_path: Path) -> None:
    async with running_service(tmp_path, extra=limits(per_token="2/h", on_exceed="drop")) as service:
        [phone] = apns("Unregistered.1", "phone")
        await register(service, phone, "ann")
        assert await service.done(await service.push([phone])) == {"total": 1, "invalid": 1}

        async def suppressed() -> bool:
            async with service.session.get("/v1/feedback") as answer:
                return [event["action"] for event in (await answer.json())["items"]] == ["pruned"]

        await service.until("the device is pruned, and its token suppressed", suppressed)
        for _ in range(3):
            push = await service.push([phone])
            assert await service.done(push) == {"total": 1, "suppressed": 1}
            assert [row["reason"] for row in await service.rows(push)] == ["suppressed"]
        await register(service, phone, "ann")
        # The second of two in an hour: what was suppressed in between was not submitted.
        assert await service.done(await service.push([phone])) == {"total": 1, "sent": 1}
        over = await service.push([phone])
        assert await service.done(over) == {"total": 1, "suppressed": 1}
        assert [row["reason"] for row in await service.rows(over)] == ["rate_limited"]


async def test_a_delivery_that_is_recalled_before_it_is_sent_counts_once(tmp_path: Path) -> None:
    """A read that waited while the device changed may not know of it: what it returns is looked at again."""
    async with running_service(tmp_path, extra=limits(per_token="1/h", on_exceed="drop")) as service:
        [phone] = apns("ok", "phone")
        await register(service, phone, "ann")
        # From here on the dispatcher waits for pushes.
        assert await service.done(await service.push(apns("ok", "other"))) == {"total": 1, "sent": 1}
        await register(service, phone, "bob")
        assert await service.done(await service.push([phone])) == {"total": 1, "sent": 1}
        assert await service.done(await service.push([phone])) == {"total": 1, "suppressed": 1}


async def test_a_wait_that_passes_the_ttl_ends_as_expired(tmp_path: Path) -> None:
    async with running_service(tmp_path, extra=limits(per_token="1/h")) as service:
        pushes = [await service.push(apns("ok", "busy"), notification={"title": "x"}, ttl=60) for _ in range(2)]
        assert await service.done(*pushes) == {"total": 2, "sent": 1, "expired": 1}
        rows = [row for push in pushes for row in await service.rows(push) if row["outcome"] == "expired"]
        assert [row["reason"] for row in rows] == ["rate_limited"]


async def test_the_apps_rate_is_kept_by_all_dispatchers_and_platforms(tmp_path: Path) -> None:
    async with running_service(tmp_path, extra=limits(per_app="500/s"), dispatchers=2) as service:
        started = asyncio.get_running_loop().time()
        push = await service.push(apns("ok", *range(400)) + fcm("ok", *range(400)))
        assert await service.done(push) == {"total": 800, "sent": 800}
        # 500 at once, 300 more at 500 a second.
        assert asyncio.get_running_loop().time() - started >= 300 / 500 - 0.05


async def test_what_is_over_the_apps_rate_may_be_dropped(tmp_path: Path) -> None:
    async with running_service(tmp_path, extra=limits(per_app="500/h", on_exceed="drop"), dispatchers=2) as service:
        push = await service.push(apns("ok", *range(400)) + fcm("ok", *range(400)))
        assert await service.done(push) == {"total": 800, "sent": 500, "suppressed": 300}


async def test_the_projects_quota_ramps_up(tmp_path: Path) -> None:
    # The last section of the harness's configuration is `[apps.shop.fcm]`.
    async with running_service(tmp_path, extra='quota = "120000/min"\n') as service:
        push = await service.push(apns("ok", *range(200)) + fcm("ok", *range(200)))

        async def apns_sent() -> bool:
            return service.simulator.record.apns.accepted == 200

        started = asyncio.get_running_loop().time()
        await service.until("APNs has no quota", apns_sent)
        assert await service.done(push) == {"total": 400, "sent": 400}
        # 2,000 a second, of which 5 % at first: 100 at once, then 100 a second and slowly more.
        assert asyncio.get_running_loop().time() - started >= 0.5


async def test_collapsible_messages_to_one_device_are_few(tmp_path: Path) -> None:
    async with running_service(tmp_path, extra='collapsible = "3/h"\n') as service:
        silent = [await service.push(fcm("ok", "one"), data={"sync": "1"}, collapse="sync") for _ in range(5)]
        seen = [await service.push(fcm("ok", "one"), notification={"title": "x"}, collapse="c") for _ in range(5)]
        plain = [await service.push(fcm("ok", "one"), data={"sync": "1"}) for _ in range(5)]
        assert await service.done(*seen, *plain) == {"total": 10, "sent": 10}

        async def two_wait() -> bool:
            counts = [(await service.status(push))["counts"] for push in silent]
            return (sum(each["sent"] for each in counts), sum(each["retrying"] for each in counts)) == (3, 2)

        await service.until("three went, and two wait", two_wait)
        assert service.simulator.record.fcm.accepted == 13


async def test_intake_refuses_what_is_over_the_apps_limit(tmp_path: Path) -> None:
    async with running_service(tmp_path, extra=limits(intake="10/h")) as service:
        document = {"to": {"tokens": apns("ok", 1)}, "notification": {"title": "x"}}
        answers = await asyncio.gather(*(service.post(document) for _ in range(20)))
        assert sorted(status for status, _ in answers) == [202] * 10 + [429] * 10
        async with service.session.post("/v1/push", json=document) as answer:
            assert answer.status == 429
            assert 300 < int(answer.headers["Retry-After"]) <= 360
            assert (await answer.json(content_type=None))["type"].endswith("too-many-requests")


KEYS = """
[[apps.shop.keys]]
name = "slow"
sha256 = "{slow}"
intake = "5/h"
[[apps.shop.keys]]
name = "other"
sha256 = "{other}"
[apps.shop.limits]
intake = "12/h"
"""


async def test_a_key_has_a_limit_of_its_own_beside_the_apps(tmp_path: Path) -> None:

    slow, other = (sha256(key.encode()).hexdigest() for key in ("slow", "other"))
    async with running_service(tmp_path, extra=KEYS.format(slow=slow, other=other)) as service:
        document = {"to": {"tokens": apns("ok", 1)}, "notification": {"title": "x"}}

        async def post(key: str, path: str = "/v1/push", body: Any = document) -> tuple[int, str]:
            headers = {"Authorization": f"Bearer {key}"}
            async with service.session.post(path, json=body, headers=headers) as answer:
                return answer.status, str((await answer.json(content_type=None)).get("detail", ""))

        answers = await asyncio.gather(*(post("slow") for _ in range(10)))
        assert sorted(status for status, _ in answers) == [202] * 5 + [429] * 5
        passes = r"The key 'slow' may post 5 pushes in 3600 s \(the key's intake\); this one passes in 7[12]\d s\."
        assert all(re.fullmatch(passes, detail) for status, detail in answers if status == 429)
        answers = [await post("other") for _ in range(10)]
        assert [status for status, _ in answers] == [202] * 7 + [429] * 3
        assert answers[-1][1].startswith("The app may post 12 pushes in 3600 s")
        assert (await post("slow", "/v1/push/batch", [document]))[0] == 429

        async def counted() -> bool:
            refused = 'pushsvc_pushes_refused_total{app="shop",limit='
            # Counters are of this test's process, in which other tests may have refused something. The batch is over
            # both limits: which of them a process knows to be used up changes when it reloads its configuration.
            key, app = await metric(service, refused + '"key"}'), await metric(service, refused + '"app"}')
            return key >= 5 and app >= 3 and key + app >= 9

        await service.until("the metric says which", counted)
