"""The command line without a server: its root, its errors, and the pure parts of its commands."""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import sys
import typing
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.core import TyperArgument, TyperGroup

from pushsvc import cli
from pushsvc.cli.access import Access, access
from pushsvc.cli.check import _print, _quiet
from pushsvc.cli.lazy import LazyCommand
from pushsvc.cli.operator.store import StoreOperator
from pushsvc.cli.output import COUNTS, counted, counts_line, print_json, print_table
from pushsvc.cli.process import PARTS
from pushsvc.cli.pushes.follow import ended, verdict, waits_for
from pushsvc.cli.pushes.replay import _replay
from pushsvc.cli.pushes.send import lay_over, read_document
from pushsvc.cli.service import jobs as jobs_command, parts as part_commands
from pushsvc.cli.state import State
from pushsvc.errors import ConfigError, PushsvcError, StoreUnavailable
from pushsvc.model.access import ApiKey
from pushsvc.model.push import Route
from pushsvc.model.status import Counts
from pushsvc.ports.admin import CheckFinding
from pushsvc.ports.conditions import condition
from pushsvc.ports.letters import DeadFilter, ReplaySpec, ReplayStatus
from pushsvc.ports.store import Inspection
from pushsvc.ports.work import RemovedRoute
from pushsvc.providers.files import check_dates
from pushsvc.runtime.checks.check import (
    judge_clocks,
    judge_conditions,
    judge_held,
    judge_keys,
    judge_removed,
    judge_server,
    once,
)
from pushsvc.runtime.checks.configuration import faults_of
from pushsvc.runtime.state.admin import concerns
from pushsvc.settings import processes as counted_processes
from pushsvc.settings.loading import SIMULATED
from pushsvc.settings.schema import AppSettings, KeySettings, LoggingSettings, Settings


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    reported = capsys.readouterr().out
    for name, (_, text) in cli.COMMANDS.items():
        assert f" {name} " in reported
        assert text in reported
    assert "--config" in reported


@pytest.mark.parametrize("name", ["send", "status", "cancel", "keys", "check"])
def test_each_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    reported = capsys.readouterr().out
    assert f"Usage: pushsvc {name}" in reported
    assert "{" not in reported.partition("\n\n")[0]
    # A group shows it at its commands.
    if name == "keys":
        assert cli.main([name, "new", "-h"]) == 0
        reported = capsys.readouterr().out
    assert "--config" in reported
    assert "--json" in reported


@pytest.mark.parametrize("group", ["channels", "devices", "keys", "pushes", "users", "webhooks"])
def test_the_summary_of_no_command_is_cut(
    group: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([group, "--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


def test_the_playground_of_the_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert State().server_url() == "http://127.0.0.1:8080"
    folder = tmp_path / "var" / "playground"
    folder.mkdir(parents=True)
    (folder / "pushsvc.toml").write_text("[server]\nport = 8181\n")
    assert State().server_url() == "http://127.0.0.1:8181"
    assert capsys.readouterr().err == "using the playground: --config var/playground/pushsvc.toml\n"
    assert State(seeks=False).server_url() == "http://127.0.0.1:8080"
    other = tmp_path / "other.toml"
    other.write_text("[server]\nport = 8282\n")
    assert State(other).server_url() == "http://127.0.0.1:8282"
    monkeypatch.setenv("PUSHSVC__SERVER__PORT", "8383")
    assert State().server_url() == "http://127.0.0.1:8383"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "command",
    [["keys", "list"], ["stats"], ["failed"], ["webhooks", "list"], ["cleanup", "--dry-run"]],
    ids=lambda command: command[0],
)
def test_a_command_that_reads_starts_no_store(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pushsvc.toml").write_text('[apps.shop.fcm]\nservice_account_file = "key.json"\n')
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    assert cli.main([*command, "--config", "pushsvc.toml"]) == 1
    assert os.getpriority(os.PRIO_PROCESS, 0) == priority  # of a process that does other work as well
    reported = capsys.readouterr().err
    assert "no store runs in" in reported
    assert "(`pushsvc up`)" in reported
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pushsvc.toml"]


def test_a_stopped_playground_is_started_as_a_playground(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(f"{SIMULATED}.\n[apps.demo.live]\nsecret = '{'s' * 40}'\n")
    assert cli.main(["keys", "list", "--config", "own.toml"]) == 1
    assert "(`pushsvc up --simulator`)" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    heavy = [
        "firebase_admin",
        "aioapns",
        "aiohttp",
        "structlog",
        "prometheus_client",
        "redis",
        "rq",
        "uvloop",
        "msgspec",
    ]
    text = (
        f"import sys; from pushsvc.cli import main; main(['--help']); print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "pushsvc 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        ([], "Usage: pushsvc"),
        (["sned"], "Did you mean 'send'?"),
        (["--nope"], "No such option"),
        (["send", "--apns"], "requires an argument"),
        (["send"], "Error: No receiver"),
        (
            ["send", "--apns", "t"],
            "Error: No API key: set PUSHSVC_KEY, or give --key. `pushsvc keys new` makes one; `pushsvc up",
        ),
        (
            ["send", "--apns", "t", "--app", "my-shop"],
            "No API key for 'my-shop': set PUSHSVC_KEY_MY_SHOP or PUSHSVC_KEY",
        ),
        (["send", "--apns", "t", "--data", "x"], "--data takes NAME=VALUE, not 'x'"),
        (["replay", "--push", "nonsense"], "--push: 'nonsense' is not the id of a push; ids are UUIDs"),
        (["send", "--apns", "t", "--lane", "fast"], "Invalid value for '--lane'"),
        (["replay", "--rate", "inf"], "--rate: expected a finite number, not inf"),
        (["send", "--all", "--ack-within", "nan"], "--ack-within: expected a finite number, not nan"),
        (["status"], "Missing argument"),
        (["status", "x", "--key", "a\nb"], "The API key holds characters that no key has"),
        (["status", "x", "--key", "k", "--url", "ftp://h"], "'ftp://h' is not a URL"),
        (["status", "x", "--key", "k", "--url", "http://"], "'http://' is not a URL"),
        (["keys", "new", "--app", "shop"], "Missing option '--name'"),
        (
            ["keys", "new", "--app", "a", "--name", "n", "--scope", "root"],
            "--scope: unknown scope 'root'; known: admin, devices, feedback, push",
        ),
        *(
            (
                ["serve", "--processes", text],
                "Invalid value for '--processes' / '-n': expected a whole number of at least 1, or \"auto\" for half "
                f"of the cores, or 0 for what is configured; found '{text}'",
            )
            for text in ("many", "-1", "1.5", "")
        ),
    ],
)
def test_wrong_usage(arguments: list[str], reported: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert reported in " ".join(captured.err.split())
    assert captured.out == ""


@pytest.mark.parametrize("part", ["serve", "dispatch", "feedback", "jobs", "live"])
@pytest.mark.parametrize(
    ("words", "number"),
    [((), 7), (("-n", "0"), 7), (("-n", "3"), 3), (("-n", "auto"), 4), (("--processes", "auto"), 4)],
    ids=["none", "zero", "number", "auto", "auto in full"],
)
def test_the_number_of_processes(
    part: str, words: tuple[str, ...], number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "pushsvc.toml"
    configured = "".join(f"[{name}]\nprocesses = 7\n" for name in ("server", "dispatch", "jobs", "live"))
    config.write_text(f"{configured}[apps.shop.live]\nsecret = '{'s' * 40}'\n")
    asked: list[tuple[str, int]] = []
    for module in (part_commands, jobs_command):
        monkeypatch.setattr(module, "run_part", lambda part, number, *rest: asked.append((part, number)))
    monkeypatch.setattr(counted_processes, "cores", lambda: 8)
    assert cli.main(["--config", str(config), part, *words]) == 0
    # Feedback has no number in the configuration.
    assert asked == [(part, 1 if part == "feedback" and number == 7 else number)]


def _commands(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command with the words that call it."""
    if isinstance(command, LazyCommand):
        command = command.load()
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            yield from _commands(inner, *words, name)
    else:
        yield words, command


EVERY = {
    words: command
    for name, (target, text) in cli.COMMANDS.items()
    for words, command in _commands(LazyCommand(name, target, text, "pushsvc.cli"), name)
}
GIVEN = {"app": "shop", "name": "n", "file": "-", "push_id": "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"}
"""What a command is given for what it needs; a word without a meaning for all else."""
HERE = {*((part,) for part in PARTS), ("demo",), ("init",), ("simulate",), ("bench",), ("webhooks", "secret")}
"""The commands that are about this machine, or need its configuration beside a service."""


@pytest.mark.parametrize("words", sorted(EVERY.keys() - HERE), ids=" ".join)
def test_a_service_that_is_named_with_its_key_needs_no_configuration(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.toml").write_text("[nonsense]\n")
    monkeypatch.setenv("PUSHSVC_CONFIG", str(tmp_path / "broken.toml"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"to": {"all": true}}')))
    given = [
        *(GIVEN.get(option.name, "apns") for option in EVERY[words].params if isinstance(option, TyperArgument)),
        *("--url", "http://127.0.0.1:1", "--key", "k"),
    ]
    for option in EVERY[words].params:
        if option.required and not isinstance(option, TyperArgument):
            given += [option.opts[0], GIVEN[option.name]]
    assert cli.main([*words, *given]) == 1
    err = capsys.readouterr().err
    assert ("127.0.0.1:1" in err, "nonsense" in err) == (True, False)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_help_shows_no_types_of_python(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--help"]) == 0
    assert re.findall(r"<(?:int|float|str|path)[^>]*>", capsys.readouterr().out) == []


def _raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run() -> None:
        raise error

    module = type(sys)("pushsvc.cli.raising")
    module.run = run  # type: ignore[attr-defined]  # a module made up for the test
    monkeypatch.setitem(sys.modules, "pushsvc.cli.raising", module)
    monkeypatch.setitem(cli.COMMANDS, "raise", ("raising:run", "Raises."))


@pytest.mark.parametrize(
    ("error", "code", "reported"),
    [
        (ConfigError("server.port", "taken", "choose another"), 1, "pushsvc: server.port: taken (choose another)\n"),
        (StoreUnavailable("Redis is away", "start it"), 1, "pushsvc: Redis is away (start it)\n"),
        (StoreUnavailable("Redis is away"), 1, "pushsvc: Redis is away\n"),
        (KeyboardInterrupt(), 130, ""),
        (typer.Exit(3), 3, ""),
        (SystemExit("text"), 1, ""),
        (
            ExceptionGroup(
                "tasks", [PushsvcError("a"), ExceptionGroup("more", [PushsvcError("b"), PushsvcError("a")])]
            ),
            1,
            "pushsvc: a\npushsvc: b\n",
        ),
    ],
)
def test_errors_of_ours_are_one_line(
    error: BaseException, code: int, reported: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _raising(monkeypatch, error)
    assert cli.main(["raise"]) == code
    captured = capsys.readouterr()
    assert captured.err == reported
    assert captured.out == ""


@pytest.mark.parametrize(
    ("message", "remedy", "found"),
    [
        ("is missing: expected a string", "in x.toml", ("is missing: expected a string", "add it")),
        ("is missing: expected a string", "", ("is missing: expected a string", "add it")),
        ("expected a number, found a list", "in x.toml", ("found a list", "give a number")),
        ("unknown key; did you mean `a`?", "in x.toml", ("unknown key", "did you mean `a`?")),
        ("names no app", "add one", ("names no app", "add one")),
        ("is not even", "", ("is not even", "give it another value")),
    ],
)
def test_a_check_says_what_to_do(message: str, remedy: str, found: tuple[str, str]) -> None:
    (finding,) = faults_of(ConfigError("x", message, remedy))
    assert (finding.what, finding.fix) == found


def test_a_held_route_is_not_shown_beside_its_cause() -> None:
    held = list(judge_held({"shop/apns/sandbox": "bad key", "shop/fcm": "bad key"}))
    good = CheckFinding("apps.shop.fcm", "ok", "the file is good")
    cause = CheckFinding("apps.shop.apns/sandbox", "error", "no such file", "correct `key_file`")
    assert once([*held, good, cause]) == [held[1], good, cause]


def test_a_held_route_is_found_with_its_remedy() -> None:
    (found,) = judge_held({"shop/apns": "InvalidProviderToken: correct `key_file`"})
    assert (found.what, found.fix) == ("the route is currently held: InvalidProviderToken", "correct `key_file`")


def test_a_check_shows_the_log_of_connections_only_where_it_was_asked_for() -> None:
    for level in ("info", "warning", "error"):
        assert _quiet(Settings(logging=LoggingSettings(level=level))).logging.level == "critical"
    asked = Settings(logging=LoggingSettings(level="debug"))
    assert _quiet(asked) is asked


@pytest.mark.parametrize("error", [ZeroDivisionError(), ExceptionGroup("tasks", [PushsvcError("a"), KeyError("b")])])
def test_a_bug_is_shown_whole(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    _raising(monkeypatch, error)
    with pytest.raises(type(error)):
        cli.main(["raise"])


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (["probe"], None),
        (["--config", "a", "probe"], "a"),
        (["probe", "--config", "b"], "b"),
        (["-c", "a", "probe", "-c", "b"], "b"),
    ],
)
def test_the_configuration_may_be_named_before_and_after_the_command(
    arguments: Sequence[str], seen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Path | None] = []

    def probe(context: typer.Context) -> None:
        found.append(context.obj.config)

    module = type(sys)("pushsvc.cli.probing")
    # Typer reads the annotations as they stand, so they must be types and not their names.
    probe.__annotations__ = typing.get_type_hints(probe)
    module.probe = probe  # type: ignore[attr-defined]  # a module made up for the test
    monkeypatch.setitem(sys.modules, "pushsvc.cli.probing", module)
    monkeypatch.setitem(cli.COMMANDS, "probe", ("probing:probe", "Probes."))
    assert cli.main(arguments) == 0
    assert cli.main([arguments[0], *arguments[1:]]) == 0
    assert found == [Path(seen) if seen else None] * 2
    monkeypatch.setenv("PUSHSVC_CONFIG", "env")
    assert cli.main(arguments) == 0
    assert found[-1] == Path(seen or "env")


def test_flags_are_laid_over_the_document() -> None:
    document = {"to": {"topic": "x"}, "notification": {"title": "old", "body": "kept"}, "data": {"a": "1"}, "ttl": 5}
    lay_over(
        document,
        to={"tokens": [{"platform": "apns", "token": "t"}]},
        notification={"title": "new"},
        data={"b": "2"},
        rest={"ttl": 9},
    )
    assert document == {
        "to": {"tokens": [{"platform": "apns", "token": "t"}]},
        "notification": {"title": "new", "body": "kept"},
        "data": {"a": "1", "b": "2"},
        "ttl": 9,
    }
    untouched = {"to": {"topic": "x"}}
    lay_over(untouched, to={}, notification={}, data={}, rest={})
    assert untouched == {"to": {"topic": "x"}}


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (None, "No such file or directory"),
        (b"{", "is not JSON: Input data was truncated"),
        (b"\xff", "is not JSON: "),
        (b"[1]", "does not hold a push document"),
    ],
)
def test_an_unreadable_document(tmp_path: Path, content: bytes | None, reported: str) -> None:
    file = tmp_path / "push.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PushsvcError, match=f"{file}.*{reported}"):
        read_document(file)


def test_a_document_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"to": 1}')))
    assert msgspec.json.encode(read_document(Path("-"))) == b'{"to":1}'


def test_numbers_of_a_document_go_out_as_they_stand_there(tmp_path: Path) -> None:
    file = tmp_path / "push.json"
    exact = '{"x": 1.10, "y": 9007199254740993.0, "z": [1e400, 0.1000000000000000055511151231257827]}'
    start = '{"to": {"topic": "a"}, "ttl": 3600.0, "data": {"k": "v"}, "overrides": {"apns": {"payload": '
    file.write_text(start + exact + "}}}")
    document = read_document(file)
    lay_over(document, to={}, notification={"title": "t"}, data={"a": "b"}, rest={"silent": True})
    sent = msgspec.json.encode(document).decode()
    assert exact in sent
    assert '"ttl":3600.0' in sent
    assert '"data":{"k":"v","a":"b"}' in sent.replace('"k": "v"', '"k":"v"')
    assert '"notification":{"title":"t"}' in sent


@pytest.mark.parametrize("command", [["failed"], ["replay"], ["devices", "restore"]])
def test_a_platform_that_there_is_not_is_wrong_usage(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, "--platform", "apsn"]) == 2
    assert "--platform: unknown platform 'apsn'; did you mean `apns`?" in " ".join(capsys.readouterr().err.split())


def test_the_key_comes_from_the_environment_of_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHSVC_KEY_MY_SHOP", "theirs\n")
    at = access(State(), "http://h:1/", "general", "my-shop")
    assert (at.url, at.key) == ("http://h:1", "theirs")
    assert access(State(), "http://h", "general", "") == Access("http://h", "general")
    assert "theirs" not in repr(at)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:81"),
        ("0.0.0.0", "http://127.0.0.1:81"),
        ("::", "http://[::1]:81"),
        ("::1", "http://[::1]:81"),
        ("push.example", "http://push.example:81"),
    ],
)
def test_the_url_comes_from_the_configuration(tmp_path: Path, host: str, url: str) -> None:
    file = tmp_path / "x.toml"
    # Sections that need a provider are not looked at.
    file.write_text(f'[server]\nhost = "{host}"\nport = 81\n[apps.a.unheard_of]\n')
    assert State(file).server_url() == url


def test_the_servers_section_alone_still_has_to_be_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHSVC__SERVER__PORT", "9")
    monkeypatch.setenv("PUSHSVC__APPS__A__APNS__KEY_ID", "x")
    assert State().server_url() == "http://127.0.0.1:9"
    monkeypatch.setenv("PUSHSVC__SERVER__PORT", "x")
    with pytest.raises(ConfigError, match="PUSHSVC__SERVER__PORT"):
        State().server_url()


def test_counts_in_a_line() -> None:
    counts = {"total": 1004, "sent": 1000, "failed": 1, "queued": 2, "retrying": 1, "invalid": 0}
    assert counts_line(counts) == "1,001 of 1,004: 1,000 sent, 1 failed, 1 retrying, 2 queued"
    assert counts_line({"total": 0}) == "0 of 0"
    assert {"total", *COUNTS} == set(Counts.__struct_fields__)


@pytest.mark.parametrize(
    ("status", "before", "waits"),
    [
        ({"counts": {"queued": 2}}, {}, {}),
        ({"counts": {"queued": 2}}, {"state": "sending", "counts": {"queued": 3}}, {}),
        ({"counts": {"queued": 2}}, {"state": "sending", "counts": {"queued": 2}}, {"": "nothing has changed"}),
        ({"counts": {"queued": 1}, "live": {"waiting": 1}}, {}, {"live": "1 delivery waits for its device: one"}),
        ({"counts": {"queued": 2}, "live": {"waiting": 2}}, {}, {"live": "2 deliveries wait for their devices: one"}),
        ({"counts": {"queued": 2, "retrying": 1}, "live": {"waiting": 2}}, {}, {}),
        ({"counts": {"queued": 1}, "held": {"shop/fcm": "why"}}, {}, {"shop/fcm": "held: shop/fcm: why"}),
        ({"state": "scheduled", "counts": {"queued": 1}, "held": {"shop/fcm": "why"}}, {}, {}),
    ],
)
def test_what_a_followed_push_waits_for(status: dict[str, Any], before: dict[str, Any], waits: dict[str, str]) -> None:
    found = waits_for({"state": "sending", **status}, before)
    assert {what: text[: len(waits.get(what, ""))] for what, text in found.items()} == waits


@pytest.mark.parametrize(
    ("state", "counts", "over", "good"),
    [
        ("sending", {"total": 1, "queued": 1}, False, False),
        ("done", {"total": 1, "sent": 1}, True, True),
        ("done", {"total": 2, "sent": 1, "failed": 1}, True, True),
        ("done", {"total": 1, "failed": 1}, True, False),
        ("done", {"total": 0}, True, False),
        ("cancelled", {"total": 2, "cancelled": 1, "queued": 1}, False, False),
        ("cancelled", {"total": 1, "cancelled": 1}, True, False),
    ],
)
def test_when_a_push_has_ended(
    state: str, counts: dict[str, int], over: bool, good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {"state": state, "counts": counts}
    assert ended(document) is over
    assert verdict(document) is good
    assert ("No device matched `to`" in capsys.readouterr().err) is (counts["total"] == 0)


@pytest.mark.parametrize(
    ("info", "missing", "levels", "reported"),
    [
        ({"redis_version": "7.0.15"}, [], ["ok"], "at x: Redis 7.0.15"),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, [], ["ok"], "Valkey 9.1.2"),
        ({"redis_version": "5.0"}, ["XAUTOCLAIM"], ["error"], "Redis 5.0 lacks XAUTOCLAIM"),
        (
            {"redis_version": "7.0", "maxmemory": 1, "maxmemory_policy": "allkeys-lru", "aof_enabled": 0},
            [],
            ["ok", "error", "warning"],
            "drops keys (allkeys-lru)",
        ),
        ({"redis_version": "7.0", "maxmemory": 0, "maxmemory_policy": "allkeys-lru"}, [], ["ok"], ""),
        ({"node:1": {"redis_version": "7.1", "aof_enabled": 1}}, [], ["ok"], "Redis 7.1"),
        ({}, [], ["ok"], "Redis of unknown version"),
    ],
)
def test_what_is_said_of_a_server(
    info: dict[str, object], missing: list[str], levels: list[str], reported: str
) -> None:
    rows = list(judge_server("at x", Inspection(info, missing, [], 0.0)))
    assert [row.level for row in rows] == levels
    assert reported in " ".join(row.what for row in rows)
    assert all(row.fix for row in rows if row.level != "ok")


def test_the_end_of_a_certificate_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    end = datetime(2026, 12, 21, tzinfo=UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "push.example")])
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, end - timedelta(90), end)
    signed = builder.sign(key, hashes.SHA256())
    rows = []
    for days in (-60, -5, 1):
        found = check_dates("c.pem", signed, (end + timedelta(days)).timestamp(), soon=10 * 86_400, remedy="renew it")
        rows.append(CheckFinding("apps.shop.apns", found.level, found.what, found.remedy, found.expires))
    _print(rows)
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.count("2026-12-21") for line in lines] == [1, 1, 1]


def test_tables_are_tabs_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "b"), [("1", "two\nlines"), ("[bold]", "")])
    print_json({"z": 1, "a": ["ü"]})
    assert capsys.readouterr().out == 'a\tb\n1\ttwo lines\n[bold]\t\n{\n  "z": 1,\n  "a": [\n    "ü"\n  ]\n}\n'


def test_tables_at_a_terminal_take_nothing_for_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_table(("", "part"), [("error", "[red]apps[/red]")], marks={"error": "red"})
    assert "[red]apps[/red]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("configured", "stored", "reported"),
    [
        ([], 1, [("ok", "1 API key in the store")]),
        ([], 2, [("ok", "2 API keys in the store")]),
        ([], 0, [("warning", "no API key: no caller can push")]),
        ([], None, [("ok", "no API key in the configuration; those in the store can be read once it runs")]),
        (["a" * 64], None, []),
        (["a" * 64], 0, []),
        (["a" * 64], 1, [("ok", "1 API key in the store")]),
    ],
)
def test_apps_that_nobody_can_push_to_are_named(
    configured: list[str], stored: int | None, reported: list[tuple[str, str]]
) -> None:
    own = tuple(KeySettings(name=f"k{n}", sha256=each) for n, each in enumerate(configured))
    settings = Settings(apps={"shop": AppSettings(name="shop", keys=own)})
    keys = None if stored is None else [ApiKey(f"s{n}", "shop", f"{n:064}", ("push",)) for n in range(1, stored + 1)]
    assert [(row.level, row.what) for row in judge_keys(settings, keys)] == reported


def test_one_is_no_plural() -> None:
    assert [counted(n, "device") for n in (0, 1, 2000)] == ["0 devices", "1 device", "2,000 devices"]
    assert counted(2, "delivery", "deliveries") == "2 deliveries"


def test_clocks_that_differ_are_pointed_out() -> None:
    assert list(judge_clocks(2.0)) == []
    (near,), (far,) = list(judge_clocks(-20.0)), list(judge_clocks(3600.0))
    assert (near.level, far.level) == ("warning", "error")
    assert "InvalidProviderToken" in far.what


def test_a_server_that_may_not_be_asked_is_no_error() -> None:
    (row,) = judge_server("redis://h", Inspection(None, None, [], 0.0))
    assert row.level == "warning"


def test_a_replay_that_nobody_watches_any_more_says_that_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    status = ReplayStatus(
        job="0199ab", spec=ReplaySpec("shop", DeadFilter()), state="running", created_at=1, updated_at=1, matched=60
    )

    class Dead:
        async def count(self, app: str, which: DeadFilter) -> int:
            return 60

        async def request(self, spec: ReplaySpec) -> ReplayStatus:
            return status

        async def replay(self, app: str, job: str) -> ReplayStatus:
            watched.set()
            return status

    @asynccontextmanager
    async def opened(settings: object) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(dead=Dead())

    async def main() -> None:
        task = asyncio.ensure_future(_replay(operator, DeadFilter(), 0, 0.0, dry_run=False, detach=False, json=False))
        await watched.wait()
        task.cancel()  # as Ctrl-C does
        with pytest.raises(asyncio.CancelledError):
            await task

    watched = asyncio.Event()
    operator = StoreOperator(Settings(), ["shop"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pushsvc.cli.operator.store.open_running_store", opened)
        asyncio.run(main())
    assert "`pushsvc jobs` continues the replay 0199ab of shop" in capsys.readouterr().err


def test_a_check_names_what_waits_for_accounts_that_the_configuration_lacks() -> None:
    settings = Settings(apps={"shop": AppSettings(name="shop")})
    (row,) = judge_removed(settings, [RemovedRoute(Route("shop", "fcm"), 20)])
    assert (row.part, row.level) == ("apps.shop.fcm", "warning")
    assert row.what == "the app has no account `fcm` any more, 20 deliveries wait"
    assert row.fix.startswith("add [apps.shop.fcm] again, or cancel the pushes;")
    (row,) = judge_removed(settings, [RemovedRoute(Route("shop", "live"), 1)])
    assert row.what == "the app has no live channel any more, 1 delivery waits"
    assert row.fix.startswith("add [apps.shop.live] again, or cancel the pushes;")


def test_a_check_by_a_key_shows_no_trouble_of_other_apps() -> None:
    found = list(
        judge_conditions(
            [
                condition("webhook", "shop", "c", "r", app="shop"),
                condition("unserved", "live shop", "c", "r", app="shop"),
                condition("unserved", "shop/fcm", "c", "r", app="shop"),
                condition("frozen", "shop/apns", "c", "r", app="shop"),
                condition("emptied", "redis", "c", "r"),
                condition("unserved", "jobs", "c", "r"),
                condition("silent", "dispatch host-1", "c", "r"),
            ]
        )
    )
    everyones = ["redis", "jobs", "dispatch host-1"]
    own = ["apps.shop.webhook", "apps.shop.live", "apps.shop.fcm", "apps.shop.apns"]
    assert [each.part for each in found if concerns(each.part, "shop")] == [*own, *everyones]
    assert [each.part for each in found if concerns(each.part, "news")] == everyones
