"""`serve`, `dispatch` and `feedback` as commands of their own: beside one another, doubled, and wrongly configured."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import get_args

import aiohttp
import pytest

from pushsvc import cli
from pushsvc.runtime.store import redis_url
from pushsvc.settings.processes import cores
from pushsvc.settings.schema import Settings, StoreSettings
from pushsvc.stages.dispatch.dispatcher import Dispatcher
from pushsvc.store import keys
from pushsvc.telemetry import AppRecord, SharedRecord

from ..unit.test_monitoring import counters
from ..unit.test_systemd import Heard
from .harness import apns, fcm, running_service
from .ports import free_ports
from .processes import Command, Processes, Site, until
from .servers import Server, running_server

PARTS = ("serve", "dispatch", "feedback")


def read(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def total(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of one metric that have these labels."""
    found = 0.0
    for shown, value in re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE):
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', shown))
        if labels.items() <= pairs.items():
            found += float(value)
    return found


def stop(commands: dict[str, Command]) -> None:
    """End them in the order in which pushes travel."""
    for part in PARTS:
        assert commands[part].end() == 0, commands[part].output()


async def test_parts_that_start_at_the_same_moment_find_one_store(tmp_path: Path) -> None:
    settings = Settings(store=StoreSettings(data_dir=tmp_path / "store"))

    all_up = asyncio.Barrier(3)

    async def part() -> str:
        async with redis_url(settings) as url:
            await all_up.wait()
            return url

    async with asyncio.timeout(60):
        urls = await asyncio.gather(part(), part(), part())
    assert len(set(urls)) == 1


def test_three_commands_started_at_once_share_one_embedded_store(processes: Processes, site: Site) -> None:
    port = free_ports(3)
    environ = {**site.environ, "PUSHSVC__METRICS__PORT": str(port), "PUSHSVC__DISPATCH__PROCESSES": "auto"}
    automatic = {"serve": ("--processes", "auto")}
    commands = {part: processes.start(part, *automatic.get(part, ()), **environ) for part in PARTS}
    for command in commands.values():
        command.until(r'"ready"')
    half = cores() // 2
    children = half if half > 1 else 0  # a single process is the command itself

    def started() -> list[int]:
        return [len(processes.find(f"{part} --processes 1")) for part in ("serve", "dispatch")]

    until(lambda: f"{children} children of each: {started()}", lambda: started() == [children, children])
    api = site.api
    api.until_ready()
    push = api.push(apns("ok", *range(20)) + fcm("ok", *range(10)) + apns("Unregistered", "dead"))
    assert api.until_done(push) == {"total": 31, "sent": 30, "invalid": 1}
    until(lambda: "the dead token comes up in feedback", lambda: api.call("GET", "/v1/feedback")[1]["items"])

    def shows(at: int, name: str, wanted: float, **labels: str) -> None:
        until(lambda: f"{name}{labels} is {wanted}:\n{read(at)}", lambda: total(read(at), name, **labels) == wanted)

    served = int(api.url.rpartition(":")[2])
    shows(served, "pushsvc_deliveries_accepted_total", 31)
    shows(port, "pushsvc_deliveries_total", 20, platform="apns", outcome="sent")
    shows(port, "pushsvc_deliveries_total", 10, platform="fcm", outcome="sent")
    shows(port, "pushsvc_attempts_total", 1, platform="apns", result="token_dead")
    shows(port, "pushsvc_delivery_duration_seconds_count", 31)
    shows(served, "pushsvc_queue_pending", 0)
    assert "pushsvc_queue_pending" not in read(port), "figures of the whole service are the API's"
    shows(port + 1, "pushsvc_pruned_total", 1, reason="Unregistered")
    for each in (served, port, port + 1):
        assert "ok" in read(each, "/healthz")

    # Whichever came first has the store, and takes it along: it goes last.
    owner = int((processes.folder / "store" / "store.lock").read_text())
    for command in sorted(commands.values(), key=lambda command: command.pid == owner):
        assert command.end() == 0, command.output()


def test_doubled_dispatchers_share_the_work_and_one_address_for_their_metrics(processes: Processes, site: Site) -> None:
    port = free_ports(3)
    with running_server("valkey") as server:
        environ = {**site.environ, "PUSHSVC__METRICS__PORT": str(port), "PUSHSVC__REDIS__URL": server.url}
        ignored = {"PUSHSVC_DISPATCH_CHUNK": "9"}
        commands = {
            "serve": processes.start("serve", **environ, **ignored),
            "dispatch": processes.start("dispatch", "--processes", "2", **environ, **ignored),
            "feedback": processes.start("feedback", **environ),
        }
        site.api.until_ready()
        children = until(
            lambda: "two dispatchers", lambda: (found := processes.find("dispatch --processes 1"))[1:] and found
        )
        until(
            lambda: f"both are ready: {commands['dispatch'].output()}",
            lambda: commands["dispatch"].output().count('"ready"') >= 2,
        )
        for part, warned in (("serve", 1), ("dispatch", 1), ("feedback", 0)):  # once, however many processes it has
            found = [line for line in commands[part].output().splitlines() if "variable_ignored" in line]
            assert (len(found), "PUSHSVC__DISPATCH__CHUNK" in "".join(found)) == (warned, bool(warned))
        # Late answers, so that neither can take everything before the other has looked.
        site.simulator.control("latency", seconds=0.3)
        pushes = [site.api.push(apns("ok", *range(n, n + 1000)), data={"a": "b"}) for n in range(0, 8000, 1000)]
        for push in pushes:
            assert site.api.until_done(push) == {"total": 1000, "sent": 1000}
        record = site.simulator.record()["apns"]
        assert (record["accepted"], record["duplicates"]) == (8000, 0)
        # 2 connections each.
        assert record["connections"] == 4

        def sent() -> float:
            return total(read(port), "pushsvc_deliveries_total", outcome="sent")

        until(lambda: f"both are counted at one address: {sent()}", lambda: sent() == 8000)

        os.kill(children[0], signal.SIGKILL)
        until(
            lambda: "another one takes its place",
            lambda: len(found := processes.find("dispatch --processes 1")) == 2 and children[0] not in found,
        )
        after = site.api.push(apns("ok", *range(8000, 8100)))
        assert site.api.until_done(after) == {"total": 100, "sent": 100}
        stop(commands)


# --- wrong configuration ----------------------------------------------------------------------------


@pytest.fixture
def _in_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


BARE = """
[store]
data_dir = "store"
[apps.shop.apns]
key_file = "gone.p8"
key_id = "KEY1234567"
team_id = "TEAM123456"
topic = "com.example.shop"
"""


LIVE = {"PUSHSVC__APPS__SHOP__LIVE__SECRET": "s" * 40}


def test_what_serves_and_dispatches_is_ready_once_it_does_both(
    processes: Processes, site: Site, tmp_path: Path
) -> None:
    systemd = Heard(str(tmp_path / "notify"))
    environ = {**site.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    port = int(site.environ["PUSHSVC__SERVER__PORT"])
    with socket.create_server(("127.0.0.1", port)):
        code, _, err = processes.run("serve", "--dispatch", **environ)
    assert (code, f"server.port: 127.0.0.1:{port} is in use" in err, systemd.all()) == (1, True, [])

    both = processes.start("serve", "--dispatch", **environ)
    at = both.until(r'"at":"(.*?)".*"ready"')[1]
    assert re.fullmatch(rf"{site.api.url}, 2 routes as .*:{both.pid}", at)
    until(lambda: "it is ready", lambda: "READY=1" in systemd.all())
    systemd.socket.close()
    assert both.end() == 0
    assert both.output().count('"ready"') == 1


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("PUSHSVC__REDIS__URL_FILE", ("serve", "--processes", "2")),
        ("PUSHSVC__REDIS__URL__FILE", ("up",)),
        ("pushsvc__redis__url", ("dispatch", "--processes", "2")),
    ],
)
def test_the_parts_start_however_the_store_is_named(
    name: str, part: tuple[str, ...], processes: Processes, site: Site, tmp_path: Path
) -> None:
    with running_server("redis", tcp=True) as server:
        (tmp_path / "redis").write_text(server.url + "\n")
        value = str(tmp_path / "redis") if name.upper().endswith("FILE") else server.url
        command = processes.start(*part, **site.environ, **{name: value, "Pushsvc__Metrics__Port": str(free_ports(2))})
        command.until("pushsvc listens on" if part == ("up",) else r'"ready"(?s:.*)"ready"')
        assert command.end() == 0
        assert "child_ended" not in command.output()


def test_systemd_learns_that_several_processes_are_ready_once_each_works(
    processes: Processes, site: Site, tmp_path: Path
) -> None:
    systemd = Heard(str(tmp_path / "notify"))
    port = int(site.environ["PUSHSVC__SERVER__PORT"])
    with socket.create_server(("127.0.0.1", port)):
        both = processes.start("serve", "-n", "2", **site.environ, NOTIFY_SOCKET=str(tmp_path / "notify"))
        both.until(r"child_ended(?s:.*)child_ended")
        assert "READY=1" not in systemd.all()
    until(lambda: "it is ready", lambda: "READY=1" in systemd.all())
    assert both.output().count('"ready"') == 2
    systemd.socket.close()
    assert both.end() == 0


@pytest.mark.parametrize("part", ["dispatch", "feedback", "jobs", "live"])
def test_every_part_is_ready_once_all_of_its_processes_are(
    part: str, processes: Processes, site: Site, tmp_path: Path
) -> None:
    systemd = Heard(str(tmp_path / "notify"))
    live = {**LIVE, "PUSHSVC__LIVE__PORT": str(free_ports())}
    command = processes.start(part, "-n", "2", **site.environ, **live, NOTIFY_SOCKET=str(tmp_path / "notify"))
    until(lambda: f"it is ready: {command.output()}", lambda: "READY=1" in systemd.all())
    assert command.output().count('"ready"') == 2
    systemd.socket.close()
    assert command.end() == 0


async def test_what_is_done_once_for_a_process_is_not_done_again_for_its_second_part(tmp_path: Path) -> None:
    async with running_service(tmp_path, together=True) as service:
        assert await service.done(await service.push(apns("ok", 1))) == {"total": 1, "sent": 1}
        found = Counter(task.get_name() for task in asyncio.all_tasks())
    # The part that judges runs beside them as a process of its own would.
    once = dict.fromkeys(("clock", "flow", "hash key", "reload", "replaced"), 2) | {"conditions": 1}
    assert {name: found[name] for name in once} == once
    assert found["reporting"] == 3


async def test_a_process_of_two_parts_ends_where_one_of_them_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = asyncio.Event()

    async def run(dispatcher: Dispatcher, stop: asyncio.Event) -> None:
        await fails.wait()
        raise RuntimeError("broken")

    monkeypatch.setattr(Dispatcher, "run", run)

    async def serve() -> None:
        async with running_service(tmp_path, together=True) as service:

            async def is_gone() -> bool:
                with suppress(aiohttp.ClientConnectionError):
                    await service.session.get("/healthz")
                    return False
                return True

            fails.set()
            await service.until("the API has ended too", is_gone)

    with pytest.raises(RuntimeError, match="broken"):
        await serve()


def all_parts(processes: Processes, site: Site, server: Server) -> tuple[dict[str, Command], list[int]]:
    """Every part in a process of its own, by name, and the ports of their metrics."""
    first = free_ports(5)
    environ = {
        **site.environ,
        "PUSHSVC__APPS__SHOP__LIVE__SECRET": "s" * 32,
        "PUSHSVC__LIVE__PORT": str(first),
        "PUSHSVC__METRICS__PORT": str(first + 1),
        "PUSHSVC__REDIS__URL": server.url,
    }
    ports = [int(site.api.url.rpartition(":")[2]), *range(first + 1, first + 5)]
    return {part: processes.start(part, **environ) for part in ALL}, ports


def test_each_part_ends_with_a_fault_where_others_have_set_redis_up_again(processes: Processes, site: Site) -> None:
    """`Restart=on-failure` of systemd then starts it again."""
    with running_server("valkey") as server:
        parts, _ = all_parts(processes, site, server)
        for command in parts.values():
            command.until('"ready"')
        server.command(f"SET {keys.HASH_KEY} {'x' * 32}")
        for part, command in parts.items():
            assert (part, command.wait()) == (part, 1)
            assert command.output().count("pushsvc: Redis came back empty") == 1


ALL = ("serve", "dispatch", "feedback", "jobs", "live")
COUNTED_BY = {
    "pushsvc_child_restarts_total": ALL,
    "pushsvc_http_requests_total": ("serve",),
    "pushsvc_deliveries_total": ("dispatch",),
    "pushsvc_dead_letters_dropped_total": ALL,
    "pushsvc_feedback_gaps_total": ALL,
    "pushsvc_unreadable_total": ALL,
    "pushsvc_live_recoveries_total": ("live",),
}
"""The counters of which alerts read how they grow, with the parts that may count them."""


def test_what_an_alert_reads_is_there_before_it_is_counted(processes: Processes, site: Site) -> None:
    """The growth of a counter that begins with its first event does not show it."""
    assert COUNTED_BY.keys() == counters().keys()
    with running_server("valkey") as server:
        parts, ports = all_parts(processes, site, server)
        for part, port in zip(ALL, ports, strict=True):
            parts[part].until('"ready"')
            lines = read(port).splitlines()
            for name in [name for name, by in COUNTED_BY.items() if part in by]:
                own = [line for line in lines if re.match(rf'{name}{{(app="shop"|part=)', line)]
                for label, value in re.findall(r'(\w+)=~?"([^"]*)"', counters()[name]):
                    own = [line for line in own if re.search(f'{label}="{value}"', line)]
                assert {line.rpartition(" ")[2] for line in own} == {"0.0"}, (part, name)
            found = [line for line in lines if line.startswith("pushsvc_unreadable_total{")]
            assert len(found) == len(get_args(AppRecord)) + len(get_args(SharedRecord)), part
            assert len([line for line in lines if line.startswith("pushsvc_feedback_gaps_total{")]) == 2, part
        for command in parts.values():
            assert command.end() == 0


@pytest.mark.parametrize(("command", "configured"), [(("up",), 2), (("serve", "-n", "2"), 1)], ids=["up", "serve"])
def test_a_process_that_takes_the_place_of_another_shares_its_address_whatever_is_configured_by_now(
    command: tuple[str, ...], configured: int, processes: Processes, site: Site
) -> None:
    before = site.config.read_text()

    def configure(number: int) -> None:
        site.config.write_text(before.replace("[server]", f"[server]\nprocesses = {number}"))

    configure(configured)
    service = processes.start(*command, **site.environ)
    site.api.until_ready()

    def serving() -> list[int]:
        return [int(pid) for pid in re.findall(rf'"at":"{site.api.url}","pid":(\d+),"event":"ready"', service.output())]

    until(lambda: f"two serve: {service.output()}", lambda: len(serving()) == 2)
    configure(1)
    os.kill(serving()[0], signal.SIGKILL)
    until(lambda: f"another takes its place: {service.output()}", lambda: len(serving()) == 3)
    assert service.output().count('"child_ended"') == 1
    assert service.end() == 0


def test_a_stop_waits_no_longer_than_the_drain_for_a_provider_that_does_not_answer(
    processes: Processes, site: Site
) -> None:
    times = {"PUSHSVC__DISPATCH__DRAIN_TIMEOUT": "1", "PUSHSVC__RETRY__REQUEST_TIMEOUT": "3600"}
    both = processes.start("serve", "--dispatch", **site.environ, **times)
    both.until('"ready"')
    site.simulator.control("latency", seconds=3600.0)
    push = site.api.push(apns("ok", 1))
    until(lambda: "it is in flight", lambda: site.simulator.record()["accepted"] == 1)
    assert both.end() == 0
    assert "drain_incomplete" in both.output()
    site.simulator.control("latency", seconds=0.0)

    both = processes.start("serve", "--dispatch", **site.environ, PUSHSVC__DISPATCH__TAKEOVER="3")
    site.api.until_ready()
    assert site.api.until_done(push) == {"total": 1, "sent": 1}
    assert both.end() == 0


@pytest.mark.usefixtures("_in_a_folder")
@pytest.mark.parametrize("part", ["up", *PARTS, "live", "doubled"])
def test_without_an_app_there_is_nothing_to_run(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dispatch", "--processes", "2"] if part == "doubled" else [part]
    assert cli.main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pushsvc: ")
    assert "names no app" in line
    assert "[apps.NAME]" in line
    # It has not left a store behind.
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("_in_a_folder")
@pytest.mark.parametrize(
    ("words", "environ", "reported"),
    [
        (["serve"], {"PUSHSVC__SERVER__PRT": "1"}, r"PUSHSVC__SERVER__PRT: no such key"),
        (["feedback"], {"PUSHSVC__RETRY__BASE": "much"}, r"retry\.base"),
        (["serve"], {"PUSHSVC__REDIS__URL": "redis://me:hunter2@127.0.0.1:1/0"}, r"127\.0\.0\.1:1"),
        (["dispatch"], {"PUSHSVC__REDIS__URL": "redis://me:hunter2@127.0.0.1:1/0"}, r"127\.0\.0\.1:1"),
        (["feedback"], {"PUSHSVC__REDIS__URL": "http://example.com"}, r"redis.*url"),
        (["serve"], {"PUSHSVC__SERVER__PORT": "TAKEN"}, r"server\.port: 127\.0\.0\.1:TAKEN is in use .*`server\.port`"),
        (["feedback"], {"PUSHSVC__METRICS__PORT": "TAKEN-1"}, r"metrics\.port: .*127\.0\.0\.1:TAKEN"),
        (["live"], {}, r"pushsvc\.toml: no app has a live channel .*\[apps\.NAME\.live\]"),
        (
            ["up"],
            {**LIVE, "PUSHSVC__LIVE__PORT": "TAKEN", "PUSHSVC__SERVER__PORT": "FREE"},
            r"live\.port: 127\.0\.0\.1:TAKEN is in use",
        ),
        (["live"], {**LIVE, "PUSHSVC__LIVE__PORT": "TAKEN"}, r"live\.port: \S+:TAKEN is in use .*PUSHSVC__LIVE__PORT"),
        (["up"], {"PUSHSVC__SERVER__PORT": "TAKEN"}, r"server\.port: \S+:TAKEN is in use .*PUSHSVC__SERVER__PORT"),
        (["up"], {"PUSHSVC__SERVER__PORT": "0"}, r"server\.port: 0 .*name a port"),
        (["serve"], {"PUSHSVC__SERVER__HOST": "no.such.host.invalid"}, r"server\.port: .*no\.such\.host\.invalid"),
    ],
    ids=[
        "unknown key",
        "bad value",
        "no Redis for serve",
        "no Redis for dispatch",
        "no Redis at all",
        "port taken",
        "metrics port taken",
        "no live channel",
        "gateway's port taken for all",
        "gateway's port taken",
        "port taken for all",
        "no port for all",
        "no such host",
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    words: list[str],
    environ: dict[str, str],
    reported: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("pushsvc.toml").write_text(BARE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports = {"FREE": str(free.getsockname()[1])}
        port = taken.getsockname()[1]
        ports |= {"TAKEN-1": str(port - 1), "TAKEN": str(port)}
        for name, value in environ.items():
            monkeypatch.setenv(name, ports.get(value, value))
        assert cli.main(["--config", "pushsvc.toml", *words]) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]
    assert len([line for line in err if line.startswith("pushsvc: ")]) == 1, err
    assert re.search(reported.replace("TAKEN", str(port)), "\n".join(err)), err
    assert "Traceback" not in "\n".join(err)
    assert "hunter2" not in "\n".join(err)
    assert len(err) <= 2
