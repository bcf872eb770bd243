"""`pushsvc up` as real processes: used from a shell, stopped, killed part by part, started again. Nothing is lost."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rich.console import Console

from pushsvc import cli
from pushsvc.cli.service.up import example, message_printer, playground_folder
from pushsvc.cli.state import local_url
from pushsvc.errors import ABSENT_REDIS
from pushsvc.lab.simulator import apns_token
from pushsvc.runtime.configuration import load_settings
from pushsvc.settings.loading import SIMULATED
from pushsvc.settings.processes import cores

from ..unit.test_systemd import Heard
from .harness import apns, fcm
from .ports import free_ports
from .processes import Api, Command, Processes, Site, own_processes, until
from .servers import running_server

LISTENS = r"pushsvc listens on (\S+)"


SERVE, DISPATCH = ("pushsvc serve", "pushsvc dispatch") if cores() > 1 else ("pushsvc serve --dispatch",) * 2
"""The processes that serve and that dispatch, which are one on a single core."""


def start(processes: Processes, site: Site, **environ: str) -> Command:
    """`pushsvc up`, ready. What a dead dispatcher had taken is free after 3 s."""
    up = processes.start("up", **site.environ, PUSHSVC__DISPATCH__TAKEOVER="3", **environ)
    assert up.until(LISTENS)[1] == site.api.url
    assert site.api.call("GET", "/readyz")[0] == 200
    return up


# --- play: `up --simulator` -------------------------------------------------------------------------


@dataclass
class Played:
    """A running `up --simulator`."""

    processes: Processes
    command: Command
    api: Api

    @property
    def folder(self) -> Path:
        return self.processes.folder / "var" / "playground"


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    with own_processes(tmp_path_factory.mktemp("played")) as own:
        port = free_ports(2)
        ports = {"PUSHSVC__SERVER__PORT": str(port), "PUSHSVC__LIVE__PORT": str(port + 1)}
        up = own.start("up", "--simulator", **ports, PUSHSVC_SERVER__HOST="192.0.2.1")
        key = up.until(r"API key of the app `demo`: (\S+)")[1]
        url = up.until(LISTENS)[1]
        assert url == f"http://127.0.0.1:{port}"
        yield Played(own, up, Api(url, key))
        assert up.end() == 0
        assert "stopping" in up.output()


@pytest.fixture
def shell(
    played: Played, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Calls the command line in this process, with the environment that a user of the playground would set."""
    monkeypatch.setenv("PUSHSVC_CONFIG", str(played.folder / "pushsvc.toml"))
    monkeypatch.setenv("PUSHSVC_KEY", played.api.key)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_one_command_serves(played: Played) -> None:
    api = played.api
    assert f"\n  console   {api.url}/console\n" in played.command.output()
    (ignored,) = [line for line in played.command.output().splitlines() if "variable_ignored" in line]
    assert "PUSHSVC__SERVER__HOST" in ignored
    assert api.call("GET", "/console")[0] == 200
    assert api.call("GET", "/healthz")[0] == 200
    assert api.call("GET", "/readyz")[0] == 200
    push = api.push(apns("ok", 1) + fcm("ok", 1) + apns("Unregistered", 2))
    assert api.until_done(push) == {"total": 3, "sent": 2, "invalid": 1}
    # One scrape shows every part.
    text = until(
        lambda: "the dispatcher's figures",
        lambda: (t := api.call("GET", "/metrics")[1]) and "_deliveries_total{" in t and t,
    )
    assert "pushsvc_deliveries_accepted_total{" in text
    assert "\npushsvc_redis_errors_total 0.0\n" in text  # of lanes, receipts and devices that there were none of yet
    assert Api(api.url, "wrong").call("GET", f"/v1/push/{push}")[0] == 401
    # The parts were forked, and share the memory of what was imported before.
    for part in (SERVE, DISPATCH, "pushsvc jobs --feedback", "pushsvc live"):
        pid = played.processes.find_one(part)
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        shared = re.search(r"^Shared_Dirty: +(\d+) kB$", rollup, re.MULTILINE)
        assert shared is not None
        assert int(shared[1]) > 10_000, part


def test_its_simulator_is_disturbed_by_the_commands_that_it_prints(played: Played) -> None:
    stall, listing, calm = [line for line in played.command.output().splitlines() if "/control" in line]

    def answer_of(command: str) -> dict[str, Any]:
        run = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
        answer: dict[str, Any] = json.loads(run.stdout)
        return answer

    for command, stalled in ((stall, True), (calm, False)):
        assert "touched" in answer_of(command)
        state = answer_of(listing)
        assert (state["apns"]["stalled"], state["fcm"]["stalled"]) == (stalled, False)
    assert state["commands"]["stall"] == '{"on": true}'


def test_the_shell_talks_to_it(played: Played, shell: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = played.processes.run(
        "send", "--apns", apns_token("ok", "3"), "--title", "x", "--follow",
        PUSHSVC_URL=played.api.url, PUSHSVC_KEY=played.api.key,
    )  # fmt: skip
    assert (code, err) == (0, "")
    sent, *_, last = out.splitlines()
    assert last == "done: 1 of 1: 1 sent"
    code, out, _ = shell("status", sent, "--json")
    assert (code, json.loads(out)["counts"]["sent"]) == (0, 1)
    code, out, _ = shell("status", sent)
    assert (code, out.splitlines()[:2]) == (0, [f"{sent}  done", "1 of 1: 1 sent"])

    # One that the provider refuses again and again waits for its retry: there is something left to cancel.
    code, out, _ = shell("send", "--apns", apns_token("InternalServerError", "4"), "--title", "x", "--json")
    waiting = json.loads(out)["id"]
    code, out, _ = shell("cancel", waiting, "--json")
    assert (code, json.loads(out)["state"]) == (0, "cancelled")
    code, out, _ = shell("cancel", waiting)
    assert (code, out.splitlines()[0]) == (0, f"{waiting}  cancelled")
    code, _, err = shell("cancel", sent)
    assert code == 1
    assert err.startswith("pushsvc: ")
    assert err.endswith("(409)\n")

    code, made, _ = shell("keys", "new", "--app", "demo", "--name", "laptop")
    assert code == 0
    assert Api(played.api.url, made.strip()).call("GET", f"/v1/push/{sent}")[0] == 200
    code, out, _ = shell("keys", "list", "--json")
    assert (code, [row["name"] for row in json.loads(out)["items"]]) == (0, ["demo", "laptop"])
    code, out, _ = shell("keys", "revoke", "--app", "demo", "--name", "laptop")
    assert code == 0
    assert [line.split("\t")[1] for line in shell("keys", "list")[1].splitlines()] == ["name", "demo"]
    code, out, _ = shell("check", "--json")
    assert (code, json.loads(out)["ok"]) == (0, True)
    code, out, _ = shell("check")
    assert code == 0
    assert f"embedded under {played.folder / 'store'}" in out
    assert played.api.key not in out
    assert played.api.until_done(waiting) == {"total": 1, "cancelled": 1}


def test_a_second_one_is_refused_and_leaves_the_first_alone(
    played: Played, shell: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [played.folder / "pushsvc.toml", played.folder / "simulator" / "service-account.json"]
    before = [file.read_bytes() for file in files]

    code, _, err = played.processes.run("up", "--simulator", PUSHSVC__SERVER__PORT=str(free_ports()))
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith("pushsvc: ")
    assert str(played.folder) in line
    assert f"process {played.command.pid}" in line
    assert "store.data_dir" in line
    assert [file.read_bytes() for file in files] == before

    # The same without the simulator: at the ports of the first one, at the store itself, and at the port alone, whose
    # answers would pass for its own.
    code, _, err = shell("up")
    assert (code, f"process {played.command.pid}" in err) == (1, True)
    port = free_ports(2)
    monkeypatch.setenv("PUSHSVC__SERVER__PORT", str(port))
    monkeypatch.setenv("PUSHSVC__LIVE__PORT", str(port + 1))
    code, _, err = shell("up")
    assert code == 1
    (line,) = err.splitlines()
    assert str(played.folder / "store") in line
    assert f"process {played.command.pid}" in line

    monkeypatch.delenv("PUSHSVC__SERVER__PORT")
    monkeypatch.setenv("PUSHSVC__STORE__DATA_DIR", str(played.processes.folder / "other"))
    code, _, err = shell("up")
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith(f"pushsvc: server.port: {played.api.url.removeprefix('http://')} is in use")
    assert not (played.processes.folder / "other").exists()

    api = played.api
    assert api.until_done(api.push(apns("ok", 5) + fcm("ok", 5))) == {"total": 2, "sent": 2}


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:8080"),
        ("::1", "http://[::1]:8080"),
        ("push.example.com", "http://push.example.com:8080"),
    ],
)
def test_where_it_is_reached_from_this_machine(host: str, url: str) -> None:
    assert local_url(host, 8080) == url


def test_a_playground_goes_on_where_its_own_file_is_the_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "var" / "playground"
    folder.mkdir(parents=True)
    file = folder / "pushsvc.toml"
    file.write_text(f'{SIMULATED}, and so on.\n[store]\ndata_dir = "{folder / "store"}"\n')
    assert playground_folder(load_settings(file, {})) == folder
    elsewhere = load_settings(file, {"PUSHSVC__STORE__DATA_DIR": str(tmp_path)})
    assert playground_folder(elsewhere) == tmp_path / "playground"
    own = tmp_path / "own.toml"
    own.write_text(f'[store]\ndata_dir = "{tmp_path / "data"}"\n')
    assert playground_folder(load_settings(own, {})) == tmp_path / "data" / "playground"


def test_the_example_can_be_copied_from_a_narrow_terminal() -> None:
    file = io.StringIO()
    text = example("http://127.0.0.1:8080", "pk_a-key-that-is-as-long-as-a-real-one")
    message_printer(Console(file=file, width=40, force_terminal=True))(text)
    assert re.sub(r"\x1b\[[\d;]*m", "", file.getvalue()) == text + "\n"
    assert max(map(len, text.splitlines())) <= 80
    (body,) = [word for word in shlex.split(text) if word.startswith("{")]
    assert json.loads(body)["to"]["tokens"][0]["platform"] == "apns"


# --- idle -------------------------------------------------------------------------------------------

WAKES = {"pushsvc up": 2, SERVE: 6, DISPATCH: 9, "pushsvc jobs": 14}
"""How often a second the processes of an idle service may wake up: about twice as often as they do."""
COMMANDS = 90
"""How many commands a second they may make the store run, those of its scripts included."""
SPAN = 5.0
"""Seconds in which both are counted."""


def test_an_idle_service_wakes_up_seldom(processes: Processes, site: Site) -> None:
    up = processes.start("up", **site.environ)
    up.until(LISTENS)
    pids = {name: processes.find_one(name) for name in WAKES}
    store = Redis(unix_socket_path=str(processes.folder / "store" / "store.sock"))

    def woken(pid: int) -> int:
        statuses = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/status")]
        return sum(
            int(each) for each in re.findall(r"^voluntary_ctxt_switches:\t(\d+)", "\n".join(statuses), re.MULTILINE)
        )

    def counted() -> dict[str, int]:
        stats: Any = store.info("commandstats")
        return {name: woken(pid) for name, pid in pids.items()} | {
            "commands": sum(each["calls"] for each in stats.values())
        }

    seen: dict[str, float] = {}
    bounds = {**WAKES, "commands": COMMANDS}

    def rests() -> bool:
        before = counted()
        time.sleep(SPAN)
        seen.update({name: (count - before[name]) / SPAN for name, count in counted().items()})
        return all(rate <= bounds[name] for name, rate in seen.items())

    with closing(store):
        until(lambda: f"what the start has left behind is over: {seen}", rests)
    assert up.end() == 0


# --- a Redis that is away at the start ----------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("up",), ("dispatch", "--processes", "2")], ids=["up", "dispatch"])
def test_redis_is_waited_for_with_one_line_and_the_parts_start_once_it_is_there(
    arguments: tuple[str, ...], processes: Processes, site: Site
) -> None:
    port = free_ports()
    url = f"redis://127.0.0.1:{port}/0"
    waiting = processes.start(*arguments, **site.environ, PUSHSVC__REDIS__URL=url)
    waiting.until("redis_away")
    assert waiting.end() == 0
    (line,) = waiting.output().splitlines()
    logged = json.loads(line)
    assert logged["at"] == url
    assert logged["error"] == f"Redis is not available: 127.0.0.1:{port}: Connection refused"
    assert logged["what"] == "waits for Redis, and starts the parts once it answers"
    assert logged["remedy"] == ABSENT_REDIS

    goes_on = processes.start(*arguments, **site.environ, PUSHSVC__REDIS__URL=url)
    goes_on.until("redis_away")
    with running_server("redis", options=["--port", str(port)]):
        goes_on.until("redis_back")
        goes_on.until(LISTENS if arguments == ("up",) else '"ready"')
        assert goes_on.output().count("redis_away") == 1
        assert "child_ended" not in goes_on.output()
        assert goes_on.end() == 0


def test_redis_is_not_waited_for_where_it_is_to_show_that_it_flushes(processes: Processes, site: Site) -> None:
    port = free_ports()
    dead = {"PUSHSVC__REDIS__URL": f"redis://127.0.0.1:{port}/0", "PUSHSVC__QUEUE__DURABILITY": "fsync"}
    code, _, err = processes.run("up", **site.environ, **dead)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"pushsvc: Redis is not available: 127.0.0.1:{port}: Connection refused (is Redis running")


# --- two with one data folder -----------------------------------------------------------------------


def test_another_one_leaves_the_metrics_of_a_running_one_alone(
    processes: Processes, site: Site, tmp_path: Path
) -> None:
    folders = tmp_path / "folders"
    folders.mkdir()

    def left() -> set[str]:
        return {each.name for each in folders.glob("pushsvc-metrics-*")}

    with running_server("redis", tcp=True) as server:
        shared = {"PUSHSVC__REDIS__URL": server.url, "TMPDIR": str(folders)}
        first = start(processes, site, **shared)
        site.api.until_done(site.api.push(apns("ok", *range(7))))
        own = left()
        assert len(own) == 2  # of its parts, and of the process that started them
        accepted = re.compile(r"^pushsvc_deliveries_accepted_total{.*} 7.0$", re.MULTILINE)
        assert accepted.search(site.api.call("GET", "/metrics")[1])

        elsewhere = {**site.environ, **shared, "PUSHSVC__SERVER__PORT": str(free_ports())}
        second = processes.start("up", **elsewhere)
        second.until(LISTENS)
        assert accepted.search(site.api.call("GET", "/metrics")[1])
        killed = left() - own
        assert len(killed) == 2
        os.kill(second.pid, signal.SIGKILL)
        second.wait()
        until(lambda: "the parts of the second end", lambda: len(processes.find("pushsvc ")) == 4)
        assert left() == own | killed

        third = processes.start("up", **elsewhere)
        third.until(LISTENS)
        assert len(left()) == 4
        assert not left() & killed
        assert accepted.search(site.api.call("GET", "/metrics")[1])
        assert (third.end(), first.end()) == (0, 0)
        assert left() == set()


# --- stops and crashes ------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["every_core", "one_core"])
def on_cores(request: pytest.FixtureRequest) -> Iterator[set[int]]:
    """Let what the test starts have every core of this machine, or one of them. Yields them."""
    every = os.sched_getaffinity(0)
    own = {min(every)} if request.param else every
    os.sched_setaffinity(0, own)
    yield own
    os.sched_setaffinity(0, every)


def test_stopped_or_killed_it_loses_nothing_and_the_next_start_goes_on(
    processes: Processes, site: Site, tmp_path: Path, on_cores: set[int]
) -> None:
    systemd = Heard(str(tmp_path / "notify"))
    up = start(processes, site, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="30000000")
    assert bool(processes.find("pushsvc serve --dispatch")) == (min(len(on_cores), cores()) == 1)
    heard = systemd.all()
    assert (heard.count("READY=1"), "WATCHDOG=1" in heard, "STOPPING=1" in heard) == (1, True, False)
    os.kill(up.pid, signal.SIGHUP)
    reloaded: list[str] = []

    def has_reloaded() -> bool:
        reloaded.extend(systemd.all())
        return "READY=1" in reloaded

    until(lambda: f"a reload in {reloaded}", has_reloaded)
    assert [text.partition("=")[0] for text in reloaded if text != "WATCHDOG=1"] == ["RELOADING", "READY"]
    ended = site.api.push(apns("ok", *range(300)) + fcm("ok", *range(300)) + apns("Unregistered", "dead"))
    assert site.api.until_done(ended) == {"total": 601, "sent": 600, "invalid": 1}
    site.simulator.control("latency", seconds=0.2)
    pushes = [site.api.push(apns("ok", *range(n, n + 2000)), lane="bulk", data={"a": "b"}) for n in (1000, 3000, 5000)]
    systemd.all()
    assert up.end() == 0
    assert [text for text in systemd.all() if text != "WATCHDOG=1"] == ["STOPPING=1"]
    systemd.socket.close()
    processes.until_gone("it has been stopped")
    site.simulator.control("latency", seconds=0.0)

    up = start(processes, site)
    for push in pushes:
        assert site.api.until_done(push) == {"total": 2000, "sent": 2000}
    # These wait for their retry, in the store.
    site.simulator.control("unavailable", platform="apns")
    waiting = site.api.push(apns("ok", *range(9000, 9050)))
    until(lambda: "some wait", lambda: site.api.counts(waiting).get("retrying"))
    os.kill(up.pid, signal.SIGKILL)
    assert up.wait() == -signal.SIGKILL
    # The parts notice that their supervisor is gone. Only the store's server stays, for the next owner.
    until(
        lambda: f"the parts end by themselves: {processes.living()}",
        lambda: not processes.find("pushsvc ") and len(processes.living()) == 1,
    )

    up = start(processes, site)
    assert site.api.counts(ended) == {"total": 601, "sent": 600, "invalid": 1}
    site.simulator.control("unavailable", on=False)
    assert site.api.until_done(waiting) == {"total": 50, "sent": 50}
    record = site.simulator.record()
    assert (record["accepted"], record["duplicates"]) == (600 + 6000 + 50, 0)
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
    tokens = apns("ok", *range(500, 1200)) + fcm("ok", *range(100, 170))
    in_flight = api.push(tokens, lane="urgent", notification={"title": "hello"})
    until(lambda: f"770 are in flight: {simulator.record()}", lambda: simulator.record()["accepted"] == 600 + 770)
    kill(DISPATCH)
    simulator.control("latency", seconds=0.0)

    kill("pushsvc jobs --feedback")
    kill(SERVE)
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
