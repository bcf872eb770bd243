"""Whatever is typed, and whatever stands in the configuration: a text and an exit code, never a traceback."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from pushsvc import cli
from pushsvc.cli.lazy import LazyCommand

EXAMPLE = (Path(__file__).parents[2] / "config" / "example.toml").read_text(encoding="utf-8")
QUIET = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
SERVES = {"demo", "up", "serve", "dispatch", "feedback", "jobs", "live", "simulate", "bench", "check"}
"""Commands that begin something, or look at the machine: what they read is tried by the others."""


@pytest.fixture(autouse=True)
def _nothing_to_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PUSHSVC")]:
        monkeypatch.delenv(name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    # Nobody listens there, and no store runs here.
    (tmp_path / "pushsvc.toml").write_text(
        '[server]\nport = 1\n[apps.shop.apns]\ntopic = "t"\nkey_file = "k.p8"\nkey_id = "i"\nteam_id = "t"\n'
    )
    monkeypatch.setenv("PUSHSVC_CONFIG", str(tmp_path / "pushsvc.toml"))
    monkeypatch.setenv("NO_COLOR", "1")


def commands() -> list[tuple[tuple[str, ...], Any]]:
    """Each command by its words."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, (target, reported) in cli.COMMANDS.items():
        if name not in SERVES:
            loaded = LazyCommand(name, target, reported, cli.__name__).load()
            inner = getattr(loaded, "commands", None)
            found += [((name, each), command) for each, command in inner.items()] if inner else [((name,), loaded)]
    return found


# A shell hands over anything but a NUL; what is no text is refused before, see test_cli_process.py.
words = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["shop", "-", "--", "apns", "1e999", "-1", "0", "9" * 30, "2026-13-01", "9999999w", "NaN", "{}", "a=b", "../x",
         "http://127.0.0.1:1", "https://[", "http://\u2028", "key", ".", "/", "/dev/null", "2h", "0.5", "x" * 300]
    ),
)  # fmt: skip


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    path, command = draw(st.sampled_from(COMMANDS))
    line = list(path)
    for parameter in draw(st.lists(st.sampled_from(command.params), max_size=5)):
        if parameter.param_type_name == "argument":
            line.append(draw(words))
        elif parameter.name in ("help", "config"):
            continue
        else:
            line.append(draw(st.sampled_from(parameter.opts)))
            line += [] if parameter.is_flag else [draw(words)]
    return line


COMMANDS = commands()


def test_what_prints_data_prints_it_as_json() -> None:
    """All but what runs until it is stopped, and what writes a file in a format of its own."""
    as_json = [path for path, command in COMMANDS if any("--json" in each.opts for each in command.params)]
    assert {path for path, _ in COMMANDS} - {*as_json} == {("init",), ("devices", "export")}


@given(line=lines())
@QUIET
def test_any_line(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line) in (0, 1, 2), line
    assert "Traceback" not in capsys.readouterr().err


VALUES = [match.span(1) for match in re.finditer(r"^(?:# )?\w+ = (.+)$", EXAMPLE, re.MULTILINE)]
toml = st.one_of(
    st.text(max_size=10).map(lambda text: '"' + text.encode("unicode_escape").decode().replace('"', "'") + '"'),
    st.sampled_from(
        ['"a\\u0000b"', "1e400", "-1", "nan", "[]", "[[1]]", "{}", "true", "1979-05-27", '"x" # y', "0x", "''",
         "9" * 40,         '"redis://[::1"', '"http://\\u0000"', '"/"', '"~nobody-here/x"', "''''''"]
    ),
)  # fmt: skip


@given(span=st.sampled_from(VALUES), value=toml)
@QUIET
def test_any_value_of_the_configuration(
    span: tuple[int, int], value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fuzzed.toml"
    file.write_text(EXAMPLE[: span[0]] + value + EXAMPLE[span[1] :], encoding="utf-8")
    assert cli.main(["keys", "list", "--config", str(file)]) in (0, 1), value
    assert "Traceback" not in capsys.readouterr().err


@given(blob=st.binary(max_size=60))
@QUIET
def test_any_bytes_as_configuration_and_as_push(blob: bytes, tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(blob)
    assert cli.main(["keys", "list", "--config", str(file)]) == 1
    assert cli.main(["send", str(file), "--key", "k", "--url", "http://127.0.0.1:1"]) in (1, 2)
