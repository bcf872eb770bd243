"""A user is erased while the service works: pushes sent, failed, retried, held by a dispatcher. Nothing is left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pushsvc import cli
from pushsvc.lab.simulator import apns_token, fcm_token
from pushsvc.model.delivery import Retry
from pushsvc.model.devices import Device
from pushsvc.model.push import LANES
from pushsvc.ports.entries import EntryRef
from pushsvc.runtime.store import open_configured_store
from pushsvc.store import Store, StoreConfig, keys, open_store

from .harness import Service, running_service
from .servers import KINDS, Server, running_server
from .test_erasure import nothing_left, to
from .test_jobs import CONFIG as FILE, until, worker
from .test_store_kit import all_of, moment, take


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running_server(request.param) as found:
        yield found


FATES = {
    "ok": ("apns", "ok"),
    "failing": ("apns", "BadPriority"),
    "dead": ("apns", "Unregistered"),
    "suspect": ("apns", "BadDeviceToken"),
    "busy": ("fcm", "UNAVAILABLE,retry-after-600"),
}


def phones(user: str) -> list[Device]:
    """A device for each fate; its token brings it about."""
    found = []
    for fate, (platform, scenario) in FATES.items():
        make = apns_token if platform == "apns" else fcm_token
        found.append(Device(id=f"{user}-{fate}", platform=platform, token=make(scenario, f"{user}{fate}"), user=user))
    return found


def targets(*devices: Device) -> list[dict[str, str]]:
    return [{"platform": each.platform, "token": each.token} for each in devices]


async def register(service: Service, *devices: Device) -> None:
    for each in devices:
        body = {"platform": each.platform, "token": each.token, "user": each.user}
        async with service.session.put(f"/v1/devices/{each.id}", json=body) as answer:
            assert answer.status == 201
        async with service.session.put(f"/v1/topics/news/devices/{each.id}") as answer:
            assert answer.status == 204


async def erase(service: Service, user: str) -> dict[str, Any]:
    async with service.session.delete(f"/v1/users/{user}") as answer:
        assert answer.status == 200
        reported: dict[str, Any] = await answer.json()
    return reported


def in_a_month() -> str:
    return (datetime.now(UTC) + timedelta(days=30)).isoformat()


async def waiting(service: Service, *pushes: str) -> int:
    statuses = [await service.status(push) for push in pushes]
    return sum(each["counts"]["queued"] + each["counts"]["retrying"] for each in statuses)


async def test_everything_of_a_user_goes_while_the_service_works(tmp_path: Path, server: Server) -> None:
    extra = f'[redis]\nurl = "{server.url}"\n'
    async with running_service(tmp_path, dispatchers=2, extra=extra) as service:
        anna, bert = phones("anna-1964"), phones("bert-1965")
        await register(service, *anna, *bert)
        ended = await service.push(targets(*anna, *bert))

        once = {"to": {"tokens": targets(anna[0])}, "data": {"hello": "once"}}
        async with service.session.post("/v1/push", json=once, headers={"Idempotency-Key": "key-1"}) as answer:
            assert answer.status == 202

        async def only_the_busy_wait() -> bool:
            return await waiting(service, ended) == 2

        await service.until("all but the busy ones have ended", only_the_busy_wait)
        service.simulator.break_credentials("apns")
        hello, hers_and_his = {"title": "hello"}, targets(anna[0], bert[0])
        held = [
            await service.push(hers_and_his, lane=lane, notification=hello) for lane in ("urgent", "normal", "bulk")
        ]
        later = await service.push(hers_and_his, notification=hello, send_at=in_a_month())

        async def in_hand() -> bool:
            return bool(await held_by_dispatchers(service) >= 2)

        await service.until("dispatchers hold some of them", in_hand)
        reported = await erase(service, "anna-1964")
        assert (reported["erased"], reported["done"]) == (5, True)
        assert reported["removed"]["deliveries"] >= 3
        assert reported["removed"]["statuses"] >= 4
        assert reported["removed"]["dead_letters"] >= 2
        assert reported["removed"]["events"] + reported["removed"]["receipts"] == 2
        async with open_configured_store(service.settings) as store:
            assert isinstance(store, Store)
            await nothing_left(store, anna)
        assert await erase(service, "anna-1964") == reported

        sent_before = service.simulator.record.apns.requests_of(anna[0].token)
        service.simulator.restore_credentials("apns")
        counts = await service.done(*held)
        assert counts["total"] == 6
        assert counts["sent"] == 3
        assert counts["cancelled"] + counts["suppressed"] == 3
        assert service.simulator.record.apns.requests_of(anna[0].token) == sent_before
        assert (await service.status(ended))["counts"]["retrying"] == 1
        assert (await service.status(later))["counts"]["cancelled"] == 1
        async with open_configured_store(service.settings) as store:
            assert isinstance(store, Store)
            await nothing_left(store, anna)
        async with service.session.get("/v1/users/bert-1965/devices") as answer:
            assert len((await answer.json())["items"]) == 5


async def held_by_dispatchers(service: Service) -> int:
    async with open_configured_store(service.settings) as store:
        assert isinstance(store, Store)
        lanes = [keys.lane("shop", 0, "apns", lane) for lane in LANES]
        return sum([(await store.link.call("XPENDING", lane, keys.DISPATCH))["pending"] for lane in lanes])


async def test_the_command_begins_and_jobs_end_what_takes_longer(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry is in a dispatcher's hands, so that the command cannot end it; a worker does when it is given back."""
    config = tmp_path / "pushsvc.toml"
    config.write_text(FILE.format(url=server.url, folder=tmp_path))

    async def shell(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(cli.main, ["--config", str(config), "users", *words])
        return code, *capsys.readouterr()

    async def asked_to_give_back(store: Store, ref: EntryRef) -> bool:
        await store.queue.enrol("shop")
        return any(ref in news.revoked.entries for news in await store.queue.revoked({"shop"}, 1))

    async def over(store: Store) -> bool:
        return not await store.link.call("EXISTS", keys.erase("shop"))

    hers = [Device(id="anna-phone", platform="apns", token="a0" * 32, user="anna-1964")]
    async with open_store(server.url, StoreConfig(consumer="dispatcher", alive_ttl=60.0)) as dispatcher:
        await dispatcher.registry.put_many("shop", hers)
        await dispatcher.pushes.accept(to("held", *hers))
        (taken,) = await take(dispatcher)
        code, out, err = await shell("erase", "anna-1964", "--app", "shop", "--wait", "0.5", "--json")
        assert code == 1
        assert json.loads(out) | {"removed": {}} == {
            "app": "shop",
            "user": "anna-1964",
            "erased": 1,
            "done": False,
            "removed": {},
        }
        assert "the erasure is not complete yet" in err
        with worker(server, tmp_path):
            await until(lambda: asked_to_give_back(dispatcher, taken.ref))
            await dispatcher.queue.settle("shop", *all_of(taken, Retry(moment(), 1), None))
            await until(lambda: over(dispatcher))
        await nothing_left(dispatcher, hers)
        code, out, _ = await shell("erase", "anna-1964", "--app", "shop")
        assert (code, out) == (0, "erased\trecords\ndevices\t1\ndeliveries\t1\n")
        assert (await shell("erase", "nobody", "--app", "shop"))[0] == 0
        assert (await shell("erase", "a b", "--app", "shop"))[0] == 1
        assert (await shell("erase", "anna-1964", "--app", "shoop"))[0] == 1
