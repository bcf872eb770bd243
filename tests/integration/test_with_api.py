"""`serve --dispatch`: one process that accepts and sends. What it accepts it need not read again, and all that the two
parts show, obey and guarantee by themselves it shows, obeys and guarantees too."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushsvc import runtime
from pushsvc.errors import StoreError
from pushsvc.stages.dispatch import Dispatcher

from .harness import apns, fcm, running_service
from .ports import free_ports
from .processes import Command, Processes, Site, open_site, own_processes, until
from .servers import Server, running_server
from .test_durability import monitored
from .test_parts import read, total


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with own_processes(tmp_path) as own:
        yield own


@pytest.fixture
def site(tmp_path: Path, processes: Processes) -> Iterator[Site]:
    with open_site(tmp_path) as own:
        yield own


@pytest.fixture
def store() -> Iterator[Server]:
    with running_server("valkey", tcp=True) as own:
        yield own


def start(processes: Processes, site: Site, store: Server, *words: str, **environ: str) -> Command:
    own = {**site.environ, "PUSHSVC__REDIS__URL": store.url, "PUSHSVC__DISPATCH__TAKEOVER": "3", **environ}
    command = processes.start("serve", "--dispatch", *words, **own)
    command.until(r'"ready"')
    site.api.until_ready()
    return command


def test_it_shows_what_both_parts_show(processes: Processes, site: Site, store: Server) -> None:
    port = free_ports(4)
    environ = {"PUSHSVC__METRICS__PORT": str(port)}
    command = start(processes, site, store, **environ)
    jobs = processes.start("jobs", "--feedback", **site.environ, **environ, PUSHSVC__REDIS__URL=store.url)
    jobs.until(r'"ready"')
    api = site.api
    until(
        lambda: f"nothing is unserved: {api.call('GET', '/readyz')}",
        lambda: not api.call("GET", "/readyz")[1].get("unserved"),
    )
    push = api.push(apns("ok", *range(20)) + fcm("ok", *range(10)) + apns("Unregistered", "dead"))
    assert api.until_done(push) == {"total": 31, "sent": 30, "invalid": 1}
    served = int(api.url.rpartition(":")[2])

    def shows(at: int, name: str, wanted: float, **labels: str) -> None:
        until(lambda: f"{name}{labels} is {wanted}:\n{read(at)}", lambda: total(read(at), name, **labels) == wanted)

    for part in ("serve", "dispatch", "feedback", "jobs"):
        shows(served, "pushsvc_workers", 1, part=part)
    for at in (served, port):  # what the parts have each for themselves is the same here
        shows(at, "pushsvc_deliveries_accepted_total", 31)
        shows(at, "pushsvc_deliveries_total", 20, platform="apns", outcome="sent")
        assert "ok" in read(at, "/healthz")
    shows(served, "pushsvc_queue_pending", 0)
    assert command.end() == 0, command.output()
    assert jobs.end() == 0, jobs.output()


def test_single_pushes_are_read_in_the_step_that_accepts_them(processes: Processes, site: Site, store: Server) -> None:
    command = start(processes, site, store)
    assert site.api.until_done(site.api.push(apns("ok", "warm"))) == {"total": 1, "sent": 1}
    with monitored(store) as seen:
        for number in range(20):
            assert site.api.until_done(site.api.push(apns("ok", number))) == {"total": 1, "sent": 1}
    # Commands of readers that wait come from their connections.
    assert sum(place == "lua" and name == "xreadgroup" for place, name in seen) == 20
    assert command.end() == 0, command.output()


def test_what_was_accepted_before_it_stops_is_sent(processes: Processes, site: Site, store: Server) -> None:
    command = start(processes, site, store)
    site.simulator.control("latency", seconds=0.5)
    pushes = [site.api.push(apns("ok", number), data={"a": "b"}) for number in range(50)]
    assert command.end() == 0, command.output()
    record = site.simulator.record()
    assert (record["accepted"], record["duplicates"]) == (50, 0)
    site.simulator.control("latency", seconds=0.0)
    command = start(processes, site, store)
    for push in pushes:
        assert site.api.counts(push) == {"total": 1, "sent": 1}
    assert command.end() == 0, command.output()


def test_several_share_the_port_and_take_over_what_a_killed_one_had(
    processes: Processes, site: Site, store: Server
) -> None:
    command = start(processes, site, store, "--processes", "2")
    api, simulator = site.api, site.simulator
    children = until(lambda: "two", lambda: (found := processes.find("serve --dispatch --processes 1"))[1:] and found)
    simulator.control("latency", seconds=30.0)
    pushes = [api.push(apns("ok", number)) for number in range(40)]
    until(lambda: f"40 are in flight: {simulator.record()}", lambda: simulator.record()["accepted"] == 40)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    simulator.control("latency", seconds=0.0)
    until(
        lambda: "others take their place",
        lambda: len({*processes.find("serve --dispatch --processes 1")} - {*children}) == 2,
    )
    api.until_ready()
    for push in pushes:
        assert api.until_done(push) == {"total": 1, "sent": 1}
    record = simulator.record()
    assert (record["distinct"], record["duplicates"]) == (40, 40)
    assert command.end() == 0, command.output()


def test_a_reload_reaches_both_parts(processes: Processes, site: Site, store: Server) -> None:
    command = start(processes, site, store)
    file = Path(site.environ["PUSHSVC_CONFIG"])
    text = file.read_text()
    file.write_text(text.replace("[apps.shop.fcm]", "[apps.shop.limits]\nper_app = '1/h'\n[apps.shop.fcm]"))
    os.kill(command.pid, signal.SIGHUP)
    command.until(r'"reloaded"')
    pushes = [site.api.push(apns("ok", number)) for number in range(3)]
    until(lambda: "one is sent", lambda: any(site.api.counts(push).get("sent") for push in pushes))
    assert site.simulator.record()["accepted"] == 1
    file.write_text(text)
    os.kill(command.pid, signal.SIGHUP)
    for push in pushes:
        assert site.api.until_done(push) == {"total": 1, "sent": 1}
    assert command.end() == 0, command.output()


def test_a_fault_of_what_sends_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def faulty(self: Dispatcher, stop: asyncio.Event) -> None:
        await asyncio.sleep(0.1)
        raise StoreError("a fault")

    async def main() -> None:
        async with running_service(tmp_path, dispatchers=0) as service:
            monkeypatch.setattr(Dispatcher, "run", faulty)
            stop = asyncio.Event()
            heard: list[str] = []
            with pytest.raises(StoreError, match="a fault"):
                await runtime.run_api(service.settings, stop, listening=heard.append, dispatch=True)
            assert stop.is_set()
            assert len(heard) == 1

    asyncio.run(asyncio.wait_for(main(), 60))
