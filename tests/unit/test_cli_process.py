"""The process around a command: closed and full standard streams, characters, and signals in the first instants."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pushsvc.cli import process, root
from pushsvc.cli.lazy import LazyCommand

PUSHSVC = f"{sys.executable} -m pushsvc"


def shell(line: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell, in which `pushsvc` is this one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PUSHSVC", "LC_", "LANG"))}
    text = line.replace("pushsvc", PUSHSVC, 1)
    return subprocess.run(
        ["sh", "-c", text], cwd=cwd, env={**kept, **environ}, capture_output=True, text=True, check=False
    )


def python(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        ("pushsvc --version >&-", 0, "", ""),
        ("pushsvc --version 2>&-", 0, "pushsvc 0.1.0\n", ""),
        ("pushsvc --version <&- >&- 2>&-", 0, "", ""),
        ("pushsvc check -c none.toml --json 2>/dev/full", 1, '{\n  "ok": false', ""),
        ("pushsvc webhooks secret >&-", 0, "", ""),
        (
            "pushsvc --version >/dev/full",
            1,
            "",
            "pushsvc: standard output cannot be written: No space left on device\n",
        ),
        (
            "pushsvc webhooks secret >/dev/full",
            1,
            "",
            "pushsvc: standard output cannot be written: No space left on device\n",
        ),
        ("pushsvc --help >/dev/full 2>/dev/full", 1, "", ""),
        ("pushsvc send - <&-", 1, "", "pushsvc: standard input cannot be read: Bad file descriptor\n"),
    ],
)
def test_closed_and_full_streams(line: str, code: int, out: str, err: str, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert (done.returncode, done.stderr) == (code, err)
    assert out in done.stdout


def test_a_reader_that_has_gone_is_no_fault_worth_a_text(tmp_path: Path) -> None:
    done = shell("(pushsvc webhooks secret; echo $? >&2) | true", tmp_path)
    assert done.stderr.strip() in ("0", "1")  # 0 where the text went before its reader did
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as broken:
        gone = subprocess.run(
            [sys.executable, "-m", "pushsvc", "--version"], stdout=broken, stderr=subprocess.PIPE, check=False
        )
    assert (gone.returncode, gone.stderr) == (1, b"")


def test_descriptors_of_closed_streams_go_to_nobody_else() -> None:
    """What is opened next must not get number 2, and with it whatever is written to standard error."""
    text = (
        "import os; from pushsvc.cli import process; [os.close(number) for number in (0, 1, 2)];"
        "process.open_closed(); number = os.open(os.devnull, os.O_RDONLY); os._exit(number)"
    )
    assert python(text).returncode > 2


@pytest.mark.parametrize(
    ("environ", "title", "reported"),
    [
        (
            {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
            "Grüße",
            "pushsvc: argument 3 cannot be read as ascii: set LC_ALL=C.UTF-8, or PYTHONUTF8=1\n",
        ),
        ({"LC_ALL": "C.UTF-8"}, "Gr\udcfc\udcdfe", "pushsvc: argument 3 cannot be read as utf-8: it is not UTF-8\n"),
    ],
)
def test_arguments_that_are_no_text(environ: dict[str, str], title: str, reported: str, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC")}
    done = subprocess.run(
        [sys.executable, "-m", "pushsvc", "send", "--title", os.fsencode(title)],
        cwd=tmp_path,
        env={**kept, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, reported)


def test_what_an_encoding_lacks_is_escaped(tmp_path: Path) -> None:
    done = shell("pushsvc check -c müller.toml 2>&-", tmp_path, PYTHONIOENCODING="ascii", LC_ALL="C.UTF-8")
    assert (done.returncode, done.stderr) == (1, "")
    assert "error\tm\\xfcller.toml\tno such file" in done.stdout


# --- signals ----------------------------------------------------------------------------------------


def test_no_signal_kills_a_part_before_it_listens_to_it() -> None:
    """SIGHUP is a reload. A stop is noted, and one that is asked for twice has ended well. Each is a fork of one."""
    commands = ("up", "serve", "dispatch", "feedback", "jobs", "live")
    text = f"""
import os, signal
from pushsvc.cli import process
for command in {commands}:
    for number in (signal.SIGTERM, signal.SIGINT):
        pid = os.fork()
        if not pid:
            process.catch_signals([command])
            os.kill(os.getpid(), signal.SIGHUP)
            print(command, process.was_stopped())
            os.kill(os.getpid(), number)
            print(command, process.was_stopped())
            os.kill(os.getpid(), number)
            print(command, "goes on")
            break
        assert os.waitpid(pid, 0)[1] == 0, (command, number)
    else:
        continue
    break
"""
    done = python(text)
    assert (done.returncode, done.stderr) == (0, "")
    once = [f"{command} {stopped}" for command in commands for stopped in (False, True)]
    assert sorted(done.stdout.splitlines()) == sorted(2 * once)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_ends_by_an_exception_that_lets_it_clean_up(number: signal.Signals) -> None:
    done = python(
        "import os; from pushsvc.cli import process; process.catch_signals(['devices', 'export'])\n"
        f"try:\n os.kill(os.getpid(), {int(number)})\nfinally:\n print('cleaned up')"
    )
    assert (done.returncode, done.stdout) == (128 + number, "cleaned up\n")


def test_a_process_that_listens_to_signals_notifies_its_supervisor() -> None:
    reported = (
        "import os; from pushsvc.cli import process; process.catch_signals(['serve']);"
        "[process.report_started() for _ in range(2)]; print(os.getpid(), process.LISTENS in os.environ)"
    )
    reader, writer = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", reported],
            env={**os.environ, process.LISTENS: str(writer)},
            pass_fds=(writer,),
            capture_output=True,
            text=True,
            check=True,
        )
        pid, kept = done.stdout.split()
        numbers = (int(pid), -int(pid))
        written = b"".join(number.to_bytes(process.PID_BYTES, "little", signed=True) for number in numbers)
        assert (os.read(reader, 64), kept) == (written, "False")
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("", ""),
        ("-c", ""),
        ("serve -n 2", "serve"),
        ("send --user u1 --via live --follow", "send"),
        ("devices import live", "devices"),
        ("-c up status X", "status"),
        ("--config up serve", "serve"),
        ("--config=x live", "live"),
        ("-cup jobs", "jobs"),
        ("-- up", "up"),
        ("check --config up", "check"),
    ],
)
def test_the_command_is_found_as_the_root_finds_it(line: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that names a part may be the value of an option, or an argument, of another command."""
    found = []

    def act(self: LazyCommand, name: str, args: list[str], **options: object) -> None:
        found.append(name)
        raise SystemExit

    monkeypatch.setattr(LazyCommand, "make_context", act)
    root.run(line.split())
    assert (process.subcommand(line.split()), found) == (command, [command] if command else [])


def test_ctrl_c_ends_a_command_whose_options_name_a_part() -> None:
    done = python(
        "import os, signal; from pushsvc.cli import process\n"
        "process.catch_signals(['send', '--user', 'u1', '--via', 'live', '--follow'])\n"
        "try:\n os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt:\n print('at once')"
    )
    assert (done.returncode, done.stdout) == (0, "at once\n")


def test_an_ignored_signal_stays_ignored() -> None:
    done = python(
        "import os, signal; from pushsvc.cli import process; signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "process.catch_signals(['failed']); os.kill(os.getpid(), signal.SIGHUP); print('lives')"
    )
    assert (done.returncode, done.stdout) == (0, "lives\n")


def test_signals_are_caught_before_anything_is_imported() -> None:
    text = (
        "import sys; sys.argv = ['pushsvc', 'serve']; import pushsvc.cli.process as process;"
        "print(sorted({'typer', 'msgspec', 'aiohttp', 'asyncio', 'dataclasses'}.intersection(sys.modules)))"
    )
    assert python(text).stdout == "[]\n"


@pytest.mark.parametrize(
    "stopped_in",
    [
        "ref = weakref.ref(thing, lambda ref: [stop(), len([])])\ndel thing",  # whose exceptions are ignored
        "type('Owner', (), {'at': type('Named', (), {'__set_name__': lambda *_: [stop(), len([])]})()})",  # and wrapped
    ],
)
def test_a_part_ends_that_was_stopped_where_exceptions_do_not_pass(stopped_in: str) -> None:
    done = python(
        "import asyncio, os, signal, weakref\n"
        "from pushsvc.cli import process\n"
        "from pushsvc.cli.service.parts import until_signalled\n"
        "process.catch_signals(['dispatch'])\n"
        "class Thing: pass\n"
        "thing = Thing()\n"
        "def stop(): os.kill(os.getpid(), signal.SIGTERM)\n"
        f"{stopped_in}\n"
        "async def main(): print(until_signalled().is_set())\n"
        "asyncio.run(main())\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
