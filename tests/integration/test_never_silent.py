"""Whatever stops deliveries shows on `/readyz`, in the metrics that the alerts read, and in `pushsvc stats`, each with
its remedy. One `pushsvc up` with the simulator, one fault after the other."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from .harness import apns
from .ports import free_ports
from .processes import Api, Processes, own_processes, until


class Town:
    """A running `up --simulator`, and faults for it."""

    def __init__(self, processes: Processes, api: Api) -> None:
        self.processes = processes
        self.api = api
        self.config = processes.folder / "var" / "playground" / "pushsvc.toml"

    def conditions(self, kind: str) -> list[dict[str, Any]]:
        status, ready = self.api.call("GET", "/readyz")
        return [each for each in ready.get("conditions", []) if each["kind"] == kind] if status == 200 else []

    def metrics(self) -> list[str]:
        text: str = self.api.call("GET", "/metrics")[1]
        return text.splitlines()

    @contextmanager
    def stopped(self, part: str) -> Iterator[None]:
        pid = self.processes.find_one(f"{part} --processes 1")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def changed(self, file: Path, change: Callable[[str], str]) -> Iterator[None]:
        before = file.read_text()
        file.write_text(change(before))
        try:
            yield
        finally:
            file.write_text(before)

    def hang(self, part: str) -> Any:
        return self.stopped(part)

    def refused(self) -> Any:
        return self.changed(self.config, lambda text: f"{text}\n[nonsense]\n")

    def unreadable(self) -> Any:
        (key,) = self.config.parent.glob("simulator/AuthKey_*.p8")
        return self.changed(key, lambda _: "broken")

    @contextmanager
    def full(self) -> Iterator[None]:
        later = datetime.now(UTC) + timedelta(hours=1)
        push = self.api.push(apns("ok", 1), notification={"title": "later"}, send_at=later.isoformat())
        with self.changed(self.config, lambda text: f"{text}\n[queue]\nmax_pending = 1\n"):
            yield
        assert self.api.call("DELETE", f"/v1/push/{push}")[0] == 200


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with own_processes(tmp_path_factory.mktemp("silent")) as own:
        port = free_ports(2)
        up = own.start("up", "--simulator", PUSHSVC__SERVER__PORT=str(port), PUSHSVC__LIVE__PORT=str(port + 1))
        key = up.until(r"API key of the app `demo`: (\S+)")[1]
        yield Town(own, Api(f"http://127.0.0.1:{port}", key))
        assert up.end() == 0


FAULTS: dict[str, tuple[Callable[[Town], Any], str, str, str]] = {
    "no dispatcher lives or one hangs": (
        lambda town: town.hang("dispatch"),
        "unserved",
        "demo/apns",
        'pushsvc_workers{part="dispatch"} 0.0',
    ),
    "feedback hangs": (
        lambda town: town.hang("feedback"),
        "unserved",
        "feedback",
        'pushsvc_workers{part="feedback"} 0.0',
    ),
    "jobs hang": (lambda town: town.hang("jobs"), "unserved", "jobs", 'pushsvc_workers{part="jobs"} 0.0'),
    "the gateway is away": (lambda town: town.hang("live"), "unserved", "live", 'pushsvc_workers{part="live"} 0.0'),
    "a reload is refused": (Town.refused, "reload", "configuration", "pushsvc_config_last_reload_successful 0.0"),
    "a credential cannot be read": (
        Town.unreadable,
        "account",
        "demo/apns",
        'pushsvc_conditions{app="demo",kind="account",severity="warning"} 1.0',
    ),
    "the queue is full": (Town.full, "full", "queue", 'pushsvc_conditions{app="",kind="full",severity="critical"} 1.0'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_shows_with_its_remedy(town: Town, fault: str) -> None:
    inject, kind, what, metric = FAULTS[fault]
    with inject(town):
        began = time.monotonic()
        found = until(lambda: f"{kind} of {what}", lambda: [c for c in town.conditions(kind) if c["what"] == what])
        seconds = time.monotonic() - began
        until(lambda: metric, lambda: metric in town.metrics())
        print(f"{fault}: {seconds:.1f} s, metric {time.monotonic() - began:.1f} s")
        (condition,) = found
        assert condition["cause"]
        assert condition["remedy"]
        assert condition["since"]
        if kind in ("unserved", "full"):
            code, out, _ = town.processes.run("stats", PUSHSVC_CONFIG=str(town.config))
            assert (code, condition["cause"] in out) == (0, True), out
    until(lambda: f"{kind} of {what} is over", lambda: not town.conditions(kind) or None)
