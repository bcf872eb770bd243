"""The simulator in a process of its own: `simulator_process`, and the command `pushsvc simulate`."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import re
import signal
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
import typer
from msgspec import convert
from typer.testing import CliRunner, Result

from pushsvc.cli.simulator.simulate import _commands, simulate
from pushsvc.lab.simulator import (
    COMMANDS,
    Address,
    SimulatorHandle,
    apns_token,
    channel_id,
    fcm_token,
    simulator_process,
    token_kinds,
)
from pushsvc.lab.simulator.controls import Command
from pushsvc.lab.simulator.scenario import MODIFIERS, TRANSPORT

TOKEN = "ab" * 32


def push(address: Address | SimulatorHandle, token: str = TOKEN) -> int:
    """One push to APNs with the address's own credentials."""
    credentials = address.credentials
    claims = {"iss": credentials.team_id, "iat": int(time.time())}
    bearer = jwt.encode(claims, credentials.apns_key_file.read_text(), "ES256", {"kid": credentials.key_id})
    headers = {"authorization": f"bearer {bearer}", "apns-topic": credentials.topic, "apns-push-type": "alert"}

    async def main() -> int:
        context = ssl.create_default_context(cafile=str(credentials.ca_file))
        async with httpx.AsyncClient(http2=True, verify=context) as client:
            answer = await client.post(f"{address.apns_url}/3/device/{token}", json={"aps": {}}, headers=headers)
            return answer.status_code

    return asyncio.run(main())


def test_a_process_is_started_asked_and_ended(tmp_path: Path) -> None:
    with simulator_process(tmp_path, keep=5) as simulator:
        assert push(simulator) == 200
        assert push(simulator, apns_token("Unregistered", "1")) == 410
        simulator.break_credentials("apns")
        assert push(simulator) == 403
        simulator.restore_credentials("apns")
        assert push(simulator) == 200
        record = simulator.record()
        assert record["apns"]["totals"] == {"200": 2, "403 InvalidProviderToken": 1, "410 Unregistered": 1}
        assert simulator.state()["apns"]["credentials_refused"] is False
        simulator.clear()
        assert simulator.record()["total"] == 0
        with pytest.raises(RuntimeError, match="400"):
            simulator.control("nonsense")
    assert simulator.process.returncode == 0


def test_a_restart_keeps_keys_and_access_tokens(tmp_path: Path) -> None:
    names = ("ca.pem", "ca-key.pem", "AuthKey_SIMULATOR1.p8", "apns-client.pem", "access-tokens.secret")
    with simulator_process(tmp_path) as simulator:
        before = {name: (tmp_path / name).read_bytes() for name in names}
        assert push(simulator) == 200
    with simulator_process(tmp_path) as simulator:
        assert {name: (tmp_path / name).read_bytes() for name in names} == before
        assert simulator.credentials.service_account_file.read_text().count(f'{simulator.control_url}/token"') == 1
        assert push(simulator) == 200
    for name in (*names[1:], "service-account.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    with simulator_process(tmp_path) as simulator:
        os.kill(simulator.pid, signal.SIGINT)  # Ctrl-C at the parent's terminal reaches it as well
        assert simulator.record()["total"] == 0
        assert simulator.process.stdin is not None
        simulator.process.stdin.close()
        assert simulator.process.wait(20) == 0


def test_keys_that_cannot_be_read_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    (tmp_path / "ca-key.pem").write_text("nonsense")
    with pytest.raises(RuntimeError, match="did not start"), simulator_process(tmp_path):
        pass
    assert f"{tmp_path}: the simulator's keys cannot be read: ValueError (delete the folder)" in capfd.readouterr().err


# --- the command ----------------------------------------------------------------------------------

# The command function by itself: the root of the command line has tests of its own.
COMMAND = [sys.executable, "-c", "import typer, pushsvc.cli.simulator.simulate as its; typer.run(its.simulate)"]
ANY_PORTS = ["--apns-port", "0", "--fcm-port", "0", "--control-port", "0"]


@contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_runs_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with command(*ANY_PORTS, "--folder", str(tmp_path), "--json", "--topic", "org.example.app") as process:
        address = Address.from_json(line(process).encode())
        assert address.credentials.topic == "org.example.app"
        assert push(address) == 200
        process.send_signal(number)
        assert process.wait(20) == 0


def test_the_command_prints_a_configuration_to_paste(tmp_path: Path) -> None:
    import tomllib

    with command(*ANY_PORTS, "--folder", str(tmp_path)) as process:
        text = ""
        while "[apps.shop.fcm]" not in text or text.count("ca_file") < 2:
            text += line(process)
            assert process.poll() is None
        apps = tomllib.loads(text)["apps"]["shop"]
        context = ssl.create_default_context(cafile=apps["fcm"]["ca_file"])
        connection = http.client.HTTPSConnection(urlsplit(apps["apns"]["endpoint"]).netloc, context=context)
        connection.request("GET", "/")  # HTTP/1.1: it answers in words what is wrong
        answer = connection.getresponse()
        assert (answer.status, b"HTTP/2 only" in answer.read()) == (505, True)
        connection.close()
        assert Path(apps["apns"]["key_file"]).exists()
        assert Path(apps["fcm"]["service_account_file"]).exists()


def invoke(*words: str) -> Result:
    """Run the command without a process of its own."""
    command = typer.Typer()
    command.command()(simulate)
    return CliRunner().invoke(command, words)


def test_each_fault_is_described_with_its_fields_and_does_something_without_further_ones() -> None:
    lines = dict(line.removeprefix("#").split(None, 1) for line in _commands().splitlines())
    assert [*lines] == list(COMMANDS)
    assert lines["latency"] == '{"seconds": ..}'
    assert lines["stall"] == '{"on": true}'
    assert lines["throttle"] == '{"rate": .., "burst": 1.0, "retry_after": null}'
    for name, fields in lines.items():
        convert({**json.loads(fields.replace("..", "1")), "platform": "fcm", "command": name}, Command)


def test_the_command_prints_tokens() -> None:
    run = invoke("--token", "stall.1")
    assert run.exit_code == 0
    tokens = {"apns": apns_token, "fcm": fcm_token, "channel": channel_id}
    printed = run.stdout.split()
    unique = bytes.fromhex(printed[1]).decode().removeprefix("sim:stall.1:")
    assert dict(zip(printed[::2], printed[1::2], strict=True)) == {
        name: make("stall.1", unique) for name, make in tokens.items()
    }
    for wrong, fault in {
        "Oops": "unknown action 'Oops'",
        "badpriority": "unknown action 'badpriority': did you mean `BadPriority`?",
        "slow": "'slow' needs a number: slow-<ms>: answer that many milliseconds late",
    }.items():
        run = invoke("--token", wrong)
        assert (run.exit_code, run.stderr.count(fault), "--token list" in run.stderr) == (2, 1, True), run.stderr

    run = invoke("--token", "Unregistered")
    assert run.stderr == "send to one: pushsvc send --apns TOKEN --title hi --follow\n"
    alone = bytes.fromhex(run.stdout.removesuffix("\n")).decode()
    assert alone.startswith("sim:Unregistered:"), "alone, as for a variable of a shell"
    for words, read in (
        (["ServiceUnavailable.2"], bytes.fromhex),
        (["slow-500", "--platform", "fcm"], str.encode),
        (["stall.1", "--platform", "channel"], base64.b64decode),
    ):
        run = invoke("--token", *words)
        token = read(run.stdout.removesuffix("\n")).decode()
        assert (run.exit_code, token.startswith(f"sim:{words[0]}:")) == (0, True)
    run = invoke("--token", "Unregistered", "--json")
    (token,) = [token for name, token in json.loads(run.stdout).items() if name == "apns"]
    assert (bytes.fromhex(token).decode().startswith("sim:Unregistered:"), run.stderr) == (True, "")
    assert "BadPriority" in json.loads(invoke("--token", "list", "--json").stdout)["apns"]
    words = ["--token", "ok", "--platform", "apsn"]
    run = invoke(*words)
    assert (run.exit_code, "did you mean `apns`?" in run.stderr) == (2, True)


def test_the_command_lists_acts_and_reasons_apart() -> None:
    run = invoke("--token", "list")
    assert (run.exit_code, run.stderr) == (0, "")
    acts, *lists = re.split(r"^Reasons that (\w+) answers with:\n", run.stdout, flags=re.MULTILINE)
    listed = dict(zip(lists[::2], lists[1::2], strict=True))
    known = TRANSPORT | MODIFIERS
    assert {re.split("[:<]", line.strip())[0].rstrip("-") for line in acts.splitlines()[3:]} == known.keys()
    assert listed.keys() == token_kinds().keys()
    for name, kind in token_kinds().items():
        reasons = listed[name].split()
        assert reasons
        assert known.keys().isdisjoint(reasons)
        assert all(kind.make(reason, "demo") for reason in reasons)


def test_the_command_says_which_port_is_taken(tmp_path: Path) -> None:
    with simulator_process(tmp_path / "one") as simulator:
        port = str(urlsplit(simulator.apns_url).port)
        arguments = ["--folder", str(tmp_path / "two"), "--apns-port", port]
        run = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert f"--apns-port: 127.0.0.1:{port} is in use (choose another port" in run.stderr
