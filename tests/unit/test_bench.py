"""The benchmark's own arithmetic: what has changed, what is drawn, what a load sends, and how far a run is."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

from ..bench import __main__ as bench, cores, figures, load, machine, memory, plan, plots, results, soak, whole
from ..bench.figures import Figure, figure
from ..bench.machine import Machine
from ..bench.results import Part, Row, Run
from ..integration.terminal import at_terminal
from ..pages import PAGES

HERE = Machine("a processor", 2, 24.0, "Linux 6.1", "3.11.9")
ELSEWHERE = replace(HERE, cores=8)


def run_of(at: str, parts: dict[str, Part], *, quick: bool = False, on: Machine = HERE) -> Run:
    return Run(at=at, commit="31cfd57", quick=quick, machine=on, load=0.1, generator="wrk", parts=parts)


def part(*values: float, failed: bool = False) -> Part:
    return Part(10.0, (figure("pushes", "/s", values),), failed)


# --- figures --------------------------------------------------------------------------------------


def test_a_figure_is_the_median_of_its_rounds_with_their_range() -> None:
    assert figure("x", "us", (9.0, 2.0, 4.0)) == Figure("x", "us", 4.0, 2.0, 9.0)


def test_figures_are_recorded_where_they_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "figures"
    monkeypatch.delenv(figures.FILE, raising=False)
    figures.record("lost", "us", 1.0)
    monkeypatch.setenv(figures.FILE, str(file))
    figures.record("a", "us", 1.0)
    figures.record("b", "/s", 3.0, 1.0)
    assert figures.recorded(file) == [Figure("a", "us", 1.0, 1.0, 1.0), Figure("b", "/s", 2.0, 1.0, 3.0)]
    assert figures.recorded(tmp_path / "none") == []


# --- comparison -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "before", "now", "verdict"),
    [
        ("/s", (100.0,), (120.0,), "better"),
        ("/s", (100.0,), (80.0,), "worse"),
        ("us", (100.0,), (120.0,), "worse"),
        ("us", (100.0,), (80.0,), "better"),
        ("share", (0.5,), (0.6,), "better"),
        ("x", (0.5,), (0.6,), "worse"),
        ("/s", (100.0,), (109.0,), ""),  # within the noise of a quiet machine
        ("/s", (90.0, 100.0, 130.0), (110.0, 125.0, 140.0), ""),  # rounds of both overlap
        ("/s", (90.0, 100.0, 110.0), (120.0, 125.0, 140.0), "better"),
        ("/s", (0.0,), (5.0,), ""),  # no ratio
        ("/s", (), (5.0,), ""),  # nothing to compare with
    ],
)
def test_a_change_counts_beyond_noise(
    unit: figures.Unit, before: tuple[float, ...], now: tuple[float, ...], verdict: str
) -> None:
    old = figure("x", unit, before) if before else None
    assert Row(figure("x", unit, now), old).verdict == verdict


def test_each_part_is_compared_with_its_last_run_of_the_same_kind() -> None:
    runs = [
        run_of("2026-11-01", {"intake": part(1.0), "delivery": part(2.0)}),
        run_of("2026-11-02", {"intake": part(3.0)}),
        run_of("2026-11-03", {"intake": part(4.0)}, quick=True),
        run_of("2026-11-04", {"intake": part(5.0)}, on=ELSEWHERE),
        run_of("2026-11-05", {"intake": part(6.0, failed=True)}),
    ]
    assert results.last_of_each(runs, quick=False, machine=HERE) == {"intake": part(3.0), "delivery": part(2.0)}
    assert results.last_of_each(runs, quick=True, machine=HERE) == {"intake": part(4.0)}


def test_a_run_is_read_as_it_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [run_of(f"2026-11-0{day}T10:00:00Z", {"intake": part(1.0, 2.0)}) for day in (2, 1)]
    for run in runs:
        results.save(run, tmp_path / f"{run.at[:10]}.json")
    (tmp_path / "broken.json").write_text("{}")
    assert results.saved(tmp_path) == runs[::-1]
    assert "broken.json is not compared" in capsys.readouterr().err
    assert results.saved(tmp_path / "none") == []


# --- charts ---------------------------------------------------------------------------------------

BEFORE = Part(1.0, (Figure("a", "/s", 1000.0, 990.0, 1010.0), Figure("c", "ms", 2.0, 2.0, 2.0)))
NOW = Part(
    1.0,
    (
        Figure("a", "/s", 2000.0, 1900.0, 2100.0),
        Figure("c", "ms", 2.05, 2.05, 2.05),
        Figure("b", "/s", 500.0, 500.0, 500.0),
    ),
)
TEXT = """\
intake, /s
  a                                                2,000 ############################  (1,900 to 2,100)  +100% better
  b                                                  500 #######

intake, ms
  c                                                 2.05 ############################  +2%"""


def test_charts_have_one_scale_and_a_change_each() -> None:
    drawn = results.charts("intake", NOW, BEFORE)
    assert [(chart.unit, [row.figure.name for row in chart.rows]) for chart in drawn] == [
        ("/s", ["a", "b"]),
        ("ms", ["c"]),
    ]
    assert plots.as_text(drawn, fancy=False) == TEXT
    assert results.changed(drawn) == ["better +100%  intake: a (/s)"]
    assert "\N{ESCAPE}" not in plots.as_text(drawn, fancy=True)
    assert plots.as_text([], fancy=False) == ""


@pytest.mark.parametrize(
    ("share", "drawn", "plain"),
    [(0.0, "", ""), (1.0, "█" * 8, "#" * 8), (0.5, "████", "####"), (0.7, "█████▋", "######"), (7.0, "█" * 8, "#" * 8)],
)
def test_bars(share: float, drawn: str, plain: str) -> None:
    assert plots.bar(share, 8, fancy=True) == drawn
    assert plots.bar(share, 8, fancy=False) == plain


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0123, "0.0123"), (2.5, "2.5"), (12.34, "12.3"), (123.4, "123"), (65507.0, "65,507"), (-3.0, "-3")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert plots.number(value) == text


def test_a_picture_shows_every_figure(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is in the extra `bench`")
    file = tmp_path / "run.png"
    plots.as_png(results.charts("intake", NOW, BEFORE), file, "pushsvc")
    with image.open(file) as drawn:
        pixels = drawn.convert("RGB")
        rows = {
            y
            for y in range(pixels.height)
            for x in (plots.EDGE + plots.NAMES + plots.NUMBERS + 2,)
            if pixels.getpixel((x, y)) == plots.BARS
        }
    starts = [y for y in rows if y - 1 not in rows]
    assert len(starts) == 3, "a bar for each figure"


# --- the run --------------------------------------------------------------------------------------


def test_parts_take_as_long_as_last_time_or_as_elsewhere() -> None:
    names = ["intake", "cores", "lanes"]
    before = {"intake": part(1.0)}
    full, quick = (bench.expected(names, before, quick=each) for each in (False, True))
    assert full == {"intake": 10.0, "cores": bench.BENCHES["cores"].seconds, "lanes": bench.BENCHES["lanes"].seconds}
    assert quick == full, "what has no quick form takes as long as ever"
    assert bench.expected(["simulator"], {}, quick=True) == {"simulator": bench.BENCHES["simulator"].quick_seconds}


def test_the_quick_form_is_quick() -> None:
    assert sum(bench.BENCHES[name].quick_seconds for name in bench.chosen(quick=True)) < 120


def test_every_part_is_a_module() -> None:
    for name in bench.BENCHES:
        assert find_spec(f"tests.bench.{name}"), name


def test_progress_is_plain_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with bench.progress(130.0) as (say, begin):
        begin("1 of 2, intake", 40.0)
        say("[0.5] POST/s")
        begin("2 of 2, lanes", 90.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "",
        "=== 1 of 2, intake; 0:00 passed, about 2:10 left",
        "[0.5] POST/s",
        "",
        "=== 2 of 2, lanes; 0:00 passed, about 1:30 left",
    ]


def test_progress_has_a_bar_at_a_terminal() -> None:
    code = (
        "from tests.bench.__main__ import progress\nwith progress(9.0) as (say, begin):\n"
        "    begin('1 of 1, intake: POST/s', 9.0)\n    say('[a] line')\n    input()"
    )
    with at_terminal(cwd=results.ROOT, environ={**os.environ}, program=("-c", code)) as terminal:
        for text in ("=== 1 of 1, intake: POST/s", "[a] line", "about 0:09 left", "about 0:07 left"):
            terminal.until(text)
        terminal.type("\n")
        assert terminal.wait() == 0


def test_a_part_passes_on_its_lines_its_figures_and_its_end() -> None:
    code = "import sys\nfrom tests.bench.figures import record\nrecord('a', 'us', 3.0)\nprint('[a] line')\nsys.exit(2)"
    said: list[str] = []
    found = bench.run_part("intake", [sys.executable, "-c", code], said.append)
    assert found.failed
    assert found.figures == (Figure("a", "us", 3.0, 3.0, 3.0),)
    assert said == ["[a] line", "intake has failed: exit status 2"]


# --- what loads and watches -----------------------------------------------------------------------


def test_each_request_has_fresh_tokens_and_its_length() -> None:
    request = load.requests_of(load.Post("http://h:1/v1/push", '["@@", "@@"]', {"A": "b"}), "be00ff00")
    for first in (0, 2):
        head, _, body = request().partition(b"\r\n\r\n")
        assert head.split(b"\r\n") == [b"POST /v1/push HTTP/1.1", b"Host: h:1", b"Content-Length: 136", b"A: b"]
        tokens = body.decode().strip('["]').split('", "')
        assert tokens == [f"be00ff00{number:056x}" for number in (first, first + 1)]
        assert len(body) == 136


@pytest.mark.parametrize(
    ("command", "part_name"),
    [
        (["/x/python", "-m", "pushsvc", "serve", "--processes", "1", ""], "serve"),
        (["python3.11", "-m", "pushsvc", "up", ""], "up"),
        (["/x/valkey-server", "*:0", ""], "store"),
        (["/x/valkey-server unixsocket:/tmp/a/store.sock", ""], "store"),
        (["redis-server *:6379", ""], "store"),
        (["/x/python", "-m", "pushsvc.lab.simulator", ""], "python"),
        (["/x/gorush", "-c", "pushsvc", ""], "gorush"),
        ([""], ""),
    ],
)
def test_the_part_of_a_process(command: list[str], part_name: str) -> None:
    assert machine.part_of(command) == part_name


def test_the_files_of_a_limit(tmp_path: Path) -> None:
    assert machine.limit_files(1.5, tmp_path) == (
        tmp_path / "cpu",
        {"cpu.cfs_period_us": "10000", "cpu.cfs_quota_us": "15000", "cpu.shares": "262144"},
    )
    (tmp_path / "cgroup.controllers").touch()
    assert machine.limit_files(0.25, tmp_path) == (tmp_path, {"cpu.max": "2500 10000", "cpu.weight": "10000"})


def test_where_no_limit_can_be_had_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="needs root and a cgroup under"), machine.limited(1, 1.0, tmp_path):
        pytest.fail("it runs without a limit")
    assert list(tmp_path.iterdir()) == []


def test_a_share_that_cannot_be_had_ends_the_benchmark_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_round(*_: object) -> None:
        with machine.limited(1, 1.0, tmp_path):
            pytest.fail("it runs without a limit")

    monkeypatch.setattr(cores, "one_round", one_round)
    with pytest.raises(SystemExit, match=r"^--share: limiting CPU time needs root and a cgroup under"):
        cores.run(["--share", "0.3"])


def test_a_round_whose_deliveries_are_lost_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = Mock()
    for name in ("open_playground", "running_service"):
        monkeypatch.setattr(cores, name, MagicMock())
    for name in ("push_to", "pin"):
        monkeypatch.setattr(cores, name, Mock())
    monkeypatch.setattr(whole, "deliver", lambda *_, **__: whole.Delivered(1.0, {}, nothing, 1200))
    with pytest.raises(SystemExit, match="1,200 deliveries were accepted and have not arrived"):
        cores.one_round((0,), (0,), 1, (1, 1), 1.0, 1.0)


def may_limit() -> bool:
    """Whether this machine lets a group of processes be made that has a limit of CPU time."""
    if (machine.CGROUPS / "cgroup.controllers").exists():
        words = (machine.CGROUPS / "cgroup.subtree_control").read_text().split()
        return "cpu" in words and os.access(machine.CGROUPS, os.W_OK)
    return os.access(machine.CGROUPS / "cpu", os.W_OK)


BURN = """
import subprocess, sys, time

if len(sys.argv) == 1:
    sys.exit(subprocess.run([sys.executable, __file__, "below"]).returncode)
print("runs", flush=True)
input()
began, used = time.perf_counter(), time.process_time()
while time.process_time() < used + 0.1:
    pass
print(time.perf_counter() - began)
"""


@pytest.mark.skipif(not may_limit(), reason="needs root and a cgroup with the controller of CPU time")
def test_a_limit_holds_for_a_process_and_those_below_it_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "burn.py").write_text(BURN)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "burn.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        group = machine.limit_files(0.2)[0] / f"pushsvc-bench-{process.pid}"
        with machine.limited(process.pid, 0.2):
            inside = {int(word) for word in (group / "cgroup.procs").read_text().split()}
            assert inside == machine.family(process.pid).keys()
            assert len(inside) == 2
            process.stdin.write("\n")
            process.stdin.flush()
            # 0.1 s of CPU time in periods that have 2 ms each, the first of which is not whole.
            assert float(process.stdout.readline()) > 0.4
        assert not group.exists()
    assert process.returncode == 0


def test_rates_by_fifths() -> None:
    left = [(0.0, 100), (1.0, 80), (2.0, 60), (4.0, 40), (8.0, 20), (8.5, 0)]
    assert memory.rates_of(left) == [20.0, 20.0, 10.0, 5.0, 40.0]


@pytest.mark.parametrize(
    ("values", "growth"),
    [
        ([], 0.0),
        ([1.0, 9.0], 0.0),
        ([1.0, 100.0, 110.0], 0.1),
        ([5.0, 7.0, 100.0, 100.0, 100.0, 100.0], 0.0),
        ([0.0, 0.0, 3.0], 0.0),
    ],
)
def test_growth_is_that_of_the_last_third_over_the_middle_one(values: list[float], growth: float) -> None:
    assert soak.grown(values) == pytest.approx(growth)


# --- plans ----------------------------------------------------------------------------------------

CHEAP = plan.Costs(serve=6.0, dispatch=12.0, store=3.0, queued=40.0)
DEAR = plan.Costs(serve=200.0, dispatch=90.0, store=60.0, queued=300.0)


@pytest.mark.parametrize(
    ("rate", "costs", "latency", "need"),
    [
        # A trickle needs one of each.
        (1, DEAR, 0.1, plan.Plan(1, 1, 1, 2, 1, 0.00035, 0.00018)),
        # Processes by their CPU: 10,000 * 200 us are two cores, of which a plan uses 60 %.
        (10_000, DEAR, 0.1, plan.Plan(4, 2, 1, 4, 1, 3.5, 1.8)),
        # Dispatchers by their connections: 100,000/s * 0.1 s under way, 1,000 a connection, 2 a dispatcher.
        (100_000, CHEAP, 0.1, plan.Plan(1, 5, 1, 10, 10, 2.1, 2.4)),
        # The same with a provider that is far away.
        (100_000, CHEAP, 0.3, plan.Plan(1, 15, 1, 30, 10, 2.1, 2.4)),
        # One Redis is a core: 1,000,000 * 3 us are three of them, at 60 % five.
        (1_000_000, CHEAP, 0.001, plan.Plan(10, 20, 5, 40, 100, 21.0, 24.0)),
    ],
)
def test_what_a_rate_needs(rate: float, costs: plan.Costs, latency: float, need: plan.Plan) -> None:
    found = plan.plan(rate, costs, latency=latency)
    assert (found.serve, found.dispatch, found.shards, found.connections, found.projects) == (
        need.serve,
        need.dispatch,
        need.shards,
        need.connections,
        need.projects,
    )
    assert found.cores == pytest.approx(need.cores)
    assert found.outage_gb == pytest.approx(need.outage_gb)


def test_a_plan_takes_its_costs_from_a_run() -> None:
    found = [
        figure("1 a POST, 1 callers: serve", "us", (800.0,)),
        figure("1 a POST, 128 callers: serve", "us", (150.0,)),
        figure("1 a POST, 128 callers", "us", (300.0,)),
        figure("1 a POST, 128 callers", "/s", (9.0,)),
        figure("1,000 a POST, 4 callers: store", "us", (4.0,)),
    ]
    assert plan.costs_of(found, {1: DEAR, 1000: CHEAP}) == {
        1: replace(DEAR, serve=150.0),
        1000: replace(CHEAP, store=4.0),
    }


def test_the_page_has_the_plans() -> None:
    assert "\n".join(plan.table(plan.COSTS)) in PAGES["guides/sizing.md"]


BURST = plan.Burst(devices=1_000_000, cores=100, expand_us=5.0, dispatch_us=20.0, store_us=2.0)


@pytest.mark.parametrize(
    ("burst", "expanded", "half", "last", "waiting"),
    [
        # Each part is bounded by its own core: 1,000,000 * 5 us, and * 20 us.
        (BURST, 5.0, 10.0, 20.0, 750_000),
        # Four dispatchers are as fast as the one that looks up.
        (replace(BURST, dispatchers=4), 5.0, 2.5, 5.0, 0),
        # Two cores for all: 27 s of CPU.
        (replace(BURST, dispatchers=4, cores=2), 13.5, 6.75, 13.5, 0),
        # The store is one core.
        (replace(BURST, dispatchers=100, store_us=40.0), 40.0, 20.0, 40.0, 0),
        # A quota that is open, and one that grows from a twentieth for a minute: 31.5 s of it, and the rest in full.
        (replace(BURST, quota=10_000.0), 5.0, 50.0, 100.0, 950_000),
        (replace(BURST, quota=10_000.0, ramp=True), 5.0, 78.5, 128.5, 988_000),
    ],
)
def test_the_course_of_a_burst(burst: plan.Burst, expanded: float, half: float, last: float, waiting: int) -> None:
    course = plan.simulate(burst)
    assert course.expanded == pytest.approx(expanded, rel=0.02)
    assert course.half == pytest.approx(half, rel=0.02)
    assert course.last == pytest.approx(last, rel=0.02)
    assert course.waiting == pytest.approx(waiting, rel=0.02, abs=10)


@given(
    st.integers(1, 10**7),
    st.floats(0.5, 64),
    st.integers(1, 16),
    st.floats(1, 100),
    st.floats(1, 100),
    st.floats(0.1, 50),
)
@settings(max_examples=30, deadline=None)
def test_a_burst_is_no_faster_than_any_of_its_parts(
    devices: int, cores: float, dispatchers: int, expand: float, dispatch: float, store: float
) -> None:
    given_burst = plan.Burst(
        devices=devices, cores=cores, dispatchers=dispatchers, expand_us=expand, dispatch_us=dispatch, store_us=store
    )
    course = plan.simulate(given_burst, step=max(0.05, devices / 1e6))
    seconds = devices / 1e6
    bounds = (expand, dispatch / dispatchers, store, (expand + dispatch + store) / cores)
    assert course.last >= max(bounds) * seconds * 0.999
    assert 0 < course.half <= course.last
    assert 0 < course.expanded <= course.last
