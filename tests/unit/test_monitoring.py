"""The rules and dashboards of `config/` ask for metrics and labels that exist; each alert has its row in the guide."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pushsvc.ports.conditions import SEVERITIES

from ..pages import ROOT
from .test_readme import TABLES, _names
from .test_telemetry_metrics import defined

PROMETHEUS = ROOT / "config" / "prometheus"
BOARDS = sorted((ROOT / "config" / "grafana").glob("*.json"))
ALERTS = (PROMETHEUS / "alerts.yml").read_text(encoding="utf-8")

ALSO = {"up": {"job", "instance"}}
"""Metrics of Prometheus itself."""
_METRIC = re.compile(r"\b(pushsvc_\w+|up)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"[^"]*"')
_BY = re.compile(r"\bby \(([^)]*)\)")
SHOWN_IN = {"redis": "PushsvcRedisAway", "held": "PushsvcRouteHeld", "frozen": "PushsvcPruningFrozen"} | {
    "reload": "PushsvcReloadRefused"
}
"""The alerts of kinds of conditions that have a metric of their own."""


def series() -> dict[str, set[str]]:
    """Every series with its labels."""
    found = dict(ALSO)
    for name, (kind, labels) in defined().items():
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        for suffix in suffixes:
            found[name + suffix] = {*labels, *({"le"} if suffix == "_bucket" else ())}
    return found


def rules() -> list[tuple[str, str, str]]:
    """Every alert with its query and severity."""
    found = re.findall(
        r'- alert: (\w+)\n +expr: (".*")\n(?: +for: \w+\n)? +labels:\n +severity: (\w+)\n +annotations:\n'
        r" +summary: (?:.*)\n +remedy: (?:.*)\n",
        ALERTS,
    )
    assert len(found) == ALERTS.count("- alert: ")
    return [(name, json.loads(expr), severity) for name, expr, severity in found]


def panels() -> Iterator[tuple[str, str]]:
    for board in BOARDS:
        document: dict[str, Any] = json.loads(board.read_text(encoding="utf-8"))
        for panel in document["panels"]:
            for target in panel["targets"]:
                yield f"{document['title']}: {panel['title']}", target["expr"]


QUERIES = [*((name, expr) for name, expr, _ in rules()), *panels()]


def test_there_is_a_dashboard_of_each_kind() -> None:
    assert [board.stem for board in BOARDS] == ["pushsvc-live", "pushsvc-providers", "pushsvc-service"]


@pytest.mark.parametrize(
    ("name", "expr"), QUERIES, ids=[f"{name} {number}" for number, (name, _) in enumerate(QUERIES)]
)
def test_a_query_asks_for_what_exists(name: str, expr: str) -> None:
    known = series()
    asked = [(metric, _MATCHER.findall(matchers or "")) for metric, matchers in _METRIC.findall(expr)]
    assert asked, name
    for metric, labels in asked:
        assert metric in known, f"{name}: {metric}"
        assert set(labels) <= known[metric], f"{name}: {metric}"
    everything = set().union(*(known[metric] for metric, _ in asked))
    for group in _BY.findall(expr):
        assert {label.strip() for label in group.split(",")} <= everything, f"{name}: {group}"


def test_each_alert_has_its_row() -> None:
    assert _names("alert") == [name for name, _, _ in rules()]
    assert [row[1] for row in TABLES["alert"]] == [severity for _, _, severity in rules()]


def test_each_condition_has_its_alert() -> None:
    alerts = {name: (expr, severity) for name, expr, severity in rules()}
    for kind, severity in SEVERITIES.items():
        own = [found for expr, found in alerts.values() if f'kind="{kind}"' in expr]
        own += [alerts[SHOWN_IN[kind]][1]] if kind in SHOWN_IN else []
        assert own == [severity], kind


def test_promtool_takes_every_query(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert "CI" not in os.environ, "promtool is missing"
        pytest.skip("promtool is missing")
    rows = [f"      - record: q{at}\n        expr: {json.dumps(expr)}\n" for at, (_, expr) in enumerate(QUERIES)]
    file = tmp_path / "queries.yml"
    file.write_text(f"groups:\n  - name: queries\n    rules:\n{''.join(rows)}")
    for what in (("rules", str(file)), ("config", str(PROMETHEUS / "prometheus.yml"))):
        done = subprocess.run([promtool, "check", *what], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
