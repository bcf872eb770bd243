"""The services that take pushes over HTTP: ours and its peers, each started as its documentation says, and tuned."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from msgspec import Struct

from pushsvc.cli.service.up import free_port
from pushsvc.lab.playground import Playground
from pushsvc.store.server.embedded import find_server

from ..load import PLACE, Post
from ..machine import family, pin
from ..whole import push_to, running_service, until_listening, until_ready

TITLE, BODY = "Order 7 shipped", "Arrives Friday"


class Running(Struct, frozen=True):
    """A service that is ready."""

    pid: int
    """The process above all of its own."""
    post: Callable[[int], Post]
    """Return a POST to this number of tokens."""

    def kill(self) -> None:
        """Kill it without warning, and leave its store."""
        for pid, part in family(self.pid).items():
            if part != "store":
                os.kill(pid, signal.SIGKILL)


Start: TypeAlias = Callable[[Playground, Path, Collection[int], int], AbstractContextManager[Running]]
"""Starts a service, given the folder of its files, its cores, and the port of a Redis."""


class Service(Struct, frozen=True):
    """A contestant."""

    start: Start
    missing: Callable[[], str] = str
    """Returns how to get it, or nothing where it is here."""
    redis: bool = False
    """Whether it needs a Redis, which is started first and survives it."""
    most: int = 1000
    """The tokens of a POST that it takes."""


@contextmanager
def ours(playground: Playground, folder: Path, on: Collection[int], _: int) -> Iterator[Running]:
    with running_service(playground, on) as pid:
        yield Running(pid, lambda count: push_to(playground, count))


# --- gorush ---------------------------------------------------------------------------------------

GORUSH: Final = "go install github.com/appleboy/gorush@latest, and its binary on the PATH"
GORUSH_CONFIG: Final = """\
core: {{enabled: true, address: 127.0.0.1, port: "{port}", mode: release, sync: false, worker_num: 256,
  queue_num: 500000, max_notification: 10000, shutdown_timeout: 5, feedback_timeout: 10}}
api: {{push_uri: /api/push, stat_go_uri: /api/stat/go, stat_app_uri: /api/stat/app, config_uri: /api/config,
  sys_stat_uri: /sys/stats, metric_uri: /metrics, health_uri: /healthz}}
grpc: {{enabled: false}}
android: {{enabled: false}}
huawei: {{enabled: false}}
ios: {{enabled: true, key_path: "{key}", key_type: p8, key_id: {key_id}, team_id: {team_id}, production: true,
  max_concurrent_pushes: 1000, max_retry: 0}}
queue: {{engine: {engine}, redis: {{addr: "127.0.0.1:{redis}", group: bench, consumer: bench, stream_name: bench}}}}
log: {{format: string, access_log: /dev/null, access_level: error, error_log: stderr, error_level: error,
  hide_token: true, hide_messages: true}}
stat: {{engine: memory}}
"""


def no_gorush() -> str:
    return "" if shutil.which("gorush") else GORUSH


def gorush_post(port: int, topic: str, count: int) -> Post:
    one = {
        "tokens": [PLACE] * count,
        "platform": 1,
        "topic": topic,
        "title": TITLE,
        "message": BODY,
        "sound": "default",
    }
    return Post(f"http://127.0.0.1:{port}/api/push", json.dumps({"notifications": [one]}))


def gorush(engine: str) -> Start:
    """Return how gorush is started with this queue: `local` (in memory) or `redis`."""

    @contextmanager
    def start(playground: Playground, folder: Path, on: Collection[int], redis: int) -> Iterator[Running]:
        credentials, port = playground.simulator.credentials, free_port()
        key, config = folder / "gorush.p8", folder / "gorush.yml"
        shutil.copy(credentials.apns_key_file, key)  # gorush goes by the ending of the file
        ids = {"key_id": credentials.key_id, "team_id": credentials.team_id}
        config.write_text(GORUSH_CONFIG.format(port=port, key=key, engine=engine, redis=redis, **ids))
        environ = {"SSL_CERT_FILE": str(credentials.ca_file)}
        with process(["gorush", "-c", str(config)], on, folder, environ) as running:
            until_ready(f"http://127.0.0.1:{port}/healthz", running)
            yield Running(running.pid, lambda count: gorush_post(port, credentials.topic, count))

    return start


# --- sygnal ---------------------------------------------------------------------------------------

SYGNAL: Final = "https://github.com/element-hq/sygnal, in a virtual environment whose Python SYGNAL_PYTHON names"
SYGNAL_CONFIG: Final = """\
log: {{setup: {{version: 1, root: {{level: ERROR}}}}, access: {{x_forwarded_for: false}}}}
http: {{bind_addresses: ["127.0.0.1"], port: {port}}}
metrics: {{prometheus: {{enabled: false}}, opentracing: {{enabled: false}}, sentry: {{enabled: false}}}}
apps:
  {topic}: {{type: apns, keyfile: "{key}", key_id: {key_id}, team_id: {team_id}, topic: {topic}, platform: production,
    convert_device_token_to_hex: false, push_type: alert, inflight_request_limit: 1000}}
"""


def sygnal_python() -> str:
    return os.environ.get("SYGNAL_PYTHON") or (sys.executable if importlib.util.find_spec("sygnal") else "")


def no_sygnal() -> str:
    return "" if sygnal_python() else SYGNAL


def sygnal_post(port: int, topic: str, count: int) -> Post:
    aps = {"alert": {"title": TITLE, "body": BODY}, "sound": "default"}
    data = {"format": "event_id_only", "default_payload": {"aps": aps}}
    device = {"app_id": topic, "pushkey": PLACE, "pushkey_ts": 0, "data": data, "tweaks": {}}
    document = {"notification": {"event_id": "$e", "room_id": "!r:h", "prio": "high", "devices": [device] * count}}
    return Post(f"http://127.0.0.1:{port}/_matrix/push/v1/notify", json.dumps(document))


@contextmanager
def sygnal(playground: Playground, folder: Path, on: Collection[int], _: int) -> Iterator[Running]:
    credentials, port = playground.simulator.credentials, free_port()
    topic, config = credentials.topic, folder / "sygnal.yaml"
    config.write_text(
        SYGNAL_CONFIG.format(
            port=port,
            topic=topic,
            key=credentials.apns_key_file,
            key_id=credentials.key_id,
            team_id=credentials.team_id,
        )
    )
    environ = {"SYGNAL_CONF": str(config), "SSL_CERT_FILE": str(credentials.ca_file)}
    with process([sygnal_python(), "-m", "sygnal.sygnal"], on, folder, environ) as running:
        until_ready(f"http://127.0.0.1:{port}/health", running)
        yield Running(running.pid, lambda count: sygnal_post(port, topic, count))


# --- processes ------------------------------------------------------------------------------------


@contextmanager
def redis_server(folder: Path, on: Collection[int]) -> Iterator[tuple[int, int]]:
    """Run the server that our embedded store runs, over TCP. Yields its process and its port."""
    port = free_port()
    command = [find_server(), "--port", str(port), "--dir", str(folder), "--appendonly", "yes", "--save", ""]
    with process(command, on, folder, {}) as running:
        until_listening(port, running)
        yield running.pid, port


@contextmanager
def process(
    command: list[str], on: Collection[int], folder: Path, environ: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program on these cores; what it says goes to a file in the folder."""
    file = folder / f"{Path(command[0]).name}.log"
    with open(file, "ab") as log:
        running = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environ}, stdout=log, stderr=log, preexec_fn=lambda: pin(0, on)
        )
    try:
        yield running
    except RuntimeError as error:
        error.add_note(file.read_text(errors="replace")[-2000:])
        raise
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


SERVICES: Final = {
    "pushsvc": Service(ours),
    "gorush, in memory": Service(gorush("local"), no_gorush),
    "gorush, Redis": Service(gorush("redis"), no_gorush, redis=True),
    "sygnal": Service(sygnal, no_sygnal, most=1),
}
