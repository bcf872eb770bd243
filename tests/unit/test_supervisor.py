"""The supervisor: starts again what falls over, stops in order, and is not brought down by what it looks after."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from pushsvc import telemetry
from pushsvc.cli.process import LISTENS, PID_BYTES
from pushsvc.cli.service import children
from pushsvc.cli.service.children import LIFELINE, Child, Forked, Ready, child_of, children_of, forked
from pushsvc.cli.service.parts import grace_of
from pushsvc.cli.service.supervisor import Supervisor, watch_lifeline
from pushsvc.jobs.process import LAST
from pushsvc.settings.live import LiveSettings
from pushsvc.settings.processes import COPIES
from pushsvc.settings.schema import DispatchSettings, JobsSettings, ServerSettings, Settings
from pushsvc.telemetry import SharedFolder

from .virtual_time import VirtualLoop, run, until

LOOP = VirtualLoop
SERVE = Child("serve", ("serve",), stage=0)
DISPATCH = Child("dispatch", ("dispatch",), stage=1, copies=2)
FEEDBACK = Child("feedback", ("feedback",), stage=2)


class Process:
    """What asyncio gives for a started process, as far as the supervisor looks at it."""

    def __init__(self, pid: int, arguments: tuple[str, ...], options: dict[str, Any], system: System) -> None:
        self.pid = pid
        self.name = arguments[3]
        self.environ: dict[str, str] = options["env"]
        self.options = options
        self._system = system
        self._over: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def lives(self) -> bool:
        return not self._over.done()

    def end(self, status: int) -> None:
        self._system.note(f"end {self.name}")
        self._over.set_result(status)

    async def wait(self) -> int:
        return await asyncio.shield(self._over)

    def send_signal(self, number: int) -> None:
        if not self.lives:
            raise ProcessLookupError
        if number == signal.SIGHUP:
            self._system.note(f"hup {self.name}")
            return
        assert number == signal.SIGTERM
        self._system.note(f"term {self.name}")
        self._system.on_term(self)

    def kill(self) -> None:
        if not self.lives:
            raise ProcessLookupError
        self._system.note(f"kill {self.name}")
        self.end(-9)


class System:
    """The operating system: starts processes and notes what is done to them, with the time."""

    def __init__(self) -> None:
        self.started: list[Process] = []
        self.story: list[str] = []
        self.refuses = 0
        """How many more starts fail."""
        self.on_term: Callable[[Process], None] = lambda process: process.end(0)
        self._pids = itertools.count(100)

    def note(self, what: str) -> None:
        self.story.append(what)

    def of(self, name: str) -> list[Process]:
        return [process for process in self.started if process.name == name]

    def living(self, name: str) -> list[Process]:
        return [process for process in self.of(name) if process.lives]

    async def start(self, *arguments: str, **options: Any) -> Process:
        await asyncio.sleep(0.001)
        if self.refuses:
            self.refuses -= 1
            raise BlockingIOError("fork: resource temporarily unavailable")
        process = Process(next(self._pids), arguments, options, self)
        self.started.append(process)
        self.note(f"start {process.name}")
        return process


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    own = System()
    monkeypatch.setattr(asyncio, "create_subprocess_exec", own.start)
    yield own
    assert [process.name for process in own.started if process.lives] == []


def supervise(*children: Child, grace: float = 30.0, **options: Any) -> Supervisor:
    return Supervisor(children, environ={"PATH": "/bin"}, grace=grace, **options)


async def test_every_copy_is_started_with_the_lifeline_and_a_session_of_its_own(system: System) -> None:
    async with supervise(SERVE, DISPATCH):
        await until(lambda: len(system.started) == 3)
        for process in system.started:
            reader = int(process.environ[LIFELINE])
            assert process.options["pass_fds"] == (reader, int(process.environ[LISTENS]))
            assert os.fstat(reader)
            assert process.options["start_new_session"] is True
            assert process.environ["PATH"] == "/bin"
            assert process.environ[COPIES] == ("2" if process.name == "dispatch" else "1")
        # One address can be listened on once.
        ports = [process.environ.get("PUSHSVC__METRICS__PORT") for process in system.of("dispatch")]
        assert sorted(ports, key=str) == ["0", None]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)


async def test_a_process_that_was_forked_is_the_first_and_a_new_one_takes_its_place(
    system: System, tmp_path: Path
) -> None:
    class Waiting(Process):
        """Was forked for `serve`, and waits."""

        def begin(self, environ: dict[str, str], *, lifeline: int, reports: int, held: Sequence[int]) -> None:
            assert held == (7,)
            begun.append((environ["PATH"], os.fstat(lifeline).st_ino, os.fstat(reports).st_ino))
            system.started.append(self)

    begun: list[tuple[str, int, int]] = []

    forked = Waiting(50, ("", "", "", "serve"), {"env": {}}, system)
    ready = Ready()
    ready.add(SERVE, 0, cast(Any, forked))
    async with supervise(SERVE, DISPATCH, ready=ready, metrics=Metrics(tmp_path, 7)):
        await until(lambda: len(system.started) == 3)
        assert [process.options["pass_fds"][2:] for process in system.of("dispatch")] == [(7,), (7,)]
        assert (system.of("serve"), len(begun)) == ([forked], 1)
        assert begun[0][0] == "/bin"
        assert begun[0][1:] == tuple(
            os.fstat(int(system.of("dispatch")[0].environ[name])).st_ino for name in (LIFELINE, LISTENS)
        )
        forked.end(1)
        await until(lambda: len(system.of("serve")) == 2)
        assert len(begun) == 1


def test_nothing_is_forked_where_its_end_cannot_be_watched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    monkeypatch.setattr(os, "pidfd_open", refused)
    with forked([SERVE, DISPATCH]) as ready:
        assert ready.take(SERVE, 0) is None
    monkeypatch.delattr(os, "pidfd_open")
    with forked([SERVE, DISPATCH]) as ready:
        assert ready.take(DISPATCH, 1) is None


@pytest.mark.parametrize("place", ["begin", "wait"])
def test_a_forked_process_does_not_run_on_when_it_cannot_be_watched(
    place: str, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not children._watches():
        pytest.skip("this system cannot watch for the end of a process")
    ours, theirs = socket.socketpair()
    with theirs, subprocess.Popen(["sleep", "600"] if place == "wait" else ["cat"], stdin=theirs.fileno()) as waiting:

        def refused(*given: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        async def main() -> None:
            ready = Ready()
            ready.add(SERVE, 0, Forked(waiting.pid, ours))
            if place == "begin":
                monkeypatch.setattr(os, "pidfd_open", refused)
            else:
                monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", refused)
            async with supervise(SERVE, ready=ready):
                # A new one takes its place, and it has ended before.
                await until(lambda: system.living("serve"))
                with pytest.raises(ProcessLookupError):
                    os.kill(waiting.pid, 0)

        try:
            run(main())
        finally:
            waiting.kill()


def test_a_process_that_was_forked_for_another_configuration_is_not_taken() -> None:
    alone, both = child_of("serve", 1), child_of("serve", 1, also=("dispatch",))
    ready, own = Ready(), cast(Any, object())
    ready.add(alone, 0, own)
    assert ready.take(both, 0) is None
    assert ready.take(alone, 0) is own
    assert ready.take(alone, 0) is None


async def test_a_hang_up_reaches_those_alone_that_it_does_not_kill(system: System) -> None:
    async with supervise(SERVE, FEEDBACK) as children:
        await until(lambda: len(system.started) == 2)
        (young,) = system.of("serve")
        children.forward(signal.SIGHUP)
        assert "hup" not in " ".join(system.story)
        os.write(int(young.environ[LISTENS]), young.pid.to_bytes(PID_BYTES, "little"))
        children.forward(signal.SIGHUP)
        children.forward(signal.SIGHUP)
        assert [each for each in system.story if each.startswith("hup")] == ["hup serve"] * 2
        # Its successor has to say so itself.
        young.end(1)
        await until(lambda: len(system.of("serve")) == 2)
        children.forward(signal.SIGHUP)
        assert system.story.count("hup serve") == 2


async def test_children_have_started_once_each_has_reported_that_it_works(system: System) -> None:
    def report(process: Process, sign: int) -> None:
        os.write(int(process.environ[LISTENS]), (sign * process.pid).to_bytes(PID_BYTES, "little", signed=True))

    async with supervise(SERVE, FEEDBACK) as children:
        await until(lambda: len(system.started) == 2)
        started = asyncio.create_task(children.until_started(asyncio.Event()))
        (serve,), (feedback,) = system.of("serve"), system.of("feedback")
        report(serve, 1)
        report(feedback, 1)
        report(serve, -1)
        await asyncio.sleep(60)
        assert not started.done()  # one handles signals and has not opened its store
        serve.end(1)
        await until(lambda: len(system.of("serve")) == 2)
        report(feedback, -1)
        await asyncio.sleep(60)
        assert not started.done()  # the one that had started has ended
        report(system.of("serve")[1], -1)
        await started


async def test_a_copy_has_no_listener_for_metrics_however_that_is_written(system: System) -> None:
    environ = {"pushsvc__metrics__port": "9100", "PUSHSVC__METRICS__HOST": "::1"}
    async with Supervisor([DISPATCH], environ=environ, grace=30.0):
        await until(lambda: len(system.started) == 2)
        found = [{name: text for name, text in each.environ.items() if "__" in name} for each in system.of("dispatch")]
    assert sorted(found, key=str) == [{"PUSHSVC__METRICS__HOST": "::1", "PUSHSVC__METRICS__PORT": "0"}, environ]


async def test_stages_stop_one_after_the_other(system: System) -> None:
    def slowly(process: Process) -> None:
        asyncio.get_running_loop().call_later(5.0, process.end, 0)

    async with supervise(FEEDBACK, SERVE, DISPATCH):
        await until(lambda: len(system.started) == 4)
        system.on_term = slowly
        system.story.clear()
    assert asyncio.get_running_loop().time() < 16.0
    assert system.story == [
        "term serve",
        "end serve",
        "term dispatch",
        "term dispatch",
        "end dispatch",
        "end dispatch",
        "term feedback",
        "end feedback",
    ]


class Metrics(SharedFolder):
    """Writes down what it is called with."""

    def __init__(self, path: Path, *held: int) -> None:
        super().__init__(path, *held)
        self.gone: list[int] = []
        self.again: list[str] = []

    def ended(self, pid: int) -> None:
        self.gone.append(pid)

    def restarted(self, part: str) -> None:
        self.again.append(part)


async def test_a_child_that_ends_is_started_again_and_its_exit_is_reported(system: System) -> None:
    metrics = Metrics(Path())

    async with supervise(SERVE, FEEDBACK, metrics=metrics):
        await until(lambda: len(system.started) == 2)
        await asyncio.sleep(60.0)
        (first,) = system.living("serve")
        first.end(-9)
        await until(lambda: system.living("serve"), 1.0)
        assert (metrics.gone, metrics.again) == ([first.pid], ["serve"])
        assert len(system.of("feedback")) == 1
    assert len(system.of("serve")) == 2
    assert (len(metrics.gone), metrics.again) == (3, ["serve"])


async def test_a_child_is_started_again_after_an_error_of_the_supervisor_itself(system: System) -> None:
    class Broken(Metrics):
        def ended(self, pid: int) -> None:
            super().ended(pid)
            if len(self.gone) == 1:
                raise ZeroDivisionError

    async with supervise(SERVE, metrics=Broken(Path())):
        await until(lambda: system.started)
        with capture_logs() as logs:
            system.started[0].end(-9)
            await until(lambda: len(system.started) == 2)
        assert [line["error"] for line in logs if line["event"] == "child_not_kept"] == ["ZeroDivisionError"]


async def test_a_process_of_two_parts_is_counted_as_both(system: System) -> None:
    metrics = Metrics(Path())
    jobs, *_ = (each for each in children_of(Settings(), live=False) if each.name == "jobs")

    async with supervise(jobs, metrics=metrics):
        await until(lambda: system.started)
        system.started[0].end(1)
        await until(lambda: system.living("jobs"), 1.0)
    assert metrics.again == ["jobs", "feedback"]


@pytest.mark.parametrize(("number", "dispatching", "joined"), [(1, 1, True), (2, 1, False), (1, 2, False)], ids=str)
def test_some_parts_share_a_process(
    number: int, dispatching: int, joined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "cores", lambda: number)
    settings = Settings(jobs=JobsSettings(processes=2), dispatch=DispatchSettings(processes=dispatching))
    found = [(each.arguments, each.stage, each.copies, each.parts) for each in children_of(settings, live=True)]
    first: list[tuple[object, ...]] = [
        (("serve", "--processes", "1"), 0, 1, ("serve",)),
        (("dispatch", "--processes", "1"), 1, dispatching, ("dispatch",)),
    ]
    if joined:
        first = [(("serve", "--dispatch", "--processes", "1"), 0, 1, ("serve", "dispatch"))]
    assert found == [
        *first,
        (("jobs", "--feedback", "--processes", "1"), 1, 2, ("jobs", "feedback")),
        (("live", "--processes", "1"), 1, 1, ("live",)),
    ]


async def test_one_that_falls_over_at_once_is_started_less_and_less_often(system: System) -> None:
    starts: list[float] = []

    loop = asyncio.get_running_loop()
    async with supervise(SERVE):
        for _ in range(10):
            await until(lambda: system.living("serve"))
            starts.append(loop.time())
            system.living("serve")[0].end(1)
        # One that has held for a while starts from the shortest pause again.
        await until(lambda: system.living("serve"))
        await asyncio.sleep(100.0)
        system.living("serve")[0].end(1)
        ended = loop.time()
        await until(lambda: system.living("serve"))
        assert loop.time() - ended < 1.0
    pauses = [round(later - earlier, 1) for earlier, later in itertools.pairwise(starts)]
    assert pauses == [0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0, 10.0]


async def test_a_start_that_the_system_refuses_is_tried_again(system: System) -> None:
    system.refuses = 3

    async with supervise(SERVE):
        await until(lambda: system.living("serve"), 60.0)


async def test_a_fault_in_what_is_reported_of_an_exit_does_not_end_the_keeping(system: System) -> None:
    class Fault(Metrics):
        def ended(self, pid: int) -> None:
            raise FileNotFoundError("gone already")

    async with supervise(SERVE, metrics=Fault(Path())):
        await until(lambda: system.living("serve"))
        system.living("serve")[0].end(1)
        await until(lambda: system.living("serve"), 60.0)


async def test_a_stop_does_not_wait_for_a_pause_between_starts(system: System) -> None:
    loop = asyncio.get_running_loop()
    async with supervise(SERVE, FEEDBACK):
        for _ in range(7):
            await until(lambda: system.living("serve"))
            system.living("serve")[0].end(1)
        await asyncio.sleep(0.1)
        assert not system.living("serve")
        stopping = loop.time()
    assert loop.time() - stopping < 0.1


async def test_one_that_has_just_ended_does_not_hold_up_the_others(system: System) -> None:
    async with supervise(SERVE, FEEDBACK):
        await until(lambda: len(system.started) == 2)
        # In the same iteration of the loop: no child has been signalled yet.
        system.living("serve")[0].end(1)
    assert system.story[-2:] == ["term feedback", "end feedback"]
    assert len(system.of("serve")) == 1


async def test_one_that_is_just_being_started_is_stopped_too(system: System) -> None:
    async with supervise(SERVE):
        await asyncio.sleep(0)
    assert system.story in ([], ["start serve", "term serve", "end serve"])


async def test_one_that_does_not_stop_in_time_is_killed(system: System) -> None:
    loop = asyncio.get_running_loop()
    async with supervise(SERVE, FEEDBACK, grace=10.0):
        await until(lambda: len(system.started) == 2)
        system.on_term = lambda process: process.end(0) if process.name == "feedback" else None
        stopping = loop.time()
    assert 10.0 <= loop.time() - stopping < 10.1
    assert system.story[2:] == ["term serve", "kill serve", "end serve", "term feedback", "end feedback"]


# --- the lifeline, in a child -----------------------------------------------------------------------


def test_a_child_stops_when_the_other_end_is_closed_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure_logging("info", json=True)

    async def main() -> None:
        reader, writer = os.pipe()
        try:
            monkeypatch.setenv(LIFELINE, str(reader))
            stop = asyncio.Event()
            watch_lifeline(stop)
            for _ in range(10):
                await asyncio.sleep(0)
            assert not stop.is_set()
            os.close(writer)
            await asyncio.wait_for(stop.wait(), 60)
        finally:
            os.close(reader)

    asyncio.run(main())
    assert '"event":"supervisor_gone"' in capsys.readouterr().err


def test_a_command_of_its_own_has_no_lifeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIFELINE, raising=False)

    async def main() -> None:
        stop = asyncio.Event()
        watch_lifeline(stop)
        await asyncio.sleep(0)
        assert not stop.is_set()

    asyncio.run(main())
    assert LIFELINE == "PUSHSVC_LIFELINE"


def test_a_stop_of_the_service_has_the_time_that_each_part_may_take() -> None:
    none = Settings(server=ServerSettings(shutdown_timeout=0), dispatch=DispatchSettings(drain_timeout=0))
    assert grace_of(none) > LAST, "jobs end by themselves"
    long = Settings(server=ServerSettings(shutdown_timeout=100), dispatch=DispatchSettings(drain_timeout=100))
    assert grace_of(long) > 200
    assert grace_of(Settings(live=LiveSettings(drain=100))) > 100
