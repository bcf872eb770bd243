"""The clients that programs call: each sends the same pushes from a process of its own, a driver in its language.

A driver is started with the key file, key id, team id, topic, number of pushes and how many may be under way. It sends
a tenth of them first, prints `ready`, waits for a line on standard input, sends the rest, and prints `done` with the
number that were accepted. Rate and CPU are measured from outside, between the two. Tokens are fresh.

a2 (Rust) takes no part: it trusts Mozilla's list of authorities and has no setting for another
(https://docs.rs/a2/0.10.0/a2/client/struct.ClientConfig.html), so no simulator can stand for Apple.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from msgspec import Struct

from pushsvc.lab.simulator import SimulatorHandle

from ..machine import cpu_by_part, cpu_since, family, pin, pss_mb

HERE: Final = Path(__file__).parent
AT_ONCE: Final = 1000


class Sent(Struct, frozen=True):
    """A round of a library."""

    rate: float
    cost: float
    """Microseconds of CPU a push."""
    memory_mb: float


class Library(Struct, frozen=True):
    """A contestant. `command` returns the words that start its driver, or none where it is not here. It may build it,
    in a folder that is given."""

    command: Callable[[Path], list[str]]
    get: str
    count: int


def node_apn(folder: Path) -> list[str]:
    if not (node := shutil.which("node")):
        return []
    asked = subprocess.run([node, "-e", "require.resolve('@parse/node-apn')"], capture_output=True, check=False)
    return [] if asked.returncode else [node, str(HERE / "node_apn.cjs")]


def apns2(folder: Path) -> list[str]:
    if not (go := shutil.which("go")):
        return []
    return built([go, "build", "-o", str(folder / "apns2"), "."], HERE / "apns2", folder, {"GOPROXY": "off"})


def built(command: list[str], source: Path, folder: Path, environ: dict[str, str]) -> list[str]:
    """Build a driver from a copy of its source, with the packages that are on this machine. Returns the program, or
    nothing where one is missing."""
    place = folder / f"{source.name}-source"
    shutil.copytree(source, place, dirs_exist_ok=True)
    done = subprocess.run(command, cwd=place, env={**os.environ, **environ}, capture_output=True, check=False)
    return [] if done.returncode else [str(folder / source.name)]


def pushy(folder: Path) -> list[str]:
    java, path = shutil.which("java"), os.environ.get("PUSHY_CLASSPATH", "")
    return [java, "-cp", path, str(HERE / "Pushy.java")] if java and path else []


def aioapns(folder: Path) -> list[str]:
    return [sys.executable, "-m", "tests.bench.peers.aioapns_driver"]


LIBRARIES: Final = {
    "pushy (Java)": Library(
        pushy,
        "mvn dependency:copy-dependencies of com.eatthepath:pushy and slf4j-nop, named by PUSHY_CLASSPATH=FOLDER/*",
        60_000,
    ),
    "apns2 (Go)": Library(apns2, "go mod download, in tests/bench/peers/apns2", 60_000),
    "node-apn": Library(node_apn, "npm install @parse/node-apn, its node_modules named by NODE_PATH", 20_000),
    "aioapns": Library(aioapns, "", 10_000),
}


def send(simulator: SimulatorHandle, command: list[str], count: int, on: Collection[int]) -> Sent:
    """Run a driver. Raises `RuntimeError` where a push was not accepted."""
    credentials, ca = simulator.credentials, str(simulator.credentials.ca_file)
    environ = {**os.environ, "SSL_CERT_FILE": ca, "NODE_EXTRA_CA_CERTS": ca, "APNS_CA_FILE": ca}
    environ["APNS_CERT_FILE"] = str(credentials.apns_cert_file)
    words = [str(credentials.apns_key_file), credentials.key_id, credentials.team_id, credentials.topic]
    with subprocess.Popen(
        [*command, *words, str(count), str(AT_ONCE)],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: pin(0, on),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{command[0]} did not start")
        used, began = cpu_by_part(process.pid), time.perf_counter()
        process.stdin.write("go\n")
        process.stdin.flush()
        answer = process.stdout.readline().split()
        seconds, spent = time.perf_counter() - began, sum(cpu_since(used, process.pid).values())
        memory = sum(map(pss_mb, family(process.pid)))
        process.stdin.close()
    if answer != ["done", str(count)]:
        raise RuntimeError(f"{command[0]}: of {count} pushes: {json.dumps(answer)}")
    return Sent(count / seconds, spent / count * 1e6, memory)
