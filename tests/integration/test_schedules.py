"""`send_at` by the real service: real processes, kills among them, and the simulator's record to say what was sent."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from .harness import Service, apns, fcm, running_service
from .processes import Processes, Site, until
from .servers import running_server

SEED = 7


def written(at: float) -> str:
    """Unix seconds as RFC 3339, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def read(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def test_each_is_sent_once_at_its_time_and_what_is_cancelled_is_not(tmp_path: Path) -> None:
    """Two dispatchers; times spread over three seconds; half of them cancelled, at any moment until their time."""
    count = 200

    async def act(service: Service) -> None:
        rng = random.Random(SEED)
        first = time.time() + 2.0
        times = [round(first + rng.uniform(0, 3), 3) for _ in range(count)]
        # One iPhone and one Android phone each, so that a push is more than one chunk.
        documents = [
            {
                "to": {"tokens": apns("ok", n) + fcm("ok", n)},
                "notification": {"title": "now"},
                "ttl": 600,
                "send_at": written(times[n]),
            }
            for n in range(count)
        ]
        async with service.session.post("/v1/push/batch", json=documents) as answer:
            results = (await answer.json())["results"]
        assert {result["state"] for result in results} == {"scheduled"}
        pushes = [result["id"] for result in results]

        async def cancel(number: int, moment: float) -> None:
            await asyncio.sleep(max(0.0, moment - time.time()))
            async with service.session.delete(f"/v1/push/{pushes[number]}") as answer:
                assert answer.status in (200, 409)

        now = time.time()
        chosen = rng.sample(range(count), count // 2)
        await asyncio.gather(*(cancel(number, rng.uniform(now, times[number] + 0.1)) for number in chosen))

        sent = 0
        for number, push in enumerate(pushes):
            status: dict[str, Any] = {}

            async def ended(push: str = push) -> bool:
                nonlocal status
                status = await service.status(push)
                return not status["counts"]["queued"]

            await service.until(f"push {push} has ended", ended)
            counts = status["counts"]
            assert counts["sent"] + counts["cancelled"] == 2
            assert number in chosen or counts["sent"] == 2
            assert read(status["send_at"]) == pytest.approx(times[number], abs=0.0005)
            for row in await service.rows(push):
                assert row["outcome"] == "cancelled" or read(row["at"]) >= times[number]
            record = service.simulator.record
            by_platform = [
                record.apns.accepted_of(apns("ok", number)[0]["token"]),
                record.fcm.accepted_of(fcm("ok", number)[0]["token"]),
            ]
            assert sum(by_platform) == counts["sent"]
            sent += counts["sent"]
        assert sent >= count
        assert service.simulator.record.apns.accepted + service.simulator.record.fcm.accepted == sent
        for number in (n for n in range(count) if n not in chosen):
            (request,) = service.simulator.record.apns.requests(token=apns("ok", number)[0]["token"])
            assert request.fields["apns-expiration"] == str(int(times[number]) + 600)

    async with running_service(tmp_path, dispatchers=2) as service:
        await act(service)


def test_times_that_pass_while_nothing_runs_and_dispatchers_that_are_killed(processes: Processes, site: Site) -> None:
    with running_server("valkey") as server:
        environ = {**site.environ, "PUSHSVC__REDIS__URL": server.url, "PUSHSVC__DISPATCH__TAKEOVER": "3"}
        serve = processes.start("serve", **environ)
        site.api.until_ready()
        soon = time.time() + 1.5
        late = site.api.push(apns("ok", "late"), data={"a": "b"}, send_at=written(soon))
        over = site.api.push(apns("ok", "over"), data={"a": "b"}, send_at=written(soon), ttl=1)
        never = site.api.push(apns("ok", "never"), data={"a": "b"}, send_at=written(soon))
        status, document = site.api.call("DELETE", f"/v1/push/{never}")
        assert (status, document["state"], document["counts"]["cancelled"]) == (200, "cancelled", 1)
        until(lambda: "the times have passed", lambda: time.time() > soon + 1.2)
        assert site.api.call("GET", f"/v1/push/{late}")[1]["state"] == "scheduled"

        dispatch = processes.start("dispatch", "--processes", "2", **environ)
        assert site.api.until_done(late) == {"total": 1, "sent": 1}
        assert site.api.until_done(over) == {"total": 1, "expired": 1}
        assert site.api.counts(never) == {"total": 1, "cancelled": 1}

        # Always something in flight, so that the kill meets it.
        site.simulator.control("latency", seconds=0.1)
        start = time.time() + 2
        pushes = [
            site.api.push(apns("ok", *range(n, n + 5)), data={"a": "b"}, send_at=written(start + n / 250))
            for n in range(0, 1000, 5)
        ]
        for share in (0.25, 0.5):
            until(lambda: "a part has arrived", lambda share=share: site.simulator.record()["accepted"] > share * 1000)  # type: ignore[misc]  # bound for the loop
            before = processes.find("dispatch --processes 1")
            os.kill(before[0], signal.SIGKILL)
            until(
                lambda: "another one takes its place",
                lambda before=before: (
                    len(found := processes.find("dispatch --processes 1")) == 2  # type: ignore[misc]  # as above
                    and before[0] not in found
                ),
            )
        for push in pushes:
            assert site.api.until_done(push) == {"total": 5, "sent": 5}
        record = site.simulator.record()["apns"]
        # The killed ones had some in flight that are sent again, each under its own apns-id.
        assert record["distinct"] == record["distinct_tokens"] == 1001
        assert [command.end() for command in (serve, dispatch)] == [0, 0]
