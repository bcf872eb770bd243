"""The prune table on real sockets: what the providers say, and what becomes of the devices, their tokens and the route.

Devices are put into the registry of the running store, and a push is addressed to them as an expansion would.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from pushsvc import cli
from pushsvc.api.pushes.ids import new_push_id, now_ms
from pushsvc.lab.simulator import apns_token, fcm_token
from pushsvc.model.devices import ByTopic, Device
from pushsvc.model.push import Content, Notification, Push, Target
from pushsvc.ports.registry import Prune
from pushsvc.ports.store import Store
from pushsvc.providers import REGISTRY
from pushsvc.runtime.store import open_running_store

from .harness import Service, apns, fcm, running_service

HOUR = 3_600_000


class Loop:
    """A running service with its store at hand."""

    def __init__(self, service: Service, store: Store) -> None:
        self.service = service
        self.store = store

    async def register(self, *devices: Device) -> None:
        for start in range(0, len(devices), 500):
            await self.store.registry.put_many("shop", devices[start : start + 500])

    async def send(self, devices: Sequence[Device], **content: Any) -> str:
        """A push to these devices; its id."""
        reported = Content(notification=Notification(title="hello"), **content)
        now = now_ms()
        push_id = new_push_id(now)
        targets: dict[str, tuple[Target, ...]] = {}
        for index, device in enumerate(devices):
            own = Target(index, device.token, device.id, device.kind)
            targets[device.platform] = (*targets.get(device.platform, ()), own)
        messages = {name: REGISTRY[name].renderer.render(reported, push_id=push_id, starts_at=now) for name in targets}
        await self.store.pushes.accept(Push(push_id, "shop", "normal", now, now + HOUR, messages, targets))
        return push_id

    async def events(self, count: int) -> list[dict[str, Any]]:
        """Return all events, once there is this number of them."""
        found: list[dict[str, Any]] = []

        async def there() -> bool:
            after = found[-1]["id"] if found else ""
            params = {"limit": "1000"} | ({"after": after} if after else {})
            async with self.service.session.get("/v1/feedback", params=params) as answer:
                found.extend((await answer.json())["items"])
            return len(found) >= count

        await self.service.until(f"{count} events are reported", there)
        assert len(found) == count
        return found

    async def actions(self, count: int) -> Counter[str]:
        """Return what the events contain, once there is this number of them."""
        return Counter(event["action"] for event in await self.events(count))

    async def device(self, device_id: str) -> Device:
        found = await self.store.registry.get("shop", device_id)
        assert found is not None
        return found

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        async with self.service.session.get("/metrics") as answer:
            text = await answer.text()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in wanted))

    async def readyz(self) -> dict[str, Any]:
        async with self.service.session.get("/readyz") as answer:
            assert answer.status == 200
            document: dict[str, Any] = await answer.json()
        return document

    async def until_frozen(self, platform: str, wanted: bool) -> None:
        """Wait until the alarm says so, and see that everybody else says the same."""

        async def so() -> bool:
            return await self.metric("pushsvc_pruning_frozen", app="shop", platform=platform) == float(wanted)

        await self.service.until(f"pushsvc_pruning_frozen of {platform} is {wanted}", so)
        assert (f"shop/{platform}" in (await self.readyz()).get("frozen", {})) == wanted


@asynccontextmanager
async def running_loop(folder: Path, **flags: Any) -> AsyncIterator[Loop]:
    async with running_service(folder, **flags) as service, open_running_store(service.settings) as store:
        yield Loop(service, store)


@pytest.fixture
async def loop(tmp_path: Path) -> AsyncIterator[Loop]:
    async with running_loop(tmp_path) as loop:
        yield loop


def iphone(name: str, scenario: str = "ok", **fields: Any) -> Device:
    known = {"registered_at": now_ms() - 48 * HOUR, "last_seen_at": now_ms()}
    return Device(id=name, platform="apns", token=apns_token(scenario, name), **{**known, **fields})


def android(name: str, scenario: str = "ok", **fields: Any) -> Device:
    return replace(iphone(name, **fields), platform="fcm", token=fcm_token(scenario, name))


# --- one token ------------------------------------------------------------------------------------


async def test_a_410_prunes_who_registered_before_it_and_nobody_else(loop: Loop) -> None:
    now = now_ms()
    devices = [
        iphone("older", f"Unregistered,since-{now - HOUR}", registered_at=now - 2 * HOUR),
        iphone("newer", f"Unregistered,since-{now - 2 * HOUR}", registered_at=now - HOUR),
        android("gone", "UNREGISTERED"),
        iphone("good"),
    ]
    await loop.register(*devices)
    assert await loop.service.done(await loop.send(devices)) == {"total": 4, "invalid": 3, "sent": 1}
    events = {event["device_id"]: event["action"] for event in await loop.events(3)}
    assert events == {"older": "pruned", "newer": "kept", "gone": "pruned"}
    states = {each.id: (await loop.device(each.id)).state for each in devices}
    assert states == {"older": "pruned", "newer": "active", "gone": "pruned", "good": "active"}
    assert (await loop.device("older")).pruned_for == "Unregistered"
    # A caller that posts raw tokens gets the same answer.
    raw = [{"platform": each.platform, "token": each.token} for each in devices]
    counts = await loop.service.done(await loop.service.push(raw))
    assert counts == {"total": 4, "suppressed": 2, "invalid": 1, "sent": 1}
    assert await loop.actions(4) == {"pruned": 2, "kept": 2}
    # Registered again, the phone is sent to again.
    await loop.store.registry.put("shop", replace(devices[0], registered_at=now_ms()))
    assert await loop.service.done(await loop.send(devices[:1])) == {"total": 1, "invalid": 1}


async def test_a_bad_device_token_alone_is_a_strike_and_no_more(loop: Loop) -> None:
    device = iphone("phone", "BadDeviceToken")
    await loop.register(device)
    await loop.service.done(await loop.service.push(apns("ok", *range(20))))
    pushes = []
    for times in (1, 2):
        pushes.append(await loop.send([device]))
        assert await loop.service.done(pushes[-1]) == {"total": 1, "failed": 1}
        assert await loop.actions(times) == {"suspected": times}
    struck = await loop.device("phone")
    evidence = {"struck_for": "BadDeviceToken", "judged_by": pushes[0]}
    assert struck == replace(device, strikes=1, struck_at=struck.struck_at, **evidence)
    # The third strike, a day after the first: now the device goes.
    await loop.register(replace(device, strikes=2, struck_at=now_ms() - 13 * HOUR))
    await loop.service.done(await loop.send([device]))
    assert await loop.actions(3) == {"suspected": 2, "pruned": 1}
    pruned = await loop.device("phone")
    assert pruned.pruned_for == "BadDeviceToken"
    assert pruned.judged_by not in ("", pushes[0])


async def test_a_token_that_moved_to_another_user_meanwhile_is_left_alone(loop: Loop) -> None:
    old = android("old", "slow-700.1,UNREGISTERED.1", user="u1")
    await loop.register(old)
    push = await loop.send([old])
    token = {"platform": "fcm", "token": old.token}
    record = loop.service.simulator.record.fcm
    await loop.service.until("FCM has the push", lambda: record.requests_of(old.token))
    new = replace(old, id="new", user="u2", registered_at=now_ms())
    await loop.store.registry.put("shop", new)
    assert await loop.service.done(push) == {"total": 1, "invalid": 1}
    (event,) = await loop.events(1)
    assert (event["device_id"], event["token"], event["action"]) == ("old", old.token, "kept")
    assert await loop.device("new") == new
    assert await loop.service.done(await loop.service.push([token])) == {"total": 1, "sent": 1}


# --- a whole audience -------------------------------------------------------------------------------


async def test_a_sandbox_key_on_production_freezes_the_route_and_prunes_nobody(
    capsys: pytest.CaptureFixture[str], loop: Loop
) -> None:
    # Each has two strikes, long enough ago: one more would prune it.
    struck = {"strikes": 2, "struck_at": now_ms() - 13 * HOUR}
    devices = [iphone(f"d{number}", "BadDeviceToken.1", **struck) for number in range(1000)]
    await loop.register(*devices)
    before = await loop.metric("pushsvc_pruned_total", reason="BadDeviceToken")
    push = await loop.send(devices)
    assert await loop.service.done(push) == {"total": 1000, "failed": 1000}
    # The very first may be judged before there are enough to freeze the route: suspicion, and no strike.
    assert (await loop.actions(1000)).keys() <= {"kept", "suspected"}
    assert [await loop.device(device.id) for device in devices] == devices
    await loop.until_frozen("apns", True)
    assert await loop.metric("pushsvc_pruning_frozen", platform="fcm") == 0
    assert await loop.metric("pushsvc_pruned_total", reason="BadDeviceToken") == before
    why = (await loop.readyz())["frozen"]["shop/apns"]
    assert "were `suspect`, so nothing is pruned" in why
    assert "feedback.prune_anyway" in why
    words = ["--config", str(loop.service.settings.file), "stats", "--every", "0.2"]
    words += ["--url", str(loop.service.session._base_url)]
    capsys.readouterr()
    assert await asyncio.to_thread(cli.main, words) == 0
    assert "frozen    shop/apns: " in (printed := capsys.readouterr().out)
    assert "were `suspect`, so nothing is pruned" in printed
    # While it is frozen, a dead token is kept as well, and FCM's are pruned as ever.
    mixed = [iphone("dead", "Unregistered"), android("dead-android", "UNREGISTERED")]
    await loop.register(*mixed)
    await loop.service.done(await loop.send(mixed))
    assert (await loop.actions(1002))["pruned"] == 1
    assert (await loop.device("dead")).state == "active"
    # The key is corrected: all of them are good, and the freeze ends by itself.
    assert await loop.service.done(await loop.send(devices)) == {"total": 1000, "sent": 1000}
    assert (await loop.readyz()).get("frozen"), "a thousand good answers are not enough"
    await loop.service.done(await loop.service.push(apns("ok", *range(4000))))
    await loop.until_frozen("apns", False)
    await loop.service.done(await loop.send(mixed[:1]))
    assert (await loop.actions(1003))["pruned"] == 2
    assert (await loop.device("dead")).state == "pruned"


async def test_an_operator_can_have_the_dead_pruned_anyway(loop: Loop) -> None:
    devices = [iphone(f"d{number}", "Unregistered") for number in range(300)]
    await loop.register(*devices)
    await loop.service.done(await loop.send(devices))
    await loop.until_frozen("apns", True)
    kept = (await loop.actions(300))["kept"]
    assert kept == await loop.store.registry.count("shop") > 0
    file = loop.service.settings.file
    assert file is not None
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    file.write_text(file.read_text() + f'\n[feedback]\nprune_anyway = {{ "shop/apns" = {until} }}\n')
    await loop.until_frozen("apns", False)
    left = [device for device in devices if (await loop.device(device.id)).state == "active"]
    assert len(left) == kept

    async def all_pruned() -> bool:
        # Feedback may read the file a moment later than the API.
        await loop.service.done(await loop.send(left))
        return await loop.store.registry.count("shop") == 0

    await loop.service.until("the file is read", all_pruned)


async def test_an_operator_releases_a_route_and_ends_that(loop: Loop) -> None:
    async def ask(act: str, **more: Any) -> bool:
        """Return whether the route is frozen after it."""
        body = {"route": "shop/apns", **more}
        async with loop.service.session.post(f"/v1/admin/feedback/{act}", json=body) as answer:
            assert answer.status == 200
            return bool((await answer.json())["routes"][0]["frozen"])

    devices = [iphone(f"d{number}", "Unregistered") for number in range(300)]
    await loop.register(*devices)
    await loop.service.done(await loop.send(devices))
    await loop.until_frozen("apns", True)
    left = [device for device in devices if (await loop.device(device.id)).state == "active"]
    assert left
    assert await ask("release", **{"for": 3600}) is False

    async def all_pruned() -> bool:
        await loop.service.done(await loop.send(left))
        return await loop.store.registry.count("shop") == 0

    await loop.service.until("they are pruned", all_pruned)
    assert await ask("keep") is True
    await loop.until_frozen("apns", True)
    late = iphone("late", "Unregistered")
    await loop.register(late)
    await loop.service.done(await loop.send([late]))
    judged: list[str] = []

    async def is_judged() -> bool:
        page = await loop.store.receipts.events("shop", after="", limit=5000)
        judged[:] = [event.action for _, event in page.events if event.device_id == "late"]
        return bool(judged)

    await loop.service.until("it is judged", is_judged)
    assert judged == ["kept"]
    assert (await loop.device("late")).state == "active"


async def test_a_bad_payload_to_everybody_prunes_nobody(loop: Loop) -> None:
    devices = [android(f"d{number}") for number in range(1000)]
    await loop.register(*devices)
    wrong = {"fcm": b'{"android": {"ttl": "99999999s"}}'}
    push = await loop.send(devices, overrides=wrong)
    assert await loop.service.done(push) == {"total": 1000, "failed": 1000}
    rows = await loop.service.rows(push)
    assert {row["reason"] for row in rows} == {"INVALID_ARGUMENT"}
    # A payload error leaves no receipt at all, so there is nothing to wait for.
    assert await loop.service.done(await loop.send(devices)) == {"total": 1000, "sent": 1000}
    gauges = (await loop.store.gauges({"shop": ("fcm",)})).apps["shop"]
    assert (gauges.receipts, gauges.events, gauges.suppressed) == (0, 0, {"fcm": 0})
    assert await loop.store.registry.count("shop") == 1000
    assert "frozen" not in await loop.readyz()


async def test_swapped_credential_files_prune_nobody(tmp_path: Path) -> None:
    async with running_loop(tmp_path, more_projects=("another-project",)) as loop:
        struck = {"strikes": 2, "struck_at": now_ms() - 13 * HOUR}
        devices = [android(f"d{number}", "sender-0", **struck) for number in range(1000)]
        await loop.register(*devices)
        # Somebody puts the account of another project into the place of ours.
        account = Path(loop.service.settings.apps["shop"].providers["fcm"].service_account_file)  # type: ignore[attr-defined]  # FCM's own struct
        right = account.read_text()

        probe = fcm("sender-0", "raw")

        async def until_read(text: str, **counts: int) -> None:
            account.write_text(text)

            async def read() -> bool:
                return await loop.service.done(await loop.service.push(probe)) == {"total": 1, **counts}

            await loop.service.until("the file is read", read)

        await until_read(json.dumps({**json.loads(right), "project_id": "another-project"}), failed=1)
        assert await loop.service.done(await loop.send(devices)) == {"total": 1000, "failed": 1000}
        reported = await loop.events(1001)
        assert {event["reason"] for event in reported} == {"SENDER_ID_MISMATCH"}
        assert {event["action"] for event in reported} <= {"kept", "suspected"}
        await loop.until_frozen("fcm", True)
        await until_read(right, sent=1)
        assert await loop.service.done(await loop.send(devices)) == {"total": 1000, "sent": 1000}
        assert [await loop.device(device.id) for device in devices] == devices


# --- the way back -----------------------------------------------------------------------------------


async def test_ten_thousand_pruned_devices_are_restored(capsys: pytest.CaptureFixture[str], loop: Loop) -> None:
    registry = loop.store.registry
    devices = [
        iphone(f"d{number}", user=f"u{number // 2}", tags={"plan": "pro"}, topics=("news", f"t{number % 7}"))
        for number in range(10_000)
    ]
    await loop.register(*devices)
    now = now_ms()
    for start in range(0, 10_000, 500):
        page = devices[start : start + 500]
        await registry.prune(
            "shop", [Prune(each.id, each.token, each.registered_at, "Unregistered", now) for each in page]
        )
        await loop.store.suppressions.add("shop", [(each.platform, each.token, now) for each in page])
    assert (await registry.count("shop"), await registry.topic_size("shop", "news")) == (0, 0)
    raw = [{"platform": "apns", "token": each.token} for each in devices]
    assert await loop.service.done(await loop.service.push(raw)) == {"total": 10_000, "suppressed": 10_000}

    async def restore(**document: Any) -> dict[str, int]:
        async with loop.service.session.post("/v1/devices/restore", json=document) as answer:
            assert answer.status == 200
            body: dict[str, int] = await answer.json()
        return body

    assert await restore(dry_run=True) == {"restored": 0, "left": 10_000}
    assert await restore(platform="fcm") == {"restored": 0, "left": 0}
    began = time.perf_counter()
    assert await restore(platform="apns", reason="Unregistered") == {"restored": 10_000, "left": 0}
    print(f"10,000 devices restored in {time.perf_counter() - began:.2f} s")
    found: list[Device] = []
    after: str | None = ""
    while after is not None:
        members = await registry.members("shop", ByTopic("news"), after=after, limit=1000)
        found += members.devices
        after = members.cursor
    assert sorted(found, key=lambda each: each.id) == sorted(devices, key=lambda each: each.id)
    assert [await registry.topic_size("shop", f"t{number}") for number in range(7)] == [
        len(devices[number::7]) for number in range(7)
    ]
    assert await registry.of_user("shop", "u7") == devices[14:16]
    assert await loop.service.done(await loop.service.push(raw)) == {"total": 10_000, "sent": 10_000}
