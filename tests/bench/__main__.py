"""Measure the service: `make bench`, or `python -m tests.bench [--quick] [--only PART ..]`.

Each part is a process of its own (`python -m tests.bench.PART`), prints what it finds, and passes or fails nothing but
a count that is off. This program shows how far it is, keeps all figures in a file of JSON with a description of the
machine, compares them with the last run of the same parts on the same machine, and draws them: in the terminal, plain
where the output goes to a file, and as a picture beside the JSON.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from . import figures, load, plots, results
from .machine import this_machine
from .results import Part, Run

FOLDER: Final = results.ROOT / "var" / "bench"


class Bench(Struct, frozen=True):
    """A part of the benchmark: what it measures, the seconds that it takes, and its arguments where it must be quick
    (None: it is left out then)."""

    what: str
    seconds: float
    quick_seconds: float = 0.0
    quick: tuple[str, ...] | None = None
    named: bool = False
    """Whether it runs only where it is named."""


BENCHES: Final[Mapping[str, Bench]] = {
    "simulator": Bench("the simulator that the others send to", 20, 5, ("--count", "15000")),
    "transport": Bench("the HTTP/2 transport beside other clients", 130),
    "delivery": Bench("from stream entry to recorded outcome", 230, 25, ("--rounds", "1", "--scale", "0.1")),
    "intake": Bench("POST/s of one core beside bare aiohttp", 90, 17, ("--seconds", "1", "--rounds", "1")),
    "observed": Bench(
        "what metrics and traces cost intake and delivery",
        330,
        17,
        ("--rounds", "1", "--seconds", "1", "--scale", "0.2", "--shares", "1"),
    ),
    "whole": Bench("the whole service under a compiled generator", 150, 25, ("--rounds", "1", "--seconds", "2")),
    "latency": Bench("from POST to the provider's receipt when idle", 50, 17, ("--pushes", "100")),
    "cores": Bench("two cores beside one", 350),
    "durability": Bench("what `queue.durability` costs intake", 60),
    "volume": Bench("300,000 deliveries, each counted", 150),
    "memory": Bench("a million deliveries queued and drained", 90, 12, ("--scale", "0.05")),
    "sizes": Bench("bytes and CPU of a delivery", 60),
    "lanes": Bench("urgent pushes behind a million others", 240),
    "replay": Bench("100,000 dead letters sent again", 60),
    "registry": Bench("a million registered devices", 240),
    "schedules": Bench("30,000 pushes at their times", 120),
    "audience": Bench("a push to a million devices", 240),
    "devices": Bench("import, export and cleanup of a million devices", 240),
    "live_sockets": Bench("open WebSockets beside other servers", 60),
    "live_beside": Bench("the live channel beside Centrifugo and a bare protocol", 330),
    "live_heartbeats": Bench("how often devices are pinged", 20),
    "live_many": Bench("2,000 phones of one gateway", 60),
    "live_cut": Bench("50,000 phones cut at once", 240),
    "soak": Bench("half an hour under half of the load", 1900, named=True),
    "peers": Bench(
        "other services and clients, where they are on this machine",
        900,
        120,
        ("--rounds", "1", "--seconds", "2", "--scale", "0.2"),
        named=True,
    ),
}


def clock(seconds: float) -> str:
    """Return a span as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def chosen(*, quick: bool) -> list[str]:
    """Return the parts that run where none is named."""
    return [name for name, bench in BENCHES.items() if not bench.named and (bench.quick is not None or not quick)]


def expected(names: Sequence[str], before: Mapping[str, Part], *, quick: bool) -> dict[str, float]:
    """Return the seconds that each part should take: those that it took here, or those of another machine."""

    def usual(bench: Bench) -> float:
        return bench.seconds if bench.quick is None or not quick else bench.quick_seconds

    return {name: before[name].seconds if name in before else usual(BENCHES[name]) for name in names}


Say = Callable[[str], None]
Begin = Callable[[str, float], None]
"""Begins a part, given what it is and the seconds that it should take."""


@contextmanager
def progress(total: float) -> Iterator[tuple[Say, Begin]]:
    """Show how far the run is, of about so many seconds. Yields two functions: one prints a line, the other begins a
    part. At a terminal a bar stays below what is printed; elsewhere the beginning of a part is a line."""
    began, done, span = time.monotonic(), 0.0, 0.0

    def begin(text: str, seconds: float) -> None:
        nonlocal done, span
        done, span = done + span, seconds
        passed = clock(time.monotonic() - began)
        print(f"\n=== {text}; {passed} passed, about {clock(total - done)} left", flush=True)

    if sys.stdout.isatty():
        with bar(total) as shown:
            yield shown
    else:
        yield (lambda line: print(line, flush=True)), begin


@contextmanager
def bar(total: float) -> Iterator[tuple[Say, Begin]]:
    """Show a bar that moves with the time, up to the end that a part should have."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console, over = Console(highlight=False), threading.Event()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("about {task.fields[left]} left"),
    )
    part = [0.0, 0.0, time.monotonic()]  # the seconds before it, its own, and when it began
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=total, left=clock(total))

        def begin(text: str, seconds: float) -> None:
            console.print(f"\n=== {text}", style="bold", markup=False)
            part[:] = [part[0] + part[1], seconds, time.monotonic()]
            shown.update(task, description=text.partition(":")[0])

        def move() -> None:
            while not over.wait(0.5):
                before, own, at = part
                passed = before + min(own, time.monotonic() - at)
                shown.update(task, completed=passed, left=clock(total - passed))

        thread = threading.Thread(target=move, daemon=True)
        thread.start()
        try:
            yield (lambda line: console.print(line, markup=False, soft_wrap=True)), begin
        finally:
            over.set()
            thread.join()


def command_of(name: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs a part."""
    return [sys.executable, "-m", f"tests.bench.{name}", *arguments]


def run_part(name: str, command: Sequence[str], say: Say) -> Part:
    """Run the command of a part, and pass on what it prints, a line at a time."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures"
        environ = {**os.environ, figures.FILE: str(file), "PYTHONUNBUFFERED": "1"}
        began = time.monotonic()
        piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, cwd=results.ROOT, env=environ, text=True, errors="replace", **piped) as process:
            try:
                for line in process.stdout or ():
                    say(line.rstrip("\n"))
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
                raise
        failed = process.returncode != 0
        if failed:
            say(f"{name} has failed: exit status {process.returncode}")
        return Part(round(time.monotonic() - began, 1), tuple(figures.recorded(file)), failed)


def run_all(names: Sequence[str], *, quick: bool, folder: Path) -> Run:
    """Run the parts in turn, and keep what they found so far after each."""
    machine, started = this_machine(), datetime.now(UTC)
    earlier = results.last_of_each(results.saved(folder), quick=quick, machine=machine)
    file = folder / f"{started:%Y-%m-%dT%H-%M-%S}.json"
    run = Run(
        at=f"{started:%Y-%m-%dT%H:%M:%SZ}",
        commit=results.commit(),
        quick=quick,
        machine=machine,
        load=round(os.getloadavg()[0], 2),
        generator=load.generator(),
        parts={},
    )
    spans = expected(names, earlier, quick=quick)
    found: list[results.Chart] = []
    with progress(sum(spans.values())) as (say, begin):
        say(f"{machine.processor}, {machine.cores} cores, {machine.memory_gb:.0f} GB; Python {machine.python}")
        if run.load > 0.5:
            say(f"other programs use this machine (load {run.load}): figures will be lower, and vary")
        if run.generator != "wrk":
            say(load.WITHOUT)
        for place, name in enumerate(names, 1):
            bench = BENCHES[name]
            begin(f"{place} of {len(names)}, {name}: {bench.what}, about {clock(spans[name])}", spans[name])
            command = command_of(name, (bench.quick or ()) if quick else ())
            run.parts[name] = run_part(name, command, say)
            results.save(run, file)
            found += results.charts(name, run.parts[name], earlier.get(name))
        if found:
            fancy = sys.stdout.isatty()
            compared = any(row.before for chart in found for row in chart.rows)
            say(f"\n=== figures{', beside those of the last run' if compared else ''}\n")
            say(plots.as_text(found, fancy=fancy))
            if compared:
                say("\n" + "\n".join(results.changed(found) or ["nothing has changed by more than noise"]))
            picture = file.with_suffix(".png")
            try:
                plots.as_png(found, picture, f"pushsvc {run.commit}, {run.at}, {machine.processor}")
                say(f"picture: {picture}")
            except ImportError:
                say("no picture: pip install pillow")
        say(f"results: {file}")
    return run


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=tuple(BENCHES), metavar="PART", help="these parts")
    parser.add_argument("--quick", action="store_true", help="less of each, in under two minutes")
    parser.add_argument("--list", action="store_true", help="name the parts and how long they take")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where results are kept")
    options = parser.parse_args()
    names = options.only or chosen(quick=options.quick)
    if options.list:
        for name, bench in BENCHES.items():
            quick = "" if bench.quick is None else f", quick {clock(bench.quick_seconds)}"
            named = "; only where it is named" if bench.named else ""
            print(f"{name:<16} {bench.what}; about {clock(bench.seconds)}{quick}{named}")
        return
    try:
        run = run_all(names, quick=options.quick, folder=options.folder)
    except KeyboardInterrupt:
        sys.exit(130)
    if failed := [name for name, part in run.parts.items() if part.failed]:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
