"""The file for /etc/cron.d says what cron reads, and names a command that there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pushsvc import cli
from pushsvc.cli.lazy import LazyCommand

FILE = Path(__file__).parents[2] / "config" / "cron.d" / "pushsvc"
WHEN = re.compile(r"(?:[0-9*/,-]+ ){5}")


def test_each_line_is_a_comment_a_variable_or_a_command() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert text.endswith("\n")  # cron leaves a last line without one out
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    variables = [line for line in lines if re.fullmatch(r"[A-Z_]+=\S+", line)]
    (job,) = [line for line in lines if line not in variables]
    assert {line.partition("=")[0] for line in variables} == {"SHELL", "PATH", "MAILTO", "PUSHSVC_CONFIG"}
    when = WHEN.match(job)
    assert when, "five fields of time"
    assert "|" not in job, "a pipe ends with the code of its last command, and takes what the first one says with it"
    assert "2>" not in job, "what is written to standard error is mailed"
    user, program, name, *words = job[when.end() :].split(">")[0].split()
    assert (user, program) == ("pushsvc", "pushsvc")
    assert "%" not in job, "cron takes it for the end of the line"
    loaded: Any = LazyCommand(name, *cli.COMMANDS[name], cli.__name__).load()
    options = {option for parameter in loaded.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options
