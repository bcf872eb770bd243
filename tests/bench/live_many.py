"""Many phones on one machine: how fast all connect, and are back after they were cut at once, with pushes meanwhile.

    python -m tests.bench.live_many [--phones 2000] [--away 10000]

The whole service runs as its processes, with one gateway; the phones are simulated in this process, and speak as the
official clients do. The time of a POST is measured idle and while all phones come back. With `--away` a topic has so
many devices more, which never connect: a push to it is written to all their streams while the phones are online.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time

import msgspec

from pushsvc.lab.phones.fleet import Pace
from pushsvc.lab.playground import APP
from pushsvc.model.devices import Device
from pushsvc.runtime.parts import raise_file_limit
from pushsvc.store import open_store

from ..chaos.test_live import Scene, open_scene
from .figures import record

PUSHES = 300


async def post(scene: Scene, number: int, document: dict[str, object]) -> float:
    """Post a push; seconds until it is accepted."""
    began = time.monotonic()
    push = await scene.rig.insist(msgspec.json.encode(document), f"many-{scene.rig.loads}-{number}")
    scene.rig.ledger.pushes.append(push)
    return time.monotonic() - began


async def posts(scene: Scene, first: int, more: asyncio.Event | None = None) -> list[float]:
    """Push to one phone after the other, until `more` is set and at least `PUSHES` times; seconds of each."""
    devices = list(scene.sent)
    times: list[float] = []
    while len(times) < PUSHES or (more is not None and not more.is_set()):
        device = devices[(first + len(times)) * 7919 % len(devices)]
        document: dict[str, object] = {"to": {"devices": [device]}, "notification": {"title": "many"}}
        times.append(await post(scene, first + len(times), document))
        scene.sent[device].append(scene.rig.ledger.pushes[-1])
        scene.rig.ledger.accepted += 1
        await asyncio.sleep(0.01)
    return times


async def cut(scene: Scene) -> None:
    """Cut all phones at once, and print how they come back."""
    idle = await posts(scene, 0)
    began, back = time.monotonic(), asyncio.Event()
    for phone in scene.fleet.phones.values():
        phone.cut()
    posting = asyncio.create_task(posts(scene, PUSHES, back))
    await scene.rig.until("all phones have noticed", lambda: scene.fleet.online < len(scene.sent) / 2)
    await scene.until_online()
    record("all phones are back", "s", time.monotonic() - began)
    print(f"all are back after {time.monotonic() - began:.1f} s")
    back.set()
    posted = await posting
    for name, times in (("idle", idle), ("while they come back", posted)):
        ordered = sorted(times)
        record(f"POST to 202, {name}: p99", "ms", 1000 * ordered[int(len(ordered) * 0.99)])
        print(f"POST to 202, {name}: p50 {1000 * ordered[len(ordered) // 2]:.1f} ms, p99", end=" ")
        print(f"{1000 * ordered[int(len(ordered) * 0.99)]:.1f} ms of {len(ordered):,}")
    await scene.account("cut at once")


async def away(scene: Scene, count: int) -> None:
    """Push to a topic with many devices that are away, and to the phones meanwhile."""
    await scene.rig.begin()
    now = int(time.time() * 1000)
    async with open_store(scene.rig.store.url) as store:
        starts = iter(range(0, count, 500))

        async def register() -> None:
            for start in starts:
                names = [f"a{number}" for number in range(start, min(count, start + 500))]
                new = [
                    Device(id=name, platform="live", token=name, topics=("all",), registered_at=now, last_seen_at=now)
                    for name in names
                ]
                await store.registry.put_many(APP, new)

        await asyncio.gather(*(register() for _ in range(8)))
        before = await memory(scene)
        document: dict[str, object] = {
            "to": {"topic": "all"},
            "lane": "bulk",
            "via": "live",
            "notification": {"title": "to all"},
        }
        began = time.monotonic()
        await post(scene, 0, document)
        push = scene.rig.ledger.pushes.pop()

        async def appended() -> bool:
            status = await scene.rig.status(push)
            return status is not None and status.get("live", {}).get("waiting", 0) == count

        times = await posts(scene, 1)
        await scene.rig.until("it stands in every stream", appended, 3600.0)
        seconds = time.monotonic() - began
        print(f"a push to {count:,} devices that are away: in all streams after {seconds:.1f} s,", end=" ")
        print(f"{(await memory(scene) - before) / count:.0f} bytes of Redis a device")
        print(f"POST to 202 at its beginning: p99 {1000 * sorted(times)[int(len(times) * 0.99)]:.1f} ms")
    await scene.until_shown()
    wrong = {device: verdict for device, verdict in scene.verdicts().items() if verdict}
    print(f"phones: {scene.rig.ledger.accepted:,} pushes, {wrong or 'each shown once, in order'}")


async def memory(scene: Scene) -> int:
    """Return the bytes that Redis uses."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_unix_connection(str(scene.rig.store.socket))
        writer.write(b"INFO memory\r\n")
        size = int((await reader.readline())[1:])
        text = (await reader.readexactly(size)).decode()
        writer.close()
    return next(int(line.partition(":")[2]) for line in text.splitlines() if line.startswith("used_memory:"))


async def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phones", type=int, default=2000)
    parser.add_argument("--away", type=int, default=10_000)
    options = parser.parse_args()
    raise_file_limit()
    began = time.monotonic()
    room = {"LIVE__MAX_CONNECTIONS": str(options.phones)}  # a playground has 1,000
    async with open_scene("many", count=options.phones, pace=Pace(), **room) as scene:
        print(f"{options.phones:,} phones are online {time.monotonic() - began:.1f} s after the service was started")
        (gateway,) = scene.rig.pids("live")
        with open(f"/proc/{gateway}/status") as status:  # noqa: ASYNC230  # short, and nothing else waits
            (resident,) = [line.split()[1] for line in status if line.startswith("VmRSS")]
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"memory: the gateway {int(resident) / 1024:.0f} MB, all phones {own / 1024:.0f} MB")
        await cut(scene)
        if options.away:
            await away(scene, options.away)


if __name__ == "__main__":
    asyncio.run(main())
