"""From a dead letter to the phone: a replay whose worker is killed half-way sends each delivery once."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from .harness import Service, apns, fcm, running_service


@asynccontextmanager
async def worker(folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`pushsvc jobs` beside the service, killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pushsvc", "jobs", "--config", str(folder / "pushsvc.toml")),
        env={**os.environ, "PUSHSVC__JOBS__TAKEOVER": "1"},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_replay_killed_half_way_sends_each_once(tmp_path: Path) -> None:
    async def act(service: Service) -> None:
        async def timeline(push: str) -> dict[str, str]:
            async with service.session.get(f"/v1/admin/pushes/{push}") as answer:
                return {each["what"]: each["at"] for each in (await answer.json())["timeline"]}

        # Refused at the first attempt, taken at the second.
        small = await service.push(apns("BadPriority.1", *range(600)) + fcm("INVALID_ARGUMENT.1", *range(300)))
        large = await service.push(apns("BadPriority.1", *range(1000, 2300)))
        assert await service.done(small, large) == {"total": 2200, "failed": 2200}
        before = await timeline(small)
        assert list(before) == ["accepted", "first_end", "first_failure", "last_end", "done"]
        async with service.session.post("/v1/failed/replay", json={"rate": 800}) as answer:
            assert answer.status == 202
            job = (await answer.json())["job"]

        async def moved(least: int) -> bool:
            async with service.session.get(f"/v1/failed/replay/{job}") as answer:
                return bool((await answer.json())["moved"] >= least)

        async with worker(tmp_path) as first:
            await service.until("a part is on its way", lambda: moved(500))
            first.kill()
            await first.wait()
        assert not await moved(2200)
        for push in (small, large):
            await service.status(push)  # which sees that the counts balance
        async with worker(tmp_path):
            await service.until("all is on its way", lambda: moved(2200))
        assert await service.done(small, large) == {"total": 2200, "sent": 2200}
        async with service.session.get("/v1/failed") as answer:
            assert (await answer.json())["items"] == []
        assert (service.simulator.record.apns.accepted, service.simulator.record.fcm.accepted) == (1900, 300)
        assert service.simulator.record.apns.duplicates == service.simulator.record.fcm.duplicates == 0
        assert service.simulator.record.apns.total == 2 * 1900
        # Its rows are those of the replay now, its past is not.
        after = await timeline(small)
        assert list(after) == ["accepted", "first_end", "first_failure", "replayed", "last_end", "done"]
        assert [after[what] for what in ("first_end", "first_failure")] == [before["first_failure"]] * 2
        assert before["last_end"] < after["replayed"]
        assert list(await timeline(large)) == ["accepted", "first_failure", "replayed", "done"]

    async with running_service(tmp_path) as service:
        await act(service)
