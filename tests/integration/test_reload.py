"""Apps, keys and credentials change under a running service, and nothing is lost."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import structs
from structlog.testing import capture_logs

from pushsvc.runtime import reload
from pushsvc.runtime.configuration import load_settings
from pushsvc.runtime.parts import run_parts
from pushsvc.runtime.plans import live_config
from pushsvc.runtime.reload import _fixed
from pushsvc.settings.live import AppLive
from pushsvc.settings.schema import AppSettings, Settings
from pushsvc.telemetry import configure_logging, get_logger, set_level

from ..unit.test_systemd import Heard
from .harness import KEY, Service, apns, fcm, running_service
from .ports import free_ports
from .processes import Api, Processes, Site, until
from .servers import ask

OTHER = "test-key-of-the-other"
HELLO = {"notification": {"title": "hello"}}


def soon(seconds: float) -> str:
    """An instant for `send_at`."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


@asynccontextmanager
async def reloading(folder: Path) -> AsyncIterator[tuple[Service, Path]]:
    async with running_service(folder) as service:
        assert service.settings.file is not None
        yield service, service.settings.file


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running_service(tmp_path) as service:
        yield service


@pytest.fixture
def file(service: Service) -> Path:
    assert service.settings.file is not None
    return service.settings.file


async def post(service: Service, key: str, tokens: list[dict[str, str]]) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    document = {"to": {"tokens": tokens}, "notification": {"title": "hello"}}
    async with service.session.post("/v1/push", json=document, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


async def sent(service: Service, key: str, push: str) -> int:
    async with service.session.get(f"/v1/push/{push}", headers={"Authorization": f"Bearer {key}"}) as answer:
        return int((await answer.json())["counts"]["sent"])


def with_other_app(text: str) -> str:
    """The configuration with a second app that has the same accounts."""
    section = text[text.index("[apps.shop]") :].replace("apps.shop", "apps.other")
    return (
        text
        + "\n"
        + section.replace(hashlib.sha256(KEY.encode()).hexdigest(), hashlib.sha256(OTHER.encode()).hexdigest())
    )


async def test_an_app_comes_sends_prunes_and_goes(service: Service, file: Path) -> None:
    before = file.read_text()
    assert (await post(service, OTHER, apns("ok", 1)))[0] == 401
    file.write_text(with_other_app(before))
    found: list[str] = []

    async def accepted() -> bool:
        status, body = await post(service, OTHER, apns("ok", 1) + fcm("UNREGISTERED", 1))
        found.extend([body["id"]] if status == 202 else [])
        return status == 202

    await service.until("the new app is known", accepted)

    async def arrived() -> bool:
        return await sent(service, OTHER, found[0]) == 1

    await service.until("the new app's push is sent", arrived)

    async def reported() -> bool:
        async with service.session.get("/v1/feedback", headers={"Authorization": f"Bearer {OTHER}"}) as answer:
            return bool((await answer.json())["items"])

    await service.until("the new app's feedback is read", reported)

    file.write_text(before)

    async def gone() -> bool:
        return (await post(service, OTHER, apns("ok", 2)))[0] == 401

    await service.until("the app is gone", gone)
    assert await service.done(await service.push(apns("ok", 3))) == {"total": 1, "sent": 1}


async def test_what_was_read_for_an_app_that_goes_is_sent_when_it_comes_back(service: Service, file: Path) -> None:
    before = file.read_text()
    file.write_text(with_other_app(before))
    service.simulator.break_credentials("apns")
    found: list[str] = []

    async def accepted() -> bool:
        status, body = await post(service, OTHER, apns("ok", *range(300)))
        found.extend([body["id"]] if status == 202 else [])
        return status == 202

    await service.until("the new app is known", accepted)

    def held() -> bool:
        return "401" in str(service.simulator.record.apns.totals) or "403" in str(service.simulator.record.apns.totals)

    await service.until("its route has met the refusal", held)
    file.write_text(before)

    async def gone() -> bool:
        return (await post(service, OTHER, apns("ok", 2)))[0] == 401

    await service.until("the app is gone", gone)
    service.simulator.restore_credentials("apns")
    file.write_text(with_other_app(before))

    async def arrived() -> bool:
        async with service.session.get(f"/v1/push/{found[0]}", headers={"Authorization": f"Bearer {OTHER}"}) as answer:
            return answer.status == 200 and (await answer.json())["counts"]["sent"] == 300

    await service.until("what waited is sent", arrived)
    assert service.simulator.record.apns.duplicates == 0


def without(text: str, section: str) -> str:
    """The configuration without one section, and what follows it."""
    return text[: text.index(section)]


async def about(service: Service) -> tuple[Any, list[str]]:
    """What `/readyz` and `/metrics` say."""
    async with service.session.get("/readyz") as ready, service.session.get("/metrics") as metrics:
        return await ready.json(), (await metrics.text()).splitlines()


async def test_what_waits_for_a_removed_account_is_named_and_expires_or_is_sent_when_it_is_back(
    capsys: pytest.CaptureFixture[str], service: Service, file: Path
) -> None:
    text = file.read_text()
    service.simulator.control("unavailable", platform="fcm")
    retried = await service.push(fcm("ok", 1, 2), ttl=2, **HELLO)
    later = await service.push(fcm("ok", 3), ttl=1, send_at=soon(1.5), **HELLO)
    kept = await service.push(fcm("ok", 4, 5, 6), **HELLO)
    cancelled = await service.push(fcm("ok", 7), **HELLO)

    async def is_retried() -> bool:
        return bool((await service.status(retried))["counts"]["retrying"])

    await service.until("some wait for their retry", is_retried)
    file.write_text(without(text, "[apps.shop.fcm]"))

    async def named(waiting: str = "") -> bool:
        held = str((await about(service))[0].get("held", {}).get("shop/fcm"))
        return held.startswith("removed: the app has no account `fcm` any more") and waiting in held

    await service.until("it is held", named)
    answered = service.simulator.record.fcm.totals.copy()
    service.simulator.control("unavailable", on=False, platform="fcm")
    async with service.session.delete(f"/v1/push/{cancelled}") as answer:
        assert (await answer.json())["counts"]["cancelled"] == 1
    assert await service.done(retried, later) == {"total": 3, "expired": 3}
    await service.until("what is left is counted", lambda: named("3 deliveries wait: add [apps.shop.fcm] again"))
    assert (await service.status(kept))["held"] == (await about(service))[0]["held"]
    assert service.simulator.record.fcm.totals == answered

    async def counted() -> bool:
        wanted = {
            'pushsvc_route_held{app="shop",platform="fcm",reason="removed"} 1.0',
            'pushsvc_queue_pending{lane="normal"} 3.0',
        }
        return wanted <= set((await about(service))[1])

    await service.until("the metrics have it", counted)
    assert await service.done(await service.push(apns("ok", 1), **HELLO)) == {"total": 1, "sent": 1}
    file.write_text(text)
    assert await service.done(kept) == {"total": 3, "sent": 3}
    assert service.simulator.record.fcm.duplicates == 0

    async def nothing_held() -> bool:
        return "held" not in (await about(service))[0]

    await service.until("nothing is held", nothing_held)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "route_removed" in line]
    assert "warning" in line
    assert "deliveries wait: add [apps.shop.fcm]" in line


async def test_a_start_without_an_app_holds_what_waits_for_it_until_it_expires_or_the_app_is_back(
    tmp_path: Path,
) -> None:
    async with running_service(tmp_path, dispatchers=0) as service:
        file = service.settings.file
        assert file is not None
        text = file.read_text()
        file.write_text(with_other_app(text))

        async def post_for_it(to: list[dict[str, str]], **fields: Any) -> bool:
            document = {"to": {"tokens": to}, **HELLO, **fields}
            headers = {"Authorization": f"Bearer {OTHER}"}
            async with service.session.post("/v1/push", json=document, headers=headers) as answer:
                return answer.status == 202

        await service.until("the other app is known", lambda: post_for_it(apns("ok", 1, 2)))
        assert await post_for_it(fcm("ok", 1), send_at=soon(1.5), ttl=1)
        file.write_text(text)

        async def named(where: str, begin: str) -> bool:
            return str((await about(service))[0].get(where, {}).get("other/apns")).startswith(begin)

        gone = "the configuration has no app `other` any more, 2 deliveries wait"
        await service.until("nobody serves it", lambda: named("unserved", f"{gone}, and of the app 1 push"))
        stop = asyncio.Event()
        settings = load_settings(file, {})
        part = asyncio.create_task(run_parts(["dispatch"], settings, stop, listening=lambda _: None))

        async def expired() -> bool:
            labels = 'app="other",outcome="expired",platform="fcm",reason="ttl"'
            return f"pushsvc_deliveries_total{{{labels}}} 1.0" in (await about(service))[1]

        await service.until("what was scheduled has expired", expired)
        await service.until("the rest is held", lambda: named("held", f"removed: {gone}: add [apps.other] and"))
        assert service.simulator.record.apns.accepted == service.simulator.record.fcm.accepted == 0

        async def let_go() -> bool:
            return "other/fcm" not in (await about(service))[0]["held"]

        await service.until("a route with nothing left is let go", let_go)
        file.write_text(with_other_app(text))
        await service.until("the app is back", lambda: service.simulator.record.apns.accepted == 2)
        stop.set()
        await part


async def test_a_corrected_key_file_opens_a_held_route_and_loses_nothing(service: Service, file: Path) -> None:
    config: Any = service.settings.apps["shop"].providers["apns"]
    key_file = Path(config.key_file)
    good = key_file.read_text()
    push = await service.push(apns("ok", *range(1000)))
    # A key that Apple does not know: well-formed, and refused.
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    stranger = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key_file.write_bytes(stranger)

    async def held() -> bool:
        await service.push(apns("ok", os.urandom(8).hex()))
        async with service.session.get("/readyz") as answer:
            return "shop/apns" in (await answer.json()).get("held", {})

    await service.until("the strange key is refused and the route held", held)
    waiting = await service.push(apns("ok", *range(2000, 3000)))
    key_file.write_text(good)
    assert await service.done(push, waiting) == {"total": 2000, "sent": 2000}
    assert service.simulator.record.apns.duplicates == 0


async def test_a_bad_configuration_is_refused_and_the_old_one_goes_on(
    capsys: pytest.CaptureFixture[str], service: Service, file: Path
) -> None:
    good = file.read_text()
    file.write_text(good + "\n[apps.shop.nonsense]\n")
    log = ""

    def refused() -> bool:
        nonlocal log
        log += capsys.readouterr().err
        return "reload_refused" in log

    await service.until("it is refused", refused)
    assert "apps.shop.nonsense" in log

    async def reported() -> bool:
        return "notes" in (await about(service))[0]

    await service.until("a process has reported it", reported)
    ready, metrics = await about(service)
    assert len(ready["notes"]) == 1
    assert "the change on disk was refused" in ready["notes"][0]
    assert ready["notes"][0].count("apps.shop.nonsense: ") == 1, "all parts refuse it, and it is said once"
    assert "pushsvc_config_last_reload_successful 0.0" in metrics
    async with service.session.get("/v1/admin/check") as answer:
        checked = await answer.json()
    faults = {each["part"]: each for each in checked["findings"] if each["level"] == "error"}
    assert not checked["ok"]
    assert faults.keys() == {"configuration", "apps.shop.nonsense"}
    assert await service.done(await service.push(apns("ok", 1))) == {"total": 1, "sent": 1}
    file.write_text(good.replace(hashlib.sha256(KEY.encode()).hexdigest(), "ab" * 32))

    async def locked_out() -> bool:
        return (await post(service, KEY, apns("ok", 2)))[0] == 401

    await service.until("a corrected configuration is taken, with its other key", locked_out)

    async def noted() -> bool:
        ready, metrics = await about(service)
        return "notes" not in ready and "pushsvc_config_last_reload_successful 1.0" in metrics

    await service.until("nothing is to be looked at any more", noted)
    refused()
    logged = [line for line in log.splitlines() if "reload_refused" in line and "apps.shop.nonsense" in line]
    assert len(logged) == 1, "all parts of the process have refused it"
    corrected = file.read_text()
    file.write_text(corrected.replace("[apps.shop]", "[cleanup]\nshare = 0.5\n[apps.shop]", 1))

    async def asks_for_a_restart() -> bool:
        ready, _ = await about(service)
        return any("[cleanup] changed on disk: restart to apply it" in note for note in ready.get("notes", []))

    await service.until("what only a restart applies is named", asks_for_a_restart)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
async def test_hang_up_reads_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushsvc.runtime.reload.versions.__kwdefaults__", {"every": 3600.0})
    async with reloading(tmp_path) as (service, file):
        file.write_text(with_other_app(file.read_text()))
        os.kill(os.getpid(), signal.SIGHUP)

        async def accepted() -> bool:
            return (await post(service, OTHER, apns("ok", 1)))[0] == 202

        await service.until("the new app is known", accepted)


async def test_accounts_change_under_load_and_each_push_is_sent_once(service: Service, file: Path) -> None:
    pushes: list[str] = []
    text = file.read_text()
    traffic = service.simulator.record.apns.traffic
    for window in (100, 300, 200):
        calls = [apns("ok", *(f"{window}-{call}-{n}" for n in range(1000))) for call in range(4)]
        pushes += [await service.push(call) for call in calls]
        opened = traffic.connections
        file.write_text(text.replace("connections = 2", f"connections = 2\nwindow = {window}"))

        def are_up(opened: int = opened) -> bool:
            return traffic.connections >= opened + 2

        await service.until("new connections are up", are_up)
    assert await service.done(*pushes) == {"total": 12_000, "sent": 12_000}
    assert service.simulator.record.apns.duplicates == 0


def test_a_process_with_two_parts_follows_the_configuration_once_for_both(
    processes: Processes, site: Site, tmp_path: Path
) -> None:
    systemd = Heard(str(tmp_path / "notify"))
    port, text = free_ports(), with_other_app(site.config.read_text())
    environ = site.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "PUSHSVC__METRICS__PORT": str(port)}
    both = processes.start("serve", "--dispatch", **environ)
    other = Api(site.api.url, OTHER)

    def write(newer: str) -> None:
        (tmp_path / "newer.toml").write_text(newer)
        os.replace(tmp_path / "newer.toml", site.config)

    heard: list[str] = []

    def logged(event: str, number: int) -> None:
        until(lambda: f"{number} {event}: {both.output()}", lambda: both.output().count(f'"{event}"') == number)
        heard.extend(systemd.all())  # its queue holds ten

    def sends(*unique: object) -> bool:
        """Return whether the other app's push is accepted, and then sent."""
        status, push = other.call("POST", "/v1/push", {"to": {"tokens": apns("ok", *unique)}, **HELLO})
        return status == 202 and other.until_done(push["id"])["sent"] == len(unique)

    until(lambda: "it is ready", lambda: "READY=1" in systemd.all())
    assert not sends(1)
    write(text)
    until(lambda: "both know the other app", lambda: sends(1))
    logged("route_added", 2)

    write(text + "\n[apps.shop.nonsense]\n")
    logged("reload_refused", 1)
    os.kill(both.pid, signal.SIGHUP)
    logged("reload_refused", 2)
    assert sends(2)
    write(text.replace("[store]", "[queue]\nmax_pending = 1\n[store]"))
    until(lambda: "the API has another bound", lambda: not sends(3, 4))
    assert sends(3)
    write(text.replace("connections = 2", "connections = 1", 1))
    logged("route_reopened", 1)
    until(lambda: "the API has its first bound", lambda: sends(5, 6))
    os.kill(both.pid, signal.SIGHUP)
    logged("reloaded", 4)

    metrics = site.api.call("GET", "/metrics")[1]
    assert 'pushsvc_deliveries_total{app="other",outcome="sent",platform="apns",reason=""}' in metrics
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))  # what would be counted there is shown by the API
    assert both.end() == 0
    heard += systemd.all()
    assert [message.partition("=")[0] for message in heard] == ["RELOADING", "READY"] * 6 + ["STOPPING"]
    assert [both.output().count(f'"{event}"') for event in ("reloaded", "reload_refused", "route_added")] == [4, 2, 2]
    systemd.socket.close()


def test_only_what_is_read_at_the_start_asks_for_a_restart() -> None:
    old = Settings()
    larger = structs.replace(
        old, queue=structs.replace(old.queue, max_pending=1), apps={"shop": AppSettings(name="shop")}
    )
    assert _fixed(old, larger) == []
    assert _fixed(old, structs.replace(larger, queue=structs.replace(larger.queue, durability="fsync"))) == ["queue"]
    assert _fixed(old, structs.replace(larger, retry=structs.replace(old.retry, attempts=2))) == ["retry"]
    assert _fixed(old, structs.replace(larger, live=structs.replace(old.live, heartbeat=30.0))) == ["live"]
    announced = structs.replace(old.live, endpoints=["wss://push.example.com"])
    assert _fixed(old, structs.replace(larger, live=announced)) == []
    assert _fixed(old, structs.replace(larger, logging=structs.replace(old.logging, level="debug"))) == []
    assert _fixed(old, structs.replace(larger, logging=structs.replace(old.logging, format="json"))) == ["logging"]


def test_a_version_that_a_process_cannot_use_is_refused_until_its_files_can_be_used(tmp_path: Path) -> None:
    """Also where it is a file that the version before did not name."""
    file, key = tmp_path / "pushsvc.toml", tmp_path / "key.pem"
    file.write_text(f"[apps.shop.live]\nsecret = '{'x' * 32}'")
    public = ec.generate_private_key(ec.SECP256R1()).public_key()

    async def main() -> None:
        stop = asyncio.Event()
        current = reload.Current(settings := load_settings(file, {}))
        versions = reload.versions(current, lambda: load_settings(file, {}), stop, every=0.01, check=live_config)
        assert await anext(versions) == settings
        file.write_text("[apps.shop.live]\npublic_key_file = 'key.pem'")
        newer = asyncio.ensure_future(anext(versions))
        while not current.refusal:
            await asyncio.sleep(0.01)
        assert not newer.done()
        key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        assert (await newer).apps["shop"].live == AppLive(public_key_file=str(key))
        assert current.refused_since is None
        stop.set()
        assert [each async for each in versions] == []

    asyncio.run(asyncio.wait_for(main(), 30))


async def test_a_version_at_which_the_loading_itself_fails_is_refused(tmp_path: Path) -> None:
    file, loads = tmp_path / "pushsvc.toml", 0
    file.write_text(f"[apps.shop.live]\nsecret = '{'x' * 32}'")
    current = reload.Current(settings := load_settings(file, {}))

    def load() -> Settings:
        nonlocal loads
        loads += 1
        if loads < 3:
            raise ZeroDivisionError("hunter" + "22")
        assert current.refusal == "ZeroDivisionError"
        return settings

    with capture_logs() as logs:
        versions = reload.versions(current, load, asyncio.Event(), every=0.01)
        newer = asyncio.ensure_future(anext(versions))
        while loads < 3:
            await asyncio.sleep(0.01)
            reload.ask_all()
        assert await newer == settings
    assert (current.refusal, current.refused_since) == ("", None)
    refused = [line for line in logs if line["event"] == "reload_refused"]
    assert all("in load" in line["where"] for line in refused)
    assert refused
    assert "hunter22" not in str(logs)


async def test_a_change_that_fails_in_a_part_is_noted_and_the_next_one_is_applied(tmp_path: Path) -> None:
    current, applied = reload.Current(Settings()), asyncio.Event()
    news, failed = current.news(), asyncio.Event()

    async def change() -> None:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError("hunter" + "22")
        applied.set()

    with capture_logs() as logs:
        async with reload.applying(current, news, change):
            current.use(Settings())
            await failed.wait()
            await asyncio.sleep(0)
            assert "ZeroDivisionError" in current.refusal
            assert current.refused_since is not None
            current.use(Settings())
            await applied.wait()
    assert [line["event"] for line in logs] == ["reload_failed"]
    assert "hunter22" not in str(logs)


@pytest.mark.parametrize("late", ["configuration", "new file"])
async def test_a_file_that_is_written_while_it_is_loaded_is_loaded_again(tmp_path: Path, late: str) -> None:
    file, secret = tmp_path / "pushsvc.toml", tmp_path / "secret"
    section, environ = "[apps.shop.live]\n", {"PUSHSVC__APPS__SHOP__LIVE__SECRET_FILE": str(secret)}
    file.write_text(f"{section}secret = '{'a' * 32}'")
    secret.write_text("b" * 32)
    current, changing = reload.Current(settings := load_settings(file, {})), False

    def load() -> Settings:
        nonlocal changing
        newer = load_settings(file, environ if late == "new file" and changing else {})
        if changing and late == "new file":
            secret.write_text("last" * 8)
        elif changing:
            file.write_text(f"{section}secret = '{'last' * 8}'")
            changing = False
        return newer

    versions = reload.versions(current, load, asyncio.Event(), every=0.01)
    assert await anext(versions) == settings
    changing = True
    file.write_text(section if late == "new file" else f"{section}secret = '{'b' * 32}'")
    async with asyncio.timeout(30):
        async for newer in versions:
            live = newer.apps["shop"].live
            assert live is not None
            if live.secret == "last" * 8:
                break


@pytest.mark.parametrize("written", [True, False], ids=["beside a file", "without one"])
def test_the_file_of_a_value_is_followed(tmp_path: Path, written: bool) -> None:
    """As secrets are mounted: the variable names a link, and what that leads to is replaced."""
    file, secret = tmp_path / "pushsvc.toml", tmp_path / "secret"
    for name in "ab":
        (tmp_path / name).write_text(name * 32)
    secret.symlink_to("a")
    file.write_text("[apps.shop.live]")
    environ = {"PUSHSVC__APPS__SHOP__LIVE__SECRET_FILE": str(secret)}

    def load() -> Settings:
        return load_settings(file if written else None, environ)

    async def main() -> None:
        stop = asyncio.Event()
        current = reload.Current(settings := load())
        versions = reload.versions(current, load, stop, every=0.01)
        assert await anext(versions) == settings  # the look at the start
        newer = asyncio.ensure_future(anext(versions))
        await asyncio.sleep(0)
        for name in ("gone", "b"):
            (tmp_path / "new").symlink_to(name)
            (tmp_path / "new").replace(secret)
            while name == "gone" and not current.refusal:
                await asyncio.sleep(0.01)
        live = (await newer).apps["shop"].live
        assert live is not None
        assert live.secret == "b" * 32
        stop.set()
        assert [each async for each in versions] == []

    asyncio.run(asyncio.wait_for(main(), 30))


def test_the_level_of_the_log_changes_at_once(tmp_path: Path) -> None:
    file, log, stream = tmp_path / "pushsvc.toml", get_logger("any"), io.StringIO()
    file.write_text(f"[apps.shop.live]\nsecret = '{'x' * 32}'")
    configure_logging("info", stream)

    async def main() -> None:
        stop = asyncio.Event()
        current = reload.Current(load_settings(file, {}))
        versions = reload.versions(current, lambda: load_settings(file, {}), stop, every=0.01)
        await anext(versions)
        log.debug("before")
        file.write_text(file.read_text() + "\n[logging]\nlevel = 'debug'")
        await anext(versions)
        log.debug("after")
        stop.set()
        assert current.unapplied == []

    try:
        asyncio.run(asyncio.wait_for(main(), 30))
    finally:
        set_level("info")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["reloaded", "after"]


def test_how_long_streams_are_kept_is_read_when_the_store_is_opened() -> None:
    def having(**live: Any) -> Settings:
        return Settings(apps={"shop": AppSettings(name="shop", live=AppLive(**{"secret": "x" * 32} | live))})

    for old, new, asked in [
        (Settings(), having(), []),
        (Settings(), having(history=100), ["apps.shop.live"]),
        (having(history=100), having(history=100, order="live", secret="y" * 32), []),
        (having(history_age=100), having(), ["apps.shop.live"]),
        (having(history_age=100), Settings(), []),
    ]:
        assert _fixed(old, new) == asked


async def test_limits_change_under_a_running_route_and_what_waits_for_them_is_sent(
    service: Service, file: Path
) -> None:
    text = file.read_text()

    def limits(rates: str) -> None:
        file.write_text(f"{text}\n[apps.shop.limits]\n{rates}\n")

    limits('per_token = "1/h"\non_exceed = "drop"')

    async def dropped() -> bool:
        ends = await service.done(await service.push(apns("ok", "busy")))
        return "suppressed" in ends

    await service.until("the limit of a token holds", dropped)

    # Of the app: what is over it stays in the line ..
    limits('per_token = "0"\nper_app = "300/h"')

    async def asked() -> bool:
        await service.done(await service.push(apns("ok", "busy")))
        return ask(service.settings.store.data_dir / "store.sock", "EXISTS ps:{shop.0}:bucket:app") == b":1\r\n"

    await service.until("the dispatcher asks for permits of the app", asked)
    push = await service.push(apns("ok", *range(1000)))
    waiting = await service.push(apns("ok", *range(1000, 1400)))
    assert (await service.status(push))["counts"]["queued"] >= 650
    assert (await service.status(waiting))["counts"]["queued"] == 400
    # .. until there is no such limit.
    limits('per_token = "0"')
    assert await service.done(push, waiting) == {"total": 1400, "sent": 1400}


def test_a_refusal_is_logged_by_one_of_the_processes_of_a_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = reload.stamp_of([tmp_path / "pushsvc.toml"])
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    look = (
        "import sys; from pathlib import Path; from pushsvc.runtime.reload import is_news, stamp_of;"
        "print([is_news(why, stamp_of([Path(sys.argv[1])])) for why in sys.argv[2:]])"
    )

    def other(*whys: str) -> str:
        command = [sys.executable, "-c", look, str(tmp_path / "pushsvc.toml"), *whys]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert reload.is_news("a: unknown key", files)
    assert not reload.is_news("a: unknown key", files), "another part of the process"
    assert other("a: unknown key", "b: unknown key", "b: unknown key") == "[False, True, False]"
    (tmp_path / "pushsvc.toml").write_text("changed\n")
    assert other("a: unknown key") == "[True]"
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    assert other("a: unknown key") == "[True]", "it has no supervisor"
