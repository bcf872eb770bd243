"""What the README and the guide show, done: their curls against `pushsvc up --simulator`, and the installation."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pushsvc.lab.simulator import simulator_process

from ..node import needs_node, node
from ..pages import PAGES, README, blocks
from .ports import free_ports
from .processes import Api, Command, Processes, own_processes, until
from .servers import skip_or_fail


@dataclass
class Played:
    """A running `pushsvc up --simulator`, as a reader of the page has it."""

    processes: Processes
    up: Command
    api: Api

    def run(self, script: str, **environ: str) -> dict[str, Any]:
        """Run a script in the folder where `up` was started, and return the JSON that it prints."""
        if shutil.which("curl") is None:
            skip_or_fail("no curl on PATH")
        reported = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.processes.folder,
            # A proxy of the machine has no business with loopback.
            env={**os.environ, "no_proxy": "127.0.0.1", **environ},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        answer: dict[str, Any] = json.loads(reported.stdout)
        return answer


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    with own_processes(tmp_path_factory.mktemp("readme")) as processes:
        port = free_ports(2)
        up = processes.start("up", "--simulator", PUSHSVC__SERVER__PORT=str(port), PUSHSVC__LIVE__PORT=str(port + 1))
        key = up.until(r"API key of the app `demo`: (\S+)")[1]
        yield Played(processes, up, Api(f"http://127.0.0.1:{port}", key))
        assert up.end() == 0


def test_the_curls_and_the_scenarios_work_as_they_stand(played: Played) -> None:
    shown = [block for text in (README, PAGES["tutorial/try.md"]) for block in blocks("sh", text) if "curl" in block]
    # But for the port, which may be taken on this machine, they run as a reader would paste them.
    first, post, get = [block.replace("http://127.0.0.1:8080", played.api.url) for block in shown]

    for curl in (first, post):
        accepted = played.run(curl)
        assert set(accepted) == {"id", "state", "deliveries"}
        assert played.api.until_done(accepted["id"]) == {"total": 2, "sent": 2}
    status = played.run(get, ID=accepted["id"])
    assert (status["state"], status["counts"]["sent"]) == ("done", 2)

    code, out, _ = played.processes.run("simulate", "--token", "Unregistered")
    assert code == 0
    push = played.api.push([{"platform": "apns", "token": out.strip()}])
    assert played.api.until_done(push) == {"total": 1, "invalid": 1}
    code, out, err = played.processes.run("simulate", "--token", "list")
    assert (code, err) == (0, "")
    assert {"Unregistered", "slow-<ms>"} <= set(re.findall(r"[\w<>-]+", out))
    code, _, err = played.processes.run("simulate", "--token", "badpriority")
    assert (code, err.count("did you mean `BadPriority`?")) == (2, 1)


def test_the_commands_of_the_page_do_what_it_says(played: Played) -> None:
    """But for `pushsvc`, which is that of this environment, they run as a reader would paste them."""
    failing, audiences = [block for block in blocks("sh", PAGES["tutorial/try.md"]) if "pushsvc send" in block]
    environ = played.processes.environ(
        PUSHSVC_CONFIG="var/playground/pushsvc.toml", PUSHSVC_KEY=played.api.key, PUSHSVC_URL=played.api.url
    )

    def shell(script: str) -> str:
        command = f'pushsvc() {{ {sys.executable} -m pushsvc "$@"; }}\n{script}'
        reported = subprocess.run(
            ["bash", "-c", command],
            cwd=played.processes.folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert reported.returncode == 0, reported.stderr
        return reported.stdout

    for _ in range(2):  # for one who plays it again the push fails again
        out = shell(failing)
        assert "1 of 1: 1 failed" in out
        assert "\tBadPriority\t400\t" in out
        assert "1 delivery back in the queue" in out
    out = shell(audiences)
    assert out.count("done: 1 of 1: 1 sent") == 2, out
    assert out.startswith("1 device imported (1 new) in ")
    assert "  cancelled\n0 of 0\n" in out


def test_phones_connect_and_show_as_the_page_says(played: Played) -> None:
    environ = {"PUSHSVC_CONFIG": "var/playground/pushsvc.toml", "PUSHSVC_KEY": played.api.key}
    words = ("simulate", "--phones", "10", "--kind", "10%:ack=never", "--json")
    phones = played.processes.start(*words, **environ)

    def online(name: str) -> bool:
        return bool(played.api.call("GET", f"/v1/devices/{name}")[1].get("online"))

    until(lambda: "both phones are online", lambda: online("phone-7") and online("phone-8"))
    document = {"to": {"devices": ["phone-7", "phone-8"]}, "notification": {"title": "hi"}}
    _, accepted = played.api.call("POST", "/v1/push", document)
    assert played.api.until_done(accepted["id"]) == {"total": 2, "sent": 2}
    assert phones.end() == 0
    seen = json.loads(phones.out.read_text())
    assert (seen["phones"], seen["shown"], seen["holes"], seen["late"]) == (10, 2, {}, {})


def test_the_curl_that_up_prints_works_too(played: Played) -> None:
    played.up.until(r"(?s)\nTry:\n.*\}'\n")
    accepted = played.run(played.up.output().partition("\nTry:\n")[2])
    assert "id" in accepted, accepted
    assert played.api.until_done(accepted["id"]) == {"total": 1, "sent": 1}


SURROUNDINGS = """
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
const kept = new Map();
globalThis.localStorage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
globalThis.WebSocket ??= createRequire(import.meta.url)("ws");
globalThis.fetch = async (path) => ({ json: async () => JSON.parse(readFileSync("." + path, "utf8")) });
globalThis.show = (id, notification) => console.log(JSON.stringify([id, notification]));
"""
"""What an app and its server have around the lines of the page."""
AS_INSTALLED = """
import { readFileSync } from "node:fs";
import vm from "node:vm";
vm.runInThisContext(readFileSync("SDK", "utf8"));
export const Centrifuge = Object.getPrototypeOf(globalThis.Centrifuge);
"""
SDK = Path(__file__).parents[1] / "vendor" / "centrifuge-js" / "centrifuge.protobuf.js"


WEBSOCKETS = "export default globalThis.WebSocket;"
"""The package `ws`, of which this Node has its own."""


@needs_node
@pytest.mark.parametrize(
    ("place", "words", "shows"),
    [(0, ("--import", "./surroundings.js"), '["{id}",{{"title":"Order 7 shipped"}}]'),
     (1, (), "{id} {{ title: 'Order 7 shipped' }}")],
    ids=["page", "node"],
)  # fmt: skip
def test_the_apps_of_the_page_get_what_is_pushed(
    played: Played, tmp_path: Path, place: int, words: tuple[str, ...], shows: str
) -> None:
    register, install = blocks("sh", PAGES["guides/live.md"])
    app = blocks("js", PAGES["guides/live.md"])[place]
    token = played.run(register.replace("http://127.0.0.1:8080", played.api.url))
    (get,) = [line for line in install.splitlines() if line.startswith("curl ")]
    subprocess.run(get.replace("http://127.0.0.1:8080", played.api.url), shell=True, cwd=tmp_path, check=True)
    package, sockets = tmp_path / "node_modules" / "centrifuge", tmp_path / "node_modules" / "ws"
    for folder in (package, sockets):
        folder.mkdir(parents=True)
        (folder / "package.json").write_text('{"type": "module", "main": "index.js"}')
    for path, text in {
        package / "index.js": AS_INSTALLED.replace("SDK", str(SDK)),
        sockets / "index.js": WEBSOCKETS,
        tmp_path / "package.json": '{"type": "module"}',
        tmp_path / "surroundings.js": SURROUNDINGS,
        tmp_path / "app.js": app.replace("http://127.0.0.1:8080", played.api.url),
        tmp_path / "live-token": json.dumps(token),
    }.items():
        path.write_text(text)
    out, err = tmp_path / "app.out", tmp_path / "app.err"
    environ = {**os.environ, "PUSHSVC_KEY": played.api.key}
    with out.open("wb") as stdout, err.open("wb") as stderr:
        command = [*node(), *words, "app.js"]
        running = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=stdout, stderr=stderr)
    try:
        document = {"to": {"users": ["ann"]}, "notification": {"title": "Order 7 shipped"}}
        _, accepted = played.api.call("POST", "/v1/push", document)
        assert played.api.until_done(accepted["id"]) == {"total": 1, "sent": 1}, err.read_text()
        assert out.read_text().strip() == shows.format(id=accepted["id"])
        assert running.poll() is None, err.read_text()
    finally:
        running.kill()
        running.wait()


def without_figures(text: str) -> list[str]:
    """The lines with every id, address and number replaced, and without the spaces that numbers are padded with."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text)
    return [re.sub(r"[0-9][0-9.,:]*", "N", line).strip() for line in text.splitlines()]


def test_the_installation_works_letter_by_letter(tmp_path: Path) -> None:
    """But for the virtual environment, which is this one, and for an account's files, which are the simulator's."""
    prepare, begin = blocks("sh", PAGES["guides/install.md"])
    with own_processes(tmp_path) as processes, simulator_process(tmp_path / "simulator") as simulator:
        (tmp_path / "venv" / "bin").mkdir(parents=True)
        program = tmp_path / "venv" / "bin" / "pushsvc"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pushsvc "$@"\n')
        program.chmod(0o755)
        (install,) = [line for line in prepare.splitlines() if "pip install" in line]
        account = simulator.credentials
        edited = {
            "key_file": account.apns_key_file,
            "key_id": account.key_id,
            "service_account_file": account.service_account_file,
        }
        edit = "\n".join(f"""sed -i 's|^{key} = .*|{key} = "{value}"|' pushsvc.toml""" for key, value in edited.items())
        *commands, last = begin.splitlines()
        assert last == "pushsvc up"
        script = "\n".join([prepare.replace(install, ""), edit, *commands, f"exec {last}"])
        out, err = tmp_path / "out", tmp_path / "err"
        port = str(free_ports())
        with out.open("wb") as stdout, err.open("wb") as stderr:
            shell = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=tmp_path,
                env=processes.environ(PUSHSVC__SERVER__PORT=port),
                stdout=stdout,
                stderr=stderr,
            )
        until(lambda: f"it serves: {err.read_text()}", lambda: shell.poll() or "pushsvc listens on" in err.read_text())
        key = next(line for line in out.read_text().splitlines() if line.startswith("pushsvc_"))
        status, _ = Api(f"http://127.0.0.1:{port}", key).call("GET", "/v1/push/nonesuch")
        assert status == 404  # not 401: the key is one
        shell.send_signal(signal.SIGINT)
        assert shell.wait(60) == 0
