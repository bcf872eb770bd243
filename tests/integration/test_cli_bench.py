"""`pushsvc bench` against a running service: its figures are plausible, and it leaves real providers alone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from pushsvc.cli.output import percentile
from pushsvc.cli.simulator.bench import require_simulator
from pushsvc.errors import ConfigError
from pushsvc.runtime.configuration import load_settings

from .ports import free_ports
from .processes import own_processes


def test_it_loads_the_service_and_reports(tmp_path: Path) -> None:
    with own_processes(tmp_path) as own:
        port = free_ports(2)
        up = own.start("up", "--simulator", PUSHSVC__SERVER__PORT=str(port), PUSHSVC__LIVE__PORT=str(port + 1))
        key = up.until(r"API key of the app `demo`: (\S+)")[1]
        config = str(own.folder / "var" / "playground" / "pushsvc.toml")
        words = ("--config", config, "-n", "350", "--targets", "100", "--callers", "3")
        code, out, err = own.run("bench", *words, "--json", PUSHSVC_KEY=key)
        assert code == 0, err
        reported = json.loads(out)
        assert (reported["deliveries"], reported["posts"]) == (350, 4)
        assert 0 < reported["post_p50"] <= reported["post_p99"]
        assert 0 < reported["delivery_p50"] <= reported["delivery_p99"] <= reported["seconds"] * 1000
        assert reported["sent_rate"] == pytest.approx(350 / reported["seconds"])
        code, out, err = own.run("bench", "--config", config, "-n", "5", "--platform", "fcm", PUSHSVC_KEY=key)
        assert code == 0, err
        assert [line.split("\t")[0] for line in out.splitlines()][1:] == [
            "deliveries",
            "accepted",
            "sent",
            "POST to 202",
            "POST to answer",
        ]
        # A simulator that dies is started again where it was, and that is reported.
        os.kill(own.find_one("pushsvc.lab.simulator"), signal.SIGKILL)
        up.until("the simulator's process had ended and was restarted")
        code, _, err = own.run("bench", "--config", config, "-n", "5", PUSHSVC_KEY=key)
        assert code == 0, err
        assert up.end() == 0


def test_real_providers_are_left_alone() -> None:
    example = Path(__file__).parents[2] / "config" / "example.toml"
    with pytest.raises(ConfigError, match=r"apps\.shop\.apns\.endpoint"):
        require_simulator(load_settings(example, {}))
    with pytest.raises(ConfigError, match=r"^apps: no app has a provider, to which a benchmark sends \(name the"):
        require_simulator(load_settings(None, {"PUSHSVC__APPS__SHOP__LIVE__SECRET": "x" * 32}))


def test_percentiles() -> None:
    assert percentile([0.001, 0.002, 0.003, 0.1], 0.5) == 3.0
    assert percentile([0.001], 0.99) == 1.0
