"""`pushsvc up` as real processes: used from a shell, stopped, killed part by part, started again. Nothing is lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushsvc.simulator import apns_token

from .harness import apns, fcm
from .processes import Api, Command, Processes, Site, free_ports, open_site, own_processes, until

LISTENS = r"pushsvc listens on (\S+)"


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with own_processes(tmp_path) as own:
        yield own


@pytest.fixture
def site(tmp_path: Path, processes: Processes) -> Iterator[Site]:
    with open_site(tmp_path) as own:
        yield own


def start(processes: Processes, site: Site) -> Command:
    """`pushsvc up`, ready. What a dead dispatcher had taken is free after 3 s."""
    up = processes.start("up", **site.environ, PUSHSVC__DISPATCH__TAKEOVER="3")
    assert up.until(LISTENS)[1] == site.api.url
    assert site.api.call("GET", "/readyz")[0] == 200
    return up


# --- play: `up --simulator` -------------------------------------------------------------------------


def test_one_command_serves_and_the_shell_talks_to_it(processes: Processes) -> None:
    port = str(free_ports())
    up = processes.start("up", "--simulator", PUSHSVC__SERVER__PORT=port)
    key = up.until(r"API key of the app `demo`: (\S+)")[1]
    api = Api(up.until(LISTENS)[1], key)
    assert api.url == f"http://127.0.0.1:{port}"
    assert api.call("GET", "/readyz")[0] == 200
    assert api.call("GET", "/healthz")[0] == 200

    push = api.push(apns("ok", 1) + fcm("ok", 1) + apns("Unregistered", 2))
    assert api.until_done(push) == {"total": 3, "sent": 2, "invalid": 1}

    folder = processes.folder / "var" / "playground"
    shell = {
        "PUSHSVC_CONFIG": str(folder / "pushsvc.toml"),
        "PUSHSVC_KEY": key,
        "PUSHSVC__SERVER__PORT": port,
    }
    code, out, err = processes.run("send", "--apns", apns_token("ok", "3"), "--title", "x", "--follow", **shell)
    assert (code, err) == (0, "")
    sent, *_, last = out.splitlines()
    assert last == "done: 1 of 1: 1 sent"
    code, out, _ = processes.run("status", sent, "--json", **shell)
    assert (code, json.loads(out)["counts"]["sent"]) == (0, 1)
    code, out, _ = processes.run("status", push, **shell)
    assert (code, out.splitlines()[:2]) == (0, [f"{push}  done", "3 of 3: 2 sent, 1 invalid"])

    # One that the provider refuses again and again waits for its retry: there is something left to cancel.
    code, out, _ = processes.run("send", "--apns", apns_token("InternalServerError", "4"), "--title", "x", **shell)
    waiting = out.strip()
    code, out, _ = processes.run("cancel", waiting, "--json", **shell)
    assert (code, json.loads(out)["state"]) == (0, "cancelled")
    code, _, err = processes.run("cancel", push, **shell)
    assert code == 1
    assert err.startswith("pushsvc: ")
    assert err.endswith("(409)\n")

    code, made, _ = processes.run("keys", "new", "--app", "demo", "--name", "laptop", **shell)
    assert code == 0
    assert Api(api.url, made.strip()).call("GET", f"/v1/push/{push}")[0] == 200
    code, out, _ = processes.run("keys", "list", "--json", **shell)
    assert (code, [row["name"] for row in json.loads(out)]) == (0, ["demo", "laptop"])
    code, out, _ = processes.run("check", "--json", **shell)
    assert (code, json.loads(out)["ok"]) == (0, True)
    assert key not in out

    assert api.until_done(waiting) == {"total": 1, "cancelled": 1}
    assert up.end() == 0
    assert key not in "".join(file.read_text() for file in processes.folder.glob("*.err") if file != up.err)


def test_a_second_one_is_refused_and_leaves_the_first_alone(processes: Processes) -> None:
    first = processes.start("up", "--simulator", PUSHSVC__SERVER__PORT=str(free_ports()))
    key = first.until(r"API key of the app `demo`: (\S+)")[1]
    api = Api(first.until(LISTENS)[1], key)
    folder = processes.folder / "var" / "playground"
    files = [folder / "pushsvc.toml", folder / "simulator" / "service-account.json"]
    before = [file.read_bytes() for file in files]

    code, _, err = processes.run("up", "--simulator", PUSHSVC__SERVER__PORT=str(free_ports()))
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith("pushsvc: ")
    assert str(folder) in line
    assert f"process {first.pid}" in line
    assert "store.data_dir" in line
    assert [file.read_bytes() for file in files] == before

    # The same without the simulator, at the store itself.
    code, _, err = processes.run(
        "up", PUSHSVC_CONFIG=str(folder / "pushsvc.toml"), PUSHSVC__SERVER__PORT=str(free_ports())
    )
    assert code == 1
    (line,) = err.splitlines()
    assert str(folder / "store") in line
    assert f"process {first.pid}" in line

    assert api.until_done(api.push(apns("ok", 1) + fcm("ok", 1))) == {"total": 2, "sent": 2}
    assert first.end() == 0


def test_a_port_that_another_program_has_is_named(processes: Processes, site: Site) -> None:
    """It must not take the other program's answer for its own readiness."""
    up = start(processes, site)
    other = processes.folder / "other"
    code, _, err = processes.run("up", **site.environ, PUSHSVC__STORE__DATA_DIR=str(other))
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith(f"pushsvc: server.port: {site.api.url.removeprefix('http://')} is in use")
    assert up.end() == 0


# --- stops and crashes ------------------------------------------------------------------------------


def test_sigterm_ends_it_in_order_and_nothing_is_lost(processes: Processes, site: Site) -> None:
    up = start(processes, site)
    site.simulator.control("latency", seconds=0.2)
    pushes = [site.api.push(apns("ok", *range(n, n + 2000)), lane="bulk", data={"a": "b"}) for n in (0, 2000, 4000)]
    assert up.end() == 0
    assert "stopping" in up.told()
    processes.until_gone("it has stopped")

    site.simulator.control("latency", seconds=0.0)
    up = start(processes, site)
    for push in pushes:
        assert site.api.until_done(push) == {"total": 2000, "sent": 2000}
    record = site.simulator.record()["apns"]
    assert (record["accepted"], record["duplicates"]) == (6000, 0)
    assert up.end() == 0


def test_kill_9_of_the_whole_and_the_next_start_goes_on(processes: Processes, site: Site) -> None:
    up = start(processes, site)
    done = site.api.push(apns("ok", *range(300)) + fcm("ok", *range(300)) + apns("Unregistered", "dead"))
    ended = {"total": 601, "sent": 600, "invalid": 1}
    assert site.api.until_done(done) == ended
    # These wait for their retry, in the store.
    waiting = site.api.push(apns("ServiceUnavailable.6", *range(50)))
    until(lambda: "some wait", lambda: site.api.counts(waiting).get("retrying"))

    os.kill(up.pid, signal.SIGKILL)
    assert up.wait() == -signal.SIGKILL
    # The parts see that their supervisor is gone. The store's server alone stays, for whoever comes next.
    until(
        lambda: f"the parts end by themselves: {processes.living()}",
        lambda: not processes.find("pushsvc") and len(processes.living()) == 1,
    )

    up = start(processes, site)
    assert site.api.counts(done) == ended
    assert site.api.until_done(waiting) == {"total": 50, "sent": 50}
    assert site.simulator.record()["duplicates"] == 0
    assert up.end() == 0


def test_kill_9_of_its_parts_in_flight(processes: Processes, site: Site) -> None:
    """Each part is started again; what was in flight, and nothing else, is sent again, under the same id."""
    up = start(processes, site)
    api, simulator = site.api, site.simulator

    def kill(part: str) -> None:
        """Kill it and wait until another one runs in its place."""
        pid = processes.find_one(part)
        os.kill(pid, signal.SIGKILL)
        assert processes.find_one(part, but=pid) != pid

    before = api.push(apns("ok", *range(500)) + fcm("ok", *range(100)))
    assert api.until_done(before) == {"total": 600, "sent": 600}

    # The provider has taken these, and will not say so before the dispatcher is dead.
    simulator.control("latency", seconds=30.0)
    in_flight = api.push(apns("ok", *range(500, 1200)) + fcm("ok", *range(100, 170)))
    until(lambda: f"770 are in flight: {simulator.record()}", lambda: simulator.record()["accepted"] == 600 + 770)
    kill("pushsvc dispatch")
    simulator.control("latency", seconds=0.0)

    kill("pushsvc feedback")
    kill("pushsvc serve")
    api.until_ready()
    kill("valkey-server")
    api.until_ready()
    assert api.counts(before) == {"total": 600, "sent": 600}

    after = api.push(apns("ok", *range(2000, 2100)) + apns("Unregistered", "dead"))
    assert api.until_done(after) == {"total": 101, "sent": 100, "invalid": 1}
    assert api.until_done(in_flight) == {"total": 770, "sent": 770}
    until(lambda: "the dead token comes up in feedback", lambda: api.call("GET", "/v1/feedback")[1]["items"])

    # A repeat that carried another id would count as a delivery of its own.
    record = simulator.record()
    assert record["distinct"] == 600 + 770 + 100
    assert record["duplicates"] == 770
    assert record["accepted"] == record["distinct"] + 770
    for target in apns("ok", 500, 1199):
        requests = simulator.call("GET", f"/record/apns?token={target['token']}")["requests"]
        assert len({dict(request["headers"])["apns-id"] for request in requests}) == 1
    assert up.end() == 0
