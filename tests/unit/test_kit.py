"""The units, manifests and the image of `config/` name commands, settings, ports and probes that exist."""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pushsvc import cli
from pushsvc.cli.service.parts import rest_of_stop
from pushsvc.runtime.configuration import load_settings
from pushsvc.runtime.live_files import SPARE_FILES
from pushsvc.runtime.plans import keyless_requests
from pushsvc.runtime.reload import all_files
from pushsvc.settings.live import LiveSettings
from pushsvc.settings.schema import MetricsSettings, ServerSettings, Settings

from ..pages import ROOT
from .test_readme import TABLES
from .test_telemetry_metrics import defined

CONFIG = ROOT / "config"
UNITS = sorted((CONFIG / "systemd").glob("*.service"))
PARTS = ("serve", "dispatch", "feedback", "jobs", "live")
APP = {"PUSHSVC__APPS__SHOP__LIVE__SECRET": "x" * 32}
API = ServerSettings().port
LIVE = LiveSettings().port


def health_port(part: str) -> int:
    """The port on which a part answers /healthz."""
    port = API if part == "serve" else MetricsSettings().port_of(part)
    assert port is not None
    return port


def settings_of(environ: dict[str, str]) -> Settings:
    """Load a configuration from these variables, which fails for one that is unknown."""
    return load_settings(
        None, {**APP, **{name: text for name, text in environ.items() if name.startswith("PUSHSVC__")}}
    )


def documents(name: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all((CONFIG / name).read_text(encoding="utf-8")) if each]


def tool(name: str) -> str:
    """The path of a program: the test is skipped at a desk without it, and fails in CI."""
    path = shutil.which(name)
    if path is None:
        assert "CI" not in os.environ, f"{name} is missing"
        pytest.skip(f"{name} is missing")
    return path


# --- systemd ------------------------------------------------------------------------------------


def unit(file: Path) -> dict[str, list[str]]:
    """Every key of a unit with its values."""
    found: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.stem)
def test_a_unit_says_what_the_service_does(file: Path) -> None:
    keys = unit(file)
    assert keys["Type"] == ["notify"]
    program = "/opt/pushsvc/venv/bin/pushsvc"
    # What `check` finds is in the journal and keeps nothing from starting, and no number of starts is too many: the
    # service itself waits for a Redis that is away, and an app with a bad credential leaves the others alone.
    assert keys["ExecStartPre"] == [f"-{program} check"]
    assert keys["ExecStart"] == [f"{program} {'up' if file.stem == 'pushsvc' else '%i'}"]
    assert keys["StartLimitIntervalSec"] == ["0"]
    assert "StartLimitBurst" not in keys
    assert keys["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    # All else is in the configuration, where commands of a shell and of cron find it too.
    assert keys["Environment"] == ["PUSHSVC_CONFIG=/etc/pushsvc/config.toml"]
    # The longest stop: the API first, then what is in flight and the connections of devices.
    longest = Settings().server.shutdown_timeout + rest_of_stop(Settings())
    assert float(keys["TimeoutStopSec"][0]) > longest
    live = Settings().live.max_connections
    assert int(keys["LimitNOFILE"][0]) >= live + live // 8 + SPARE_FILES
    assert {"NoNewPrivileges", "ProtectSystem", "PrivateTmp", "CapabilityBoundingSet"} <= set(keys)


def test_the_steps_of_the_unit_put_the_store_into_the_configuration(tmp_path: Path) -> None:
    steps = (CONFIG / "systemd" / "pushsvc.service").read_text(encoding="utf-8")
    (edit,) = re.findall(r"^#   (sed -i .*)$", steps, re.MULTILINE)
    config = tmp_path / "config.toml"
    shutil.copy(ROOT / "pushsvc" / "settings" / "example.toml", config)
    subprocess.run(shlex.split(edit.replace("/etc/pushsvc/config.toml", str(config))), check=True, timeout=60)
    (folder,) = unit(CONFIG / "systemd" / "pushsvc.service")["StateDirectory"]
    assert load_settings(config, {}).store.data_dir == Path("/var/lib") / folder


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    names = []
    for file in UNITS:
        name = file.name.replace("@", "@dispatch")
        text = file.read_text(encoding="utf-8").replace("/opt/pushsvc/venv/bin/pushsvc", "/bin/true")
        (tmp_path / name).write_text(text)
        names.append(str(tmp_path / name))
    done = subprocess.run(
        [analyze, "verify", "--man=no", *names], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# --- Compose ------------------------------------------------------------------------------------


def test_compose_runs_parts_that_exist() -> None:
    (compose,) = documents("compose/compose.yaml")
    own = {name: each for name, each in compose["services"].items() if each["image"].startswith("pushsvc:")}
    assert sorted(each["command"][0] for each in own.values()) == sorted(PARTS)
    for service in own.values():
        (part,) = service["command"]
        assert settings_of(service["environment"]).redis.url == "redis://valkey:6379/0"
        assert service["environment"]["PUSHSVC_HEALTH_URL"] == f"http://127.0.0.1:{health_port(part)}/healthz"
        assert (service["read_only"], service["stop_grace_period"]) == (True, "90s")
        ports = {"serve": [API], "live": [LIVE]}.get(part, [])
        assert service.get("ports", []) == [f"127.0.0.1:{port}:{port}" for port in ports]
    for service in compose["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                made = source in ("./etc", "./secrets")  # by the commands at its top
                assert made or (CONFIG / "compose" / source).exists(), source
            else:
                assert source in compose["volumes"], source
    (prometheus,) = documents("compose/prometheus.yml")
    api, parts = prometheus["scrape_configs"]
    static = [target for scrape in (api, parts) for target in scrape["static_configs"][0]["targets"]]
    (gateway,) = parts["dns_sd_configs"]  # it has an address only with its profile
    assert {*static, *(f"{name}:{gateway['port']}" for name in gateway["names"])} == {
        f"{name}:{health_port(each['command'][0])}" for name, each in own.items()
    }
    # Only the API needs a key: one that is missing leaves the parts alone.
    assert ("authorization" in api, "authorization" in parts) == (True, False)
    assert parts["relabel_configs"] == [{"target_label": "job", "replacement": api["job_name"]}]


@pytest.mark.parametrize("place", ["compose", "kubernetes"])
def test_promtool_takes_the_configuration(tmp_path: Path, place: str) -> None:
    promtool = tool("promtool")
    (configuration,) = documents(f"{place}/prometheus.yml")
    for scrape in configuration["scrape_configs"]:
        scrape.pop("kubernetes_sd_configs", None)  # Debian's promtool is built without it
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    shutil.copy(CONFIG / "prometheus" / "alerts.yml", tmp_path)
    command = [promtool, "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


# --- Kubernetes ---------------------------------------------------------------------------------


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """Every object of the manifests by kind and name."""
    (kustomization,) = documents("kubernetes/kustomization.yaml")
    found = {}
    for name in kustomization["resources"]:
        for each in documents(f"kubernetes/{name}"):
            found[each["kind"], each["metadata"]["name"]] = each
    return found


MANIFESTS = manifests()


@pytest.mark.parametrize("part", PARTS)
def test_a_deployment_runs_a_part_and_asks_it_where_it_answers(part: str) -> None:
    template = MANIFESTS["Deployment", part]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert container["args"] == [part]
    assert part in cli.COMMANDS
    (variable,) = container["env"]
    assert variable["name"] == "PUSHSVC__REDIS__URL_FILE"
    assert variable["value"].startswith("/run/secrets/pushsvc/")
    for probe, path in {"startupProbe": "/healthz", "livenessProbe": "/healthz"}.items():
        assert container[probe]["httpGet"] == {"path": path, "port": health_port(part)}
    ready = "/readyz" if part == "serve" else "/healthz"
    assert container["readinessProbe"]["httpGet"] == {"path": ready, "port": health_port(part)}
    assert {port["containerPort"] for port in container["ports"]} == {
        *([LIVE] if part == "live" else []),
        health_port(part),
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in template["spec"]["volumes"]}


def test_what_refers_to_a_deployment_finds_it() -> None:
    deployments = {name for kind, name in MANIFESTS if kind == "Deployment"}
    assert deployments == {*PARTS}
    for (kind, name), each in MANIFESTS.items():
        spec = each.get("spec", {})
        if kind == "HorizontalPodAutoscaler":
            assert spec["scaleTargetRef"]["name"] == name
            assert spec["minReplicas"] == MANIFESTS["Deployment", name]["spec"]["replicas"]
            asked = [metric["external"]["metric"]["name"] for metric in spec["metrics"] if "external" in metric]
            assert set(asked) <= set(defined())
        elif kind == "PodDisruptionBudget":
            assert (
                spec["selector"]["matchLabels"].items() <= MANIFESTS["Deployment", name]["metadata"]["labels"].items()
            )
            assert spec["minAvailable"] < MANIFESTS["Deployment", name]["spec"]["replicas"]
        elif kind == "Service":
            part = spec["selector"]["app.kubernetes.io/component"]
            (container,) = MANIFESTS["Deployment", part]["spec"]["template"]["spec"]["containers"]
            assert {port["targetPort"] for port in spec["ports"]} <= {port["name"] for port in container["ports"]}


def test_the_configuration_of_the_manifests_is_one() -> None:
    assert set(load_settings(CONFIG / "kubernetes" / "config.toml", {}).apps) == {"shop"}


SECRETS = Path("/run/secrets/pushsvc")


def test_the_secret_has_each_file_that_is_named_and_is_made_of_files_of_the_user_alone() -> None:
    """Where one of them is missing, kustomize makes nothing."""
    settings = load_settings(CONFIG / "kubernetes" / "config.toml", {})
    named = {file for file in all_files(settings) if file.is_relative_to(SECRETS)}
    for part in PARTS:
        (container,) = MANIFESTS["Deployment", part]["spec"]["template"]["spec"]["containers"]
        named |= {Path(each["value"]) for each in container["env"] if each["name"].endswith("_FILE")}
    text = (CONFIG / "kubernetes" / "kustomization.yaml").read_text(encoding="utf-8")
    (kustomization,) = documents("kubernetes/kustomization.yaml")
    (secret,) = kustomization["secretGenerator"]
    assert secret.keys() == {"name", "files"}
    assert {SECRETS / Path(file).name for file in secret["files"]} == named
    assert {str(Path(file).parent) for file in secret["files"]} == {"secrets"}
    assert all(re.search(rf"^#   .*{Path(file).name}", text, re.MULTILINE) for file in secret["files"])
    assert "/config/*/secrets/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_prometheus_reads_each_pod_of_the_manifests_and_the_api_by_a_key() -> None:
    environ = dict(re.findall(r"(PUSHSVC__\w+)=(\S+)", DOCKERFILE))
    assert keyless_requests(settings_of(environ)) == "none"
    (prometheus,) = documents("kubernetes/prometheus.yml")
    api, parts = prometheus["scrape_configs"]
    assert ("authorization" in api, "authorization" in parts) == (True, False)
    assert parts["relabel_configs"][-1] == {"target_label": "job", "replacement": api["job_name"]}
    for scrape, operator, port in ((api, "=", "http"), (parts, "!=", "metrics")):
        (pods,) = scrape["kubernetes_sd_configs"]
        (selector,) = pods["selectors"]
        assert selector["label"] == f"app.kubernetes.io/name=pushsvc,app.kubernetes.io/component{operator}serve"
        assert scrape["relabel_configs"][0]["regex"] == port
        for part in PARTS:
            template = MANIFESTS["Deployment", part]["spec"]["template"]
            assert "annotations" not in template["metadata"], "a scraper that goes by them has no key"
            if (part == "serve") == (operator == "="):
                (container,) = template["spec"]["containers"]
                ports = {each["name"]: each["containerPort"] for each in container["ports"]}
                assert ports[port] == health_port(part)


# --- the image ----------------------------------------------------------------------------------

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")


def test_the_image_has_every_port_and_its_labels() -> None:
    (exposed,) = re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)
    assert [int(port) for port in exposed.split()] == [API, LIVE, *(health_port(part) for part in PARTS[1:])]
    assert {"title", "description", "licenses", "version", "revision"} == {
        *re.findall(r"org\.opencontainers\.image\.(\w+)=", DOCKERFILE)
    }
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"ARG VERSION={version}\n" in DOCKERFILE
    environ = dict(re.findall(r"(PUSHSVC__\w+)=(\S+)", DOCKERFILE))
    assert settings_of(environ).metrics.host == "0.0.0.0"


@contextmanager
def answering(status: int) -> Iterator[tuple[str, list[str]]]:
    """A server that answers every question with this status; yields its URL and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers['Host']}")
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/healthz", asked
        server.shutdown()


def test_the_health_check_of_the_image_asks_and_judges() -> None:
    (found,) = re.findall(r"^HEALTHCHECK .*? CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    command = json.loads(found)

    def code(url: str) -> int:
        environ = {**os.environ, "PUSHSVC_HEALTH_URL": url}
        return subprocess.run(command, env=environ, capture_output=True, check=False, timeout=30).returncode

    with answering(200) as (url, asked):
        assert code(url) == 0
        assert asked == [f"/healthz {url.split('/')[2]}"]
    assert code(url) == 1  # nothing listens there any more
    with answering(503) as (url, _):
        assert code(url) == 1


# --- secrets ------------------------------------------------------------------------------------

SECRET = re.compile(r"secret|password|url|proxy|headers|sha256")


def test_each_secret_can_come_from_a_file(tmp_path: Path) -> None:
    names = [row[0].strip("`") for row in TABLES["key"] if SECRET.search(row[0].rpartition(".")[2])]
    assert {"redis.url", "apps.NAME.live.secret", "apps.NAME.apns.cert_password", "apps.NAME.webhook.headers"} <= {
        *names
    }
    for name in names:
        variable = "PUSHSVC__" + name.replace("NAME", "shop").replace("[]", ".0").replace(".", "__").upper() + "_FILE"
        file = tmp_path / "gone"
        with pytest.raises(Exception, match="which holds") as fault:
            load_settings(None, {variable: str(file)})
        assert str(file) in str(fault.value), name
