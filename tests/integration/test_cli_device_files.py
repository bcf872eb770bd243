"""`pushsvc devices import` and `export` as real processes over real servers: whole, broken off, gone on with."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pushsvc.cli.devices.lines import header, ndjson_of
from pushsvc.model.devices import Device
from pushsvc.runtime.providers import addresses
from pushsvc.store import Store, StoreConfig, open_store

from ..bench.registry import NOW, Population
from .processes import Processes, own_processes
from .registry_audit import audit
from .servers import Server, running_server
from .terminal import at_terminal
from .test_jobs import CONFIG as FILE, until
from .test_store_kit import new_store

KNOWN = addresses()
STORE = StoreConfig(addresses=KNOWN)
FCM = """
[apps.shop.fcm]
service_account_file = "{folder}/none.json"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # One kind: what the store does is tried over both elsewhere, and each command takes a second to start.
    with running_server("redis") as found:
        yield found


@pytest.fixture
def processes(tmp_path: Path, server: Server) -> Iterator[Processes]:
    (tmp_path / "pushsvc.toml").write_text((FILE + FCM).format(url=server.url, folder=tmp_path))
    with own_processes(tmp_path) as own:
        yield own


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Store]:
    async with new_store(server, STORE) as store:
        yield store


async def run(processes: Processes, *words: str) -> tuple[int, str, str]:
    """`pushsvc devices WORDS`: exit code, standard output, standard error."""
    return await asyncio.to_thread(processes.run, "devices", *words, **environ(processes))


def environ(processes: Processes) -> dict[str, str]:
    return {"PUSHSVC_CONFIG": str(processes.folder / "pushsvc.toml")}


def crowd(count: int) -> list[Device]:
    """Devices of every kind; some are tombstones, some were struck."""
    found = Population(7).range(0, count)
    for number in range(0, count, 10):
        fields = {"state": "pruned", "pruned_at": NOW + 100_000 + number, "pruned_for": "Unregistered"}
        found[number] = Device(**{**fields_of(found[number]), **fields})
        found[number + 1] = Device(**{**fields_of(found[number + 1]), "strikes": 2, "struck_at": NOW + 1})
    return found


def fields_of(device: Device) -> dict[str, Any]:
    return {name: getattr(device, name) for name in device.__struct_fields__}


@pytest.mark.parametrize("suffix", ["ndjson", "csv"])
async def test_an_export_imported_and_exported_again_is_the_same_file(
    server: Server, processes: Processes, suffix: str, store: Store
) -> None:
    many = crowd(1200)
    for first in range(0, len(many), 400):
        await store.registry.put_many("shop", many[first : first + 400])
    one, two = (processes.folder / f"{name}.{suffix}" for name in ("one", "two"))
    code, out, err = await run(processes, "export", str(one), "--app", "shop", "--tombstones")
    assert (code, out) == (0, "")
    assert "1,200 devices in" in err
    assert "tokens" in err
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    before = await audit(store)
    server.flush()
    code, out, _ = await run(processes, "import", str(one), "--app", "shop")
    assert code == 0
    assert out.startswith("1,200 devices imported (1,200 new) in ")
    async with open_store(server.url, STORE) as again:  # with the hash key of the store that is new
        assert await audit(again) == before
    code, out, _ = await run(processes, "import", str(one), "--app", "shop", "--json")
    reported = json.loads(out)
    assert (reported["imported"], reported["new"], reported["rejected"], reported["rejects"]) == (1200, 0, 0, None)
    assert (await run(processes, "export", str(two), "--app", "shop", "--tombstones"))[0] == 0
    assert two.read_bytes() == one.read_bytes()
    assert sorted(path.name for path in processes.folder.glob("*.position")) == []

    # Without tombstones, by standard output.
    code, out, _ = await run(processes, "export", "-", "--app", "shop", "--format", suffix)
    lines = out.splitlines()
    assert len(lines) == 1080 + (suffix == "csv")
    assert "pruned" not in out
    if suffix == "csv":
        assert f"{lines[0]}\n".encode() == header(KNOWN, tombstones=False)


async def test_bad_lines_are_set_aside_with_what_is_wrong(processes: Processes, store: Store) -> None:
    good = ndjson_of(crowd(3), KNOWN).splitlines()
    lines = [
        good[0],
        b'{"id": "x", "platform": "fcm"}',
        b"oops",
        good[1],
        good[0].replace(b'"environment":"production"', b'"environment":"moon","tags":{"a":{}}'),
        b"",
        good[2],
    ]
    file = processes.folder / "devices.jsonl"
    file.write_bytes(b"\n".join(lines))
    code, out, err = await run(processes, "import", str(file), "--app", "shop", "--strict")
    assert code == 1
    assert out.startswith("3 devices imported")
    assert "3 bad lines" in err
    rejects = processes.folder / "devices.jsonl.rejected"
    assert stat.S_IMODE(rejects.stat().st_mode) == 0o600
    reported = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(each["line"], sorted(fault["path"] for fault in each["errors"])) for each in reported] == [
        (2, ["token"]),
        (3, ["$"]),
        (5, ["environment", "tags.a"]),
    ]
    assert reported[1]["given"] == "oops"
    assert len(await audit(store)) == 3
    assert f"3 bad lines: {rejects} lists the faults; line 2: token: is missing" in " ".join(err.split())

    # What an earlier import has set aside stays, and its place is reported.
    earlier, old = rejects.read_bytes(), rejects.with_name("devices.jsonl.rejected.old")
    file.write_bytes(good[0])
    code, _, err = await run(processes, "import", str(file), "--app", "shop", "--strict")
    assert (code, rejects.exists(), old.read_bytes()) == (0, False, earlier)
    assert f"the bad lines of an earlier import are in {old} now" in " ".join(err.split())
    code, _, err = await run(processes, "import", str(file), "--app", "shop")
    assert (code, old.read_bytes(), "earlier" in err) == (0, earlier, False)


async def test_where_every_line_is_bad_the_import_has_failed_and_names_the_first_fault(
    processes: Processes, store: Store
) -> None:
    token = "ab" * 40
    file = processes.folder / "all.ndjson"
    bad = {"id": "x", "platform": "apns", "token": token, token[:64]: 1, "locale": 7}
    file.write_text(f'{json.dumps(bad)}\n{{"id": "y"}}\n')
    for words in ((), ("--json",)):
        code, out, err = await run(processes, "import", str(file), "--app", "shop", *words)
        assert (code, token[:64] in out + err) == (1, False)
        assert ("2 bad lines" in err and "line 1: " in err) == (not words)
        assert "unknown field" in out + err
        assert "; locale: expected" in out + " ".join(err.split())
    file.write_text("")
    assert (await run(processes, "import", str(file), "--app", "shop"))[0] == 0
    assert await audit(store) == {}


async def test_a_user_that_everybody_is_is_refused_line_by_line(processes: Processes, store: Store) -> None:
    many = [Device(id=f"d{n}", platform="apns", token=f"{n:064x}", user="everybody") for n in range(1100)]
    file = processes.folder / "many.ndjson"
    file.write_bytes(ndjson_of(many, KNOWN))
    code, out, _ = await run(processes, "import", str(file), "--app", "shop", "--json")
    reported = json.loads(out)
    assert code == 0
    assert reported["imported"] + reported["rejected"] == 1100
    assert 500 <= reported["imported"] <= 1000
    assert len(await audit(store)) == reported["imported"]
    assert "at most" not in (processes.folder / "many.ndjson.rejected").read_text().splitlines()[0]


async def test_killed_half_way_it_is_gone_on_with(processes: Processes, store: Store) -> None:
    count = 60_000
    good = ndjson_of(Population(3).range(0, count), KNOWN).splitlines()
    for number in range(0, count, 1000):
        good[number] = b'{"id": "bad"}'
    file = processes.folder / "devices.ndjson"
    file.write_bytes(b"\n".join(good))
    place = processes.folder / "devices.ndjson.position"

    async def under_way() -> bool:
        return place.exists()

    first = processes.start("devices", "import", str(file), "--app", "shop", **environ(processes))
    await until(under_way)
    first.process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(first.wait)
    at = json.loads(place.read_text())
    assert 0 < at["records"] < count

    second = processes.start("devices", "import", str(file), "--app", "shop", "--resume", **environ(processes))
    moved = at["records"]

    async def further() -> bool:
        return bool(json.loads(place.read_text())["records"] > moved)

    await until(further)
    second.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(second.wait) == 130
    assert "--resume continues" in second.err.read_text()

    code, out, _ = await run(processes, "import", str(file), "--app", "shop", "--resume", "--json")
    reported = json.loads(out)
    assert code == 0
    bad = count // 1000
    assert (reported["imported"], reported["rejected"]) == (count - bad, bad)
    rejected = [json.loads(line)["line"] for line in Path(reported["rejects"]).read_text().splitlines()]
    assert rejected == list(range(1, count, 1000))
    assert len(await audit(store)) == count - bad
    assert not place.exists()

    # Without a position it is the beginning; that of another app or file is none.
    place.write_text(json.dumps({**at, "app": "other"}))
    code, _, err = await run(processes, "import", str(file), "--app", "shop", "--resume")
    assert code == 1
    assert "without --resume" in err


async def test_from_standard_input(processes: Processes, store: Store) -> None:
    def pipe(*words: str, more: bytes = b"oops\n") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "pushsvc", "devices", "import", "-", "--app", "shop", *words],
            cwd=processes.folder,
            env=processes.environ(**environ(processes)),
            input=ndjson_of(crowd(20), KNOWN) + more,
            capture_output=True,
            check=False,
        )

    done = await asyncio.to_thread(pipe)
    assert done.returncode == 0
    assert done.stdout.startswith(b"20 devices imported")
    rejects, old = processes.folder / "devices.rejected", processes.folder / "devices.rejected.old"
    first = rejects.read_text()
    assert json.loads(first)["given"] == "oops"
    assert (await asyncio.to_thread(pipe, "--resume")).returncode == 2
    # Nobody else has a copy of these lines: another import through a pipe does not remove them.
    assert (await asyncio.to_thread(pipe, more=b"")).returncode == 0
    assert (rejects.exists(), old.read_text()) == (False, first)
    assert (await asyncio.to_thread(pipe, more=b"ouch\n")).returncode == 0
    assert (json.loads(rejects.read_text())["given"], old.read_text()) == ("ouch", first)
    done = await asyncio.to_thread(pipe)
    assert (old.read_text() == first, b"in place of older ones" in done.stderr) == (False, True)
    assert len(await audit(store)) == 20


async def test_wrong_use_says_what_is_wrong(processes: Processes, store: Store) -> None:
    file = processes.folder / "devices.csv"
    file.write_text("id,platform,tocken\n")
    for code, reported, words in (
        (1, "'tocken'", ("import", str(file), "--app", "shop")),
        (1, "cannot be read", ("import", "nowhere.csv", "--app", "shop")),
        (1, "no such app", ("import", str(file), "--app", "shoop")),
        (2, "--format", ("import", "devices.txt", "--app", "shop")),
        (1, "cannot be written", ("export", "no/such/folder/x.csv", "--app", "shop")),
    ):
        found, _, err = await run(processes, *words)
        assert (found, reported in err) == (code, True), err


async def test_at_a_terminal_it_shows_rate_and_time_left(processes: Processes, store: Store) -> None:
    file = processes.folder / "devices.ndjson"
    file.write_bytes(ndjson_of(Population(3).range(0, 3000), KNOWN))
    environment = processes.environ(**environ(processes))
    for words, reported in (
        (("import", str(file)), "3,000 devices imported"),
        (("export", str(file)), "3,000 devices in"),
    ):
        with at_terminal(
            "devices", *words, "--app", "shop", cwd=processes.folder, environ=environment, columns=100
        ) as terminal:
            await asyncio.to_thread(terminal.until, reported)
            assert await asyncio.to_thread(terminal.wait) == 0
        assert "3,000 devices, " in terminal.shown
        assert "100%" in terminal.shown
