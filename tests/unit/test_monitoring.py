"""The rules and dashboards of `config/` ask for metrics and labels that exist; each alert fires for its fault, and has
its row in the guide and links to it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pushsvc.api import guide
from pushsvc.ports.conditions import SEVERITIES
from pushsvc.ports.pushes import REFUSED_FOR

from ..pages import ROOT
from ..sources import PACKAGE
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


class Fires(NamedTuple):
    """Series that are well for a minute and then are not, as promtool writes them, and the alert that fires then."""

    series: dict[str, str]
    labels: str = ""
    """The alert's own, other than its name and severity."""
    after: str = "20m"


def fires(series: str, values: str, *by: str, after: str = "20m", **more: str) -> Fires:
    own = dict(_MATCHER_PAIR.findall(series))
    return Fires({series: values, **more}, "".join(f', {name}="{own[name]}"' for name in by), after)


def condition(kind: str, app: str = "") -> Fires:
    return fires(f'pushsvc_conditions{{app="{app}",kind="{kind}"}}', BEGINS, *(("app",) if app else ()), after="61m")


_MATCHER_PAIR = re.compile(r'(\w+)="([^"]*)"')
BEGINS, ENDS, GROWS = "0x5 1x400", "1x5 0x400", "0x5 10+10x400"
"""A value that becomes 1, also a counter of a single event, one that becomes 0, and a counter that begins to count."""
ROUTE = '{app="shop",platform="apns"}'
FIRES = {
    "PushsvcDown": fires('up{job="pushsvc",instance="a:8080"}', ENDS, "job", "instance"),
    "PushsvcRedisAway": fires("pushsvc_redis_up", ENDS),
    "PushsvcEmptied": condition("emptied"),
    "PushsvcMemoryFull": condition("memory"),
    "PushsvcRouteHeld": fires(
        'pushsvc_route_held{app="shop",platform="fcm",reason="timeout"}', BEGINS, "app", "platform", "reason"
    ),
    "PushsvcUnserved": condition("unserved"),
    "PushsvcNoWorkers": fires('pushsvc_workers{part="dispatch"}', ENDS, "part"),
    "PushsvcQueueFull": condition("full", "shop"),
    "PushsvcAudienceFails": condition("audience", "shop"),
    "PushsvcQueueFilling": fires("pushsvc_queue_counted", "1x5 81x400", pushsvc_queue_limit="100x400"),
    "PushsvcQueueOld": fires('pushsvc_oldest_pending_age_seconds{lane="bulk"}', "0x5 301x400", "lane"),
    "PushsvcProcessSilent": condition("silent"),
    "PushsvcChildRestarts": fires('pushsvc_child_restarts_total{part="jobs"}', GROWS, "part"),
    "PushsvcPruningFrozen": fires(f"pushsvc_pruning_frozen{ROUTE}", BEGINS, "app", "platform"),
    "PushsvcWebhook": condition("webhook", "shop"),
    "PushsvcWebhookLag": fires('pushsvc_webhook_lag_seconds{app="shop"}', "0x5 901x400", "app"),
    "PushsvcReloadRefused": fires("pushsvc_config_last_reload_successful", ENDS),
    "PushsvcRestartNeeded": condition("restart")._replace(after="62m"),
    "PushsvcAccountKept": condition("account", "shop"),
    "PushsvcQuarantine": condition("quarantine", "shop"),
    "PushsvcCredentialEnds": fires(
        f"pushsvc_credential_expiry_timestamp_seconds{ROUTE}", "3000000x5 2000000x400", "app", "platform"
    ),
    "PushsvcServerErrors": fires(
        'pushsvc_http_requests_total{method="POST",route="/v1/push",code="503"}', GROWS, "method", "route"
    ),
    "PushsvcDeliveriesFail": fires(
        'pushsvc_deliveries_total{app="shop",platform="apns",outcome="failed"}',
        GROWS,
        "app",
        "platform",
        **{'pushsvc_deliveries_total{app="shop",platform="apns",outcome="sent"}': "0+50x400"},
    ),
    "PushsvcDeadLettersDropped": fires('pushsvc_dead_letters_dropped_total{app="shop"}', BEGINS, "app"),
    "PushsvcReceiptsWait": fires('pushsvc_receipts_waiting{app="shop"}', "0x5 100001x400", "app"),
    "PushsvcFeedbackGap": fires('pushsvc_feedback_gaps_total{app="shop",reader="api"}', BEGINS, "app", "reader"),
    "PushsvcUnreadable": fires(
        'pushsvc_unreadable_total{app="shop",record="delivery"}', BEGINS, "app", "record", after="10m"
    ),
    "PushsvcCleanupOld": fires("pushsvc_cleanup_last_end_timestamp_seconds", "1x20000", after="49h"),
    "PushsvcLiveLost": fires('pushsvc_live_recoveries_total{app="shop",result="lost"}', GROWS, "app"),
}

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


def counters() -> dict[str, str]:
    """Every counter of which an alert reads how it grows, with what it asks of its labels."""
    grown = re.compile(r"(?:rate|increase)\((pushsvc_\w+)(?:\{([^}]*)\})?\[")
    return {name: matchers for _, expr, _ in rules() for name, matchers in grown.findall(expr)}


def test_each_alert_has_its_row() -> None:
    assert _names("alert") == [name for name, _, _ in rules()]
    assert [row[1] for row in TABLES["alert"]] == [severity for _, _, severity in rules()]


def test_each_condition_has_its_alert() -> None:
    alerts = {name: (expr, severity) for name, expr, severity in rules()}
    for kind, severity in SEVERITIES.items():
        own = [found for expr, found in alerts.values() if f'kind="{kind}"' in expr]
        own += [alerts[SHOWN_IN[kind]][1]] if kind in SHOWN_IN else []
        assert own == [severity], kind


def test_each_alert_leads_to_its_row_and_to_its_page_of_the_console() -> None:
    console = re.findall(r"^  (\w+: .*),\n};", (PACKAGE / "console" / "main.js").read_text(), re.MULTILINE)[0]
    for name, _, _ in rules():
        block = ALERTS.partition(f"- alert: {name}\n")[2].partition("- alert: ")[0]
        runbook, place = re.findall(r'"{{ \$externalLabels\.service_url }}/([^"]*)"', block)
        page, fragment = runbook.removeprefix("docs/guide/").split("#")
        assert fragment == f":~:text={name}"
        assert name in guide.pages()[page].decode()
        assert f'{place.removeprefix("console/")}: "' in console, name
    for file in (PROMETHEUS / "prometheus.yml", ROOT / "config" / "compose" / "prometheus.yml"):
        labels = yaml.safe_load(file.read_text(encoding="utf-8"))["global"]["external_labels"]
        assert set(labels) == {"service_url"}


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        assert "CI" not in os.environ, "promtool is missing"
        pytest.skip("promtool is missing")
    return found


def test_each_alert_fires_for_its_fault_and_not_before(tmp_path: Path, promtool: str) -> None:
    assert list(FIRES) == [name for name, _, _ in rules()]
    severities = {name: severity for name, _, severity in rules()}
    files = []
    # All rules are evaluated at each step: two days of them, or an hour in steps of ten seconds, would take long.
    for slow in (False, True):
        tests = [
            {
                "interval": "10s",
                "input_series": [{"series": series, "values": values} for series, values in each.series.items()],
                "promql_expr_test": [
                    {"expr": firing, "eval_time": "50s", "exp_samples": []},
                    {"expr": firing, "eval_time": each.after, "exp_samples": [{"labels": labels, "value": 1}]},
                ],
            }
            for name, each in FIRES.items()
            for firing in [f'ALERTS{{alertname="{name}",alertstate="firing"}}']
            for labels in [f'{firing[:-1]},severity="{severities[name]}"{each.labels}}}']
            if each.after.endswith("h") is slow
        ]
        file = tmp_path / f"{slow}.json"
        rule_files = [str(PROMETHEUS / "alerts.yml")]
        interval = "10m" if slow else "30s"
        file.write_text(json.dumps({"rule_files": rule_files, "evaluation_interval": interval, "tests": tests}))
        files.append(str(file))
    done = subprocess.run([promtool, "test", "rules", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_single_refused_push_wakes_nobody(tmp_path: Path, promtool: str) -> None:
    """Refusals that go on do; see `FIRES`."""
    scrape, shown = 2, int(REFUSED_FOR) + 3
    firing = {"expr": 'count(ALERTS{alertname="PushsvcQueueFull",alertstate="firing"})', "exp_samples": []}
    series = {"series": 'pushsvc_conditions{app="shop",kind="full"}', "values": f"0x5 1x{shown // scrape} 0x100"}
    times = [{**firing, "eval_time": f"{second}s"} for second in range(0, 150, scrape)]
    tests = [{"interval": f"{scrape}s", "input_series": [series], "promql_expr_test": times}]
    rule_files = [str(PROMETHEUS / "alerts.yml")]
    file = tmp_path / "single.json"
    file.write_text(json.dumps({"rule_files": rule_files, "evaluation_interval": f"{scrape}s", "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_every_query(tmp_path: Path, promtool: str) -> None:
    rows = [f"      - record: q{at}\n        expr: {json.dumps(expr)}\n" for at, (_, expr) in enumerate(QUERIES)]
    file = tmp_path / "queries.yml"
    file.write_text(f"groups:\n  - name: queries\n    rules:\n{''.join(rows)}")
    for what in (("rules", str(file)), ("config", str(PROMETHEUS / "prometheus.yml"))):
        done = subprocess.run([promtool, "check", *what], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
