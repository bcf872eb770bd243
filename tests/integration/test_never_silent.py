"""Whatever stops deliveries shows on `/readyz`, in the metrics that the alerts read, in `pushsvc stats` and on the
stream of the console, each with its remedy, and a Prometheus with the alerts of `config/` fires. One `pushsvc up` with
the simulator, one fault after the other."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ..pages import ROOT
from .harness import apns
from .ports import free_ports
from .processes import Api, Processes, own_processes, until
from .servers import ask, skip_or_fail, suspended

RULES = ROOT / "config" / "prometheus"


class Gone(BaseHTTPRequestHandler):
    """A receiver of webhooks that wants no more."""

    def do_POST(self) -> None:  # the name that http.server calls
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(410)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Town:
    """A running `up --simulator` with a Prometheus beside it, and faults for it."""

    def __init__(self, processes: Processes, api: Api, prometheus: str) -> None:
        self.processes = processes
        self.api = api
        self.prometheus = prometheus
        self.config = processes.folder / "var" / "playground" / "pushsvc.toml"

    def conditions(self, kind: str) -> list[dict[str, Any]]:
        status, ready = self.api.call("GET", "/readyz")
        return [each for each in ready.get("conditions", []) if each["kind"] == kind] if status == 200 else []

    def metrics(self, name: str = "") -> list[str]:
        text: str = self.api.call("GET", "/metrics")[1]
        return [line for line in text.splitlines() if line.startswith(name)]

    def firing(self) -> dict[str, dict[str, str]]:
        """The alerts that fire, with their annotations."""
        with urllib.request.urlopen(f"{self.prometheus}/api/v1/alerts") as answer:
            found = json.load(answer)["data"]["alerts"]
        return {each["labels"]["alertname"]: each["annotations"] for each in found if each["state"] == "firing"}

    def streamed(self) -> dict[str, Any]:
        """The figures that the console gets first."""
        request = urllib.request.Request(
            f"{self.api.url}/console/stream", headers={"Authorization": f"Bearer {self.api.key}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    figures: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                    return figures
        raise AssertionError("the stream ended without an event")

    def stopped(self, part: str) -> AbstractContextManager[None]:
        return suspended(self.processes.find_one(f"{part} --"))

    @contextmanager
    def changed(self, file: Path, change: Callable[[str], str]) -> Iterator[None]:
        before = file.read_text()
        file.write_text(change(before))
        try:
            yield
        finally:
            file.write_text(before)

    def hang(self, part: str) -> AbstractContextManager[None]:
        return self.stopped(part)

    def refused(self) -> AbstractContextManager[None]:
        return self.changed(self.config, lambda text: f"{text}\n[nonsense]\n")

    def control(self, command: str, **fields: Any) -> None:
        """Run a command of the simulator, whose control port issues FCM's tokens as well."""
        section = tomllib.loads(self.config.read_text())["apps"]["demo"]["fcm"]
        account = json.loads((self.config.parent / section["service_account_file"]).read_text())
        url = f"{account['token_uri'].removesuffix('/token')}/control/{command}"
        trust = ssl.create_default_context(cafile=self.config.parent / section["ca_file"])
        request = urllib.request.Request(url, json.dumps(fields).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30, context=trust) as answer:
            assert answer.status == 200

    @contextmanager
    def held(self) -> Iterator[None]:
        self.control("credentials", refuse=True, platform="apns")
        push = self.api.push(apns("ok", "held"))
        try:
            yield
        finally:
            self.control("credentials", refuse=False, platform="apns")
        assert self.api.until_done(push) == {"total": 1, "sent": 1}

    @contextmanager
    def frozen(self) -> Iterator[None]:
        bounds = "[feedback]\nfreeze_suspect_answers = 5\nfreeze_suspect = 0.01\n"
        with self.changed(self.config, lambda text: f"{text}\n{bounds}"):
            self.api.until_done(self.api.push(apns("BadDeviceToken", *range(20))))
            yield

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        with ThreadingHTTPServer(("127.0.0.1", 0), Gone) as receiver:
            threading.Thread(target=receiver.serve_forever, daemon=True).start()
            section = f'[apps.demo.webhook]\nurl = "http://127.0.0.1:{receiver.server_port}"\nallow_private = true\n'
            secret = 'secret = "whsec_' + "c2VjcmV0" * 5 + '"\n'
            with self.changed(self.config, lambda text: f"{text}\n{section}{secret}"):
                self.api.until_done(self.api.push(apns("Unregistered", "gone")))
                yield
            receiver.shutdown()

    def unreadable(self) -> AbstractContextManager[None]:
        (key,) = self.config.parent.glob("simulator/AuthKey_*.p8")
        return self.changed(key, lambda _: "broken")

    @contextmanager
    def emptied(self) -> Iterator[None]:
        (socket,) = self.processes.folder.glob("**/store.sock")
        with self.stopped("jobs"):  # A job that opened the store now would set it up anew, and all others restart.
            ask(socket, "FLUSHALL")
            until(lambda: "it is set up again", lambda: ask(socket, "EXISTS ps:hash_key").startswith(b":1"))
        yield
        code, _, errors = self.processes.run(
            *("keys", "new", "--app", "demo", "--name", "new", "--scope", "push"), PUSHSVC_CONFIG=str(self.config)
        )
        assert code == 0, errors

    @contextmanager
    def full(self) -> Iterator[None]:
        later = datetime.now(UTC) + timedelta(hours=1)
        push = self.api.push(apns("ok", 1), notification={"title": "later"}, send_at=later.isoformat())
        with self.changed(self.config, lambda text: f"{text}\n[queue]\nmax_pending = 1\n"):
            yield
        assert self.api.call("DELETE", f"/v1/push/{push}")[0] == 200


@contextmanager
def prometheus(folder: Path, api: str) -> Iterator[str]:
    """A Prometheus with the configuration and the alerts of `config/`, in front of this API. What has to last for a
    minute has to last for two seconds. Yields its URL."""
    binary = shutil.which("prometheus")
    if binary is None:
        skip_or_fail("prometheus is missing")
    port = free_ports()
    place = api.removeprefix("http://")
    rules = (RULES / "alerts.yml").read_text().replace(" for: 1m\n", " for: 2s\n")
    (folder / "alerts.yml").write_text(rules)
    text = (RULES / "prometheus.yml").read_text().replace("127.0.0.1:8080", place)
    (folder / "prometheus.yml").write_text(text)
    listen, store = f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'series'}"
    command = [binary or "", f"--config.file={folder / 'prometheus.yml'}", listen, store, "--log.level=warn"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with own_processes(tmp_path_factory.mktemp("silent")) as own:
        port = free_ports(2)
        url = f"http://127.0.0.1:{port}"
        up = own.start("up", "--simulator", PUSHSVC__SERVER__PORT=str(port), PUSHSVC__LIVE__PORT=str(port + 1))
        with prometheus(tmp_path_factory.mktemp("prometheus"), url) as alerts:
            key = up.until(r"API key of the app `demo`: (\S+)")[1]
            town = Town(own, Api(url, key), alerts)
            until(lambda: f"every part lives; {town.conditions('unserved')}", lambda: not town.conditions("unserved"))
            until(lambda: f"no alert fires of {town.firing()}", lambda: not town.firing())
            yield town
        assert up.end() == 0


class Fault(NamedTuple):
    """A fault, and where it shows."""

    inject: Callable[[Town], AbstractContextManager[None]]
    kind: str
    what: str
    metric: str
    alert: str


def hang(part: str, what: str) -> Fault:
    metric = f'pushsvc_workers{{part="{part}"}} 0.0'
    return Fault(lambda town: town.hang(part), "unserved", what, metric, "PushsvcNoWorkers")


def shown(kind: str, severity: str, app: str = "") -> str:
    return f'pushsvc_conditions{{app="{app}",kind="{kind}",severity="{severity}"}} 1.0'


FAULTS = {
    "no dispatcher lives or one hangs": hang("dispatch", "demo/apns"),
    "feedback hangs": hang("feedback", "feedback"),
    "jobs hang": hang("jobs", "jobs"),
    "the gateway is away": hang("live", "live"),
    "a reload is refused": Fault(
        *(Town.refused, "reload", "configuration", "pushsvc_config_last_reload_successful 0.0"),
        "PushsvcReloadRefused",
    ),
    "a credential cannot be read": Fault(
        *(Town.unreadable, "account", "demo/apns", shown("account", "warning", "demo")), "PushsvcAccountKept"
    ),
    "the queue is full": Fault(Town.full, "full", "queue", shown("full", "critical"), "PushsvcQueueFull"),
    "a route is held": Fault(*(Town.held, "held", "demo/apns", shown("held", "critical", "demo")), "PushsvcRouteHeld"),
    "pruning is frozen": Fault(
        *(Town.frozen, "frozen", "demo/apns", 'pushsvc_pruning_frozen{app="demo",platform="apns"} 1.0'),
        "PushsvcPruningFrozen",
    ),
    "a webhook is off": Fault(
        *(Town.switched_off, "webhook", "demo", shown("webhook", "warning", "demo")), "PushsvcWebhook"
    ),
    "Redis came back empty": Fault(Town.emptied, "emptied", "redis", shown("emptied", "critical"), "PushsvcEmptied"),
}


COMMANDED = {
    *("no dispatcher lives or one hangs", "the queue is full", "a route is held", "pruning is frozen"),
    *("a webhook is off", "Redis came back empty"),
}
"""One fault of each kind that `pushsvc stats` shows by itself: a process for each other one would show the same."""


@pytest.mark.parametrize("fault", FAULTS)
def test_it_shows_with_its_remedy(town: Town, fault: str) -> None:
    inject, kind, what, metric, alert = FAULTS[fault]
    with inject(town):
        began = time.monotonic()
        found = until(lambda: f"{kind} of {what}", lambda: [c for c in town.conditions(kind) if c["what"] == what])
        seconds = [time.monotonic() - began]
        until(lambda: f"{metric} is among {town.metrics('pushsvc_conditions')}", lambda: metric in town.metrics())
        seconds.append(time.monotonic() - began)
        annotations = until(lambda: f"{alert} fires; so far {town.firing()}", lambda: town.firing().get(alert))
        seconds.append(time.monotonic() - began)
        print("{}: {:.1f} s, metric {:.1f} s, alert {:.1f} s".format(fault, *seconds))
        (condition,) = found
        assert condition["cause"]
        assert condition["remedy"]
        assert condition["since"]
        assert annotations["console"].startswith(f"{town.api.url}/console/")
        assert "error" not in annotations["summary"]
        for figures in (town.streamed(), town.api.call("GET", "/v1/admin/stats")[1]):
            causes = [each for each in figures["verdict"]["causes"] if each["kind"] == kind and what in each["what"]]
            assert [each["remedy"] for each in causes] == [condition["remedy"]]
        if fault in COMMANDED:
            code, out, _ = town.processes.run("stats", PUSHSVC_CONFIG=str(town.config))
            assert (code, condition["remedy"] in out) == (0, True), out
    until(lambda: f"{kind} of {what} is over", lambda: not town.conditions(kind) or None)
    until(lambda: f"{alert} is over", lambda: alert not in town.firing())


def test_a_store_that_is_silent_shows_by_its_own_alert(town: Town) -> None:
    """The scraper still gets its answer in time: otherwise the service itself would seem to be down."""
    (socket,) = town.processes.folder.glob("**/store.sock")
    pid = int(ask(socket, "INFO server").partition(b"process_id:")[2].split()[0])
    with suspended(pid):
        began = time.monotonic()
        seconds = []
        for what, look in (
            ("/readyz", lambda: town.api.call("GET", "/readyz")[0] == 503),
            ("metric", lambda: "pushsvc_redis_up 0.0" in town.metrics()),
            ("alert", lambda: "PushsvcRedisAway" in town.firing()),
        ):
            until(lambda what=what: f"{what} shows it; firing {town.firing()}", lambda look=look: look() or None)  # type: ignore[misc]  # bound for the loop
            seconds.append(time.monotonic() - began)
        print("the store is silent: {:.1f} s, metric {:.1f} s, alert {:.1f} s".format(*seconds))
        _, problem = town.api.call("GET", "/readyz")
        assert problem["errors"][0]["path"] == "redis"
    until(lambda: "it is ready again", lambda: town.api.call("GET", "/readyz")[0] == 200 or None)
    until(lambda: f"the alert is over of {town.firing()}", lambda: "PushsvcRedisAway" not in town.firing() or None)
