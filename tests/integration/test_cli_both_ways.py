"""Commands of an operator that have two ways, over the API and in the store, print the same both ways."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from pushsvc import cli
from pushsvc.api.http.problems import away, respond
from pushsvc.cli.access import Access
from pushsvc.cli.devices.lines import ndjson_of
from pushsvc.cli.operator import api as operator_api, store as operator_store
from pushsvc.errors import SILENT_REDIS
from pushsvc.model.codec import encode_event
from pushsvc.model.devices import Device
from pushsvc.model.status import FeedbackEvent
from pushsvc.runtime.plans import webhook_configs
from pushsvc.runtime.providers import addresses
from pushsvc.runtime.store import open_running_store
from pushsvc.stages.cleanup import LOCK
from pushsvc.store import Store, keys

from .harness import KEY, Service, apns, fcm
from .processes import SAME_PRIORITY
from .terminal import at_terminal
from .test_cli_commands import HOOK, Shell, serving


class BothWays:
    """Runs a command over the API and in the store."""

    def __init__(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        self._shell = shell
        self._monkeypatch = monkeypatch
        self._used: list[str] = []
        for module, name in ((operator_api, "ApiOperator"), (operator_store, "StoreOperator")):
            monkeypatch.setattr(module, name, self._noted(name, getattr(module, name)))

    def _noted(self, name: str, made: Callable[..., Any]) -> Callable[..., Any]:
        def make(*given: Any) -> Any:
            self._used.append(name)
            return made(*given)

        return make

    async def over_api(self, *words: str) -> tuple[int, str, str]:
        self._used.clear()
        found = await self._shell(*words)
        assert self._used == ["ApiOperator"]
        return found

    async def in_store(self, *words: str) -> tuple[int, str, str]:
        self._used.clear()
        with self._monkeypatch.context() as environment:
            environment.delenv("PUSHSVC_KEY")
            found = await self._shell(*words)
        assert self._used == ["StoreOperator"]
        return found

    async def as_processes(self, *words: str) -> list[Any]:
        """Run a command that minds signals in a process for each way, the first where no store is reached, the second
        without a key. Returns exit code, the JSON that it printed, and its errors."""
        return [
            await self.as_process(*words, PUSHSVC__REDIS__URL="redis://127.0.0.1:1/0"),
            await self.as_process(*words, PUSHSVC_KEY=""),
        ]

    async def as_process(self, *words: str, **environ: str) -> tuple[int | None, Any, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *SAME_PRIORITY, *words, "--json"), env={**os.environ, **environ}, stdout=-1, stderr=-1
        )
        out, err = await process.communicate()
        return process.returncode, json.loads(out) if out else None, err.decode()

    async def __call__(self, *words: str, code: int = 0, of: Callable[[Any], Any] | None = None) -> Any:
        """Compare the text and the JSON, or of the JSON what `of` takes from it. Returns the JSON."""
        if of is None:
            assert (await self.over_api(*words)) == (await self.in_store(*words))
        api, store = await self.over_api(*words, "--json"), await self.in_store(*words, "--json")
        assert (api[0], store[0], api[2]) == (code, code, store[2]), (api, store)
        if code:
            assert api == store
            return None
        found = [json.loads(out) for _, out, _ in (api, store)]
        left, right = [each if of is None else of(each) for each in found]
        assert left == right
        return found[0]


@asynccontextmanager
async def jobs(folder: Path) -> AsyncIterator[None]:
    """`pushsvc jobs` as a process of its own."""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pushsvc", "jobs"), env=os.environ.copy(), stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        worker.terminate()
        await worker.wait()


def without(*names: str) -> Callable[[Any], Any]:
    """Return what leaves out these fields, wherever they are."""

    def take(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: take(each) for name, each in value.items() if name not in names}
        return [take(each) for each in value] if isinstance(value, list) else value

    return take


LOOKS = (["stats"], ["keys", "list"], ["pushes", "list"])


@pytest.fixture
def mute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A configuration whose Redis takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = tmp_path / "pushsvc.toml"
        config.write_text(f'[apps.shop]\n[redis]\nurl = "redis://127.0.0.1:{server.getsockname()[1]}/0"\n')
        monkeypatch.setenv("PUSHSVC_CONFIG", str(config))
        monkeypatch.setattr(operator_store, "OPENS", 0.3)
        yield


@pytest.mark.usefixtures("mute")
@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_a_silent_redis_is_named_within_one_step(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(command)
    printed = capsys.readouterr().err
    assert (code, "it has not answered for 0.3 s" in printed, SILENT_REDIS in printed) == (1, True, True), printed


@pytest.mark.usefixtures("mute")
@pytest.mark.parametrize("waits", [False, True], ids=["at once", "by its readiness"])
@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_a_service_without_its_redis_says_all_there_is(
    command: list[str], waits: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To ask the same Redis again would take as long as the service took, and show no more. A question may wait for a
    silent Redis twice as long as for one step, and `/readyz` does not."""
    over = threading.Event()

    class Away(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server calls
            if waits and self.path != "/readyz":
                over.wait()
                return
            response = respond(away())
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(response.body)

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(operator_api, "SOON", 0.05 if waits else 60.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Away) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{service.server_port}"
        monkeypatch.setenv("PUSHSVC_URL", url)
        monkeypatch.setenv("PUSHSVC_KEY", KEY)
        code = cli.main(command)
        over.set()
        service.shutdown()
    printed = capsys.readouterr().err
    assert code == 1
    assert f"{url} answers that its Redis is not available ({SILENT_REDIS})" in printed


async def test_pushes(monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
    both, service = BothWays(shell, monkeypatch), shell.service
    code, out, err = await shell("pushes", "list")
    assert (code, out.splitlines(), err) == (
        0,
        ["accepted\tid\tstate\tsent\tdeliveries\tlane\tkey\tapp"],
        "0 pushes",
    )
    pushes = [await service.push(apns("ok", at) + fcm("ok", at), lane="bulk", data={"a": "b"}) for at in range(3)]
    assert await service.done(*pushes) == {"total": 6, "sent": 6}
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    later = [await service.push(apns("ok", f"later-{at}"), data={"a": "b"}, send_at=soon) for at in range(2)]

    listed = await both("pushes", "list")
    assert [row["id"] for row in listed["items"]] == [*reversed(later), *reversed(pushes)]
    assert {row["app"] for row in listed["items"]} == {"shop"}
    assert len((await both("pushes", "list", "--lane", "bulk", "--limit", "2"))["items"]) == 2
    assert len((await both("pushes", "list", "--state", "scheduled", "--by", "test"))["items"]) == 2
    assert (await both("pushes", "list", "--until", "2h"))["items"] == []
    assert {row["id"] for row in (await both("pushes", "schedules"))["items"]} == {*later}
    _, out, _ = await shell("pushes", "schedules")
    assert out.splitlines()[1].split("\t")[2:] == ["1", "normal", "test", "shop"]

    found = await both("pushes", "show", later[0])
    assert (found["id"], found["state"], found["app"]) == (later[0], "scheduled", "shop")
    assert [each["what"] for each in found["timeline"]] == ["accepted", "due"]
    assert [message["route"] for message in found["messages"]] == ["apns"]
    await both("pushes", "show", pushes[0].upper())
    _, out, _ = await shell("pushes", "show", pushes[0])
    assert out.splitlines()[:2] == [f"{pushes[0]}  done", "2 of 2: 2 sent"]
    assert "lane\tbulk" in out

    ended = await both.over_api("pushes", "cancel", later[0])
    assert (ended[0], ended[1].splitlines()[0]) == (0, f"{later[0]}  cancelled")
    again = await both.in_store("pushes", "cancel", later[1], "--json")
    assert json.loads(again[1])["counts"]["cancelled"] == 1
    await both("pushes", "cancel", pushes[0], code=1)
    nobody = "00000000-0000-0000-0000-000000000000"
    for act in ("show", "cancel"):
        await both("pushes", act, nobody, code=1)
        code, _, err = await shell("pushes", act, "x")
        assert (code, "'x' is not the id of a push" in err) == (2, True)
    for option, value, meant in (("--state", "don", "done"), ("--lane", "normla", "normal")):
        code, _, err = await shell("pushes", "list", option, value)
        assert (code, f"did you mean `{meant}`" in " ".join(err.split())) == (2, True)


async def test_a_push_says_why_deliveries_were_not_sent(monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
    both, service = BothWays(shell, monkeypatch), shell.service
    tokens = [*apns("BadPriority", 1), *apns("BadPriority", 2), *fcm("UNREGISTERED", 1), *fcm("ok", 1)]
    push = await service.push(tokens, data={"a": "b"})
    assert await service.done(push) == {"total": 4, "sent": 1, "failed": 2, "invalid": 1}
    await both("pushes", "show", push)
    _, out, _ = await shell("pushes", "show", push)
    at = out.splitlines().index("deliveries\toutcome\tplatform\treason")
    assert out.splitlines()[at + 1 : at + 3] == ["2\tfailed\tapns\tBadPriority", "1\tinvalid\tfcm\tUNREGISTERED"]
    assert re.search(r"^first delivery ended\t\d{4}-", out, re.MULTILINE)
    assert re.search(r"^last delivery ended\t\d{4}-", out, re.MULTILINE)
    sent = await service.push(fcm("ok", 2), data={"a": "b"})
    await service.done(sent)
    _, out, err = await shell("pushes", "show", sent)
    assert ("deliveries\toutcome" in out, "No content: it is kept until" in err) == (False, True)


async def test_a_key_that_the_api_does_not_know_is_reported(monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
    right = await shell("pushes", "list")
    monkeypatch.setenv("PUSHSVC_KEY", "bad")
    code, out, err = await shell("pushes", "list")
    assert (code, out) == right[:2]
    assert "refuses the API key" in err


async def test_pushes_fit_a_terminal_of_80_columns(tmp_path: Path, shell: Shell) -> None:
    push = await shell.service.push(apns("ok", 1), data={"a": "b"}, lane="bulk")
    await shell.service.done(push)
    for words in (("list",), ("show", push)):
        with at_terminal("pushes", *words, cwd=tmp_path, environ=dict(os.environ), columns=80) as terminal:
            assert await asyncio.to_thread(terminal.wait) == 0
        screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown)
        assert push in screen  # never cut
        if words == ("list",):
            (head,) = [line.split() for line in screen.splitlines() if line.startswith("age")]
            assert head == ["age", "id", "state", "sent", "deliveries", "lane"]
        assert max(map(len, screen.splitlines())) <= 80


@pytest.mark.usefixtures("shell")
async def test_stats_at_a_terminal_say_since_when_outcomes_are_counted(tmp_path: Path) -> None:
    with at_terminal("stats", "--every", "0.2", cwd=tmp_path, environ=dict(os.environ), columns=80) as terminal:
        assert await asyncio.to_thread(terminal.wait) == 0
    assert terminal.shown.splitlines()[-1] == "sent to cancelled: since the service started"


async def test_stats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
    both, service = BothWays(shell, monkeypatch), shell.service
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    await service.push(apns("ok", 1) + fcm("ok", 1), data={"a": "b"}, send_at=soon)
    push = await service.push(apns("BadPriority", 1), data={"a": "b"})
    assert await service.done(push) == {"total": 1, "failed": 1}
    # When each process first saw what nothing has recorded is its own.
    look = await both("stats", "--every", "0.2", of=without("at", "since"))
    assert (look["scheduled"], look["schedules"], look["dead_letters"]) == (2, 1, {"shop": 1})
    assert [(route["app"], route["platform"]) for route in look["routes"]] == [("shop", "apns"), ("shop", "fcm")]
    assert look["unserved"].keys() == {"jobs"}
    texts = [await way("stats", "--every", "0.2") for way in (both.over_api, both.in_store)]
    assert texts[0] == texts[1]
    code, _, err = await shell("stats", "--app", "other")
    assert (code, "apps.other: no such app in the configuration" in err) == (1, True)
    # Without a key the URL is that of the counters alone.
    with monkeypatch.context() as environment:
        environment.delenv("PUSHSVC_KEY")
        code, out, _ = await shell("stats", "--every", "0.2", "--url", "http://127.0.0.1:1")
    assert (code, out.count("counters  missing: http://127.0.0.1:1 does not answer")) == (0, 1)
    # A service that is named with its key needs no configuration here.
    (tmp_path / "broken.toml").write_text("[nonsense]\n")
    monkeypatch.setenv("PUSHSVC_CONFIG", str(tmp_path / "broken.toml"))
    for where in ((), ("--url", os.environ["PUSHSVC_URL"]), ("--app", "shop")):
        assert (await both.over_api("stats", "--every", "0.2", *where))[0] == 0
    code, _, err = await shell("stats", "--app", "other")
    assert (code, "nonsense" in err) == (1, True)
    monkeypatch.delenv("PUSHSVC_URL")
    code, _, err = await shell("stats")
    assert (code, "nonsense" in err) == (1, True)


async def age(service: Service, name: str) -> None:
    """Let the app have a device that a cleanup takes."""
    async with open_running_store(service.settings) as store:
        old = Device(id=name, platform="fcm", token=fcm("ok", name)[0]["token"], registered_at=1, last_seen_at=1)
        assert await store.registry.put_many("shop", [old]) == [True]


async def test_replay_and_cleanup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
    both, service = BothWays(shell, monkeypatch), shell.service
    (code, _, err), _ = await both.as_processes("cleanup")
    assert (code, "`pushsvc jobs`, which would clean up, is not running" in err) == (1, True)
    await both("replay")
    push = await service.push(apns("BadPriority", 1, 2, 3), data={"a": "b"})
    assert await service.done(push) == {"total": 3, "failed": 3}
    await both("replay", "--dry-run", "--reason", "BadPriority", "--limit", "2")
    await both("replay", "--reason", "Nonsense")
    await both("replay", "--stop", "nothing", code=1)
    moment = without("job", "created_at", "updated_at", "seconds")
    await age(service, "old")
    counted = [(code, moment(report), err) for code, report, err in await both.as_processes("cleanup", "--dry-run")]
    would_go = {"state": "done", "dry_run": True, "total": 1, "apps": {"shop": {"stale": 1}}}
    assert counted == [(0, would_go, "")] * 2

    asked = await both(
        "replay", "--detach", "--push", push, "--since", "2020-01-01", "--rate", "5", "--limit", "1", of=moment
    )
    assert asked["jobs"][0]["spec"]["filter"].keys() == {"push", "since"}
    stopped = [
        await way("replay", "--stop", job, "--json")
        for way, job in ((both.over_api, asked["jobs"][0]["job"]), (both.in_store, asked["jobs"][0]["job"]))
    ]
    assert stopped[0] == stopped[1]
    assert json.loads(stopped[0][1])["state"] == "stopped"

    async with jobs(tmp_path):
        for way in (both.over_api, both.in_store):
            code, out, _ = await way("replay", "--platform", "apns", "--limit", "2")
            assert (code, out.splitlines()[-2:]) == (
                0,
                [
                    "shop: done, 2 of 2",
                    "2 deliveries back in the queue; `pushsvc failed` lists those that fail again",
                ],
            )
            assert await service.done(push) == {"total": 3, "failed": 3}

        async def cleaned_at_its_start() -> bool:
            async with open_running_store(service.settings) as store:
                record = await store.cleanups.record()
                # The one that the command has run in the store ended before `jobs` began its own.
                ended = record.ended_at >= record.began_at > 0
                return ended and await store.locks.holder(LOCK) is None

        await service.until("the first cleanup of `jobs` has ended", cleaned_at_its_start)
        await age(service, "older")
        done = [(code, moment(report), err) for code, report, err in await both.as_processes("cleanup")]
        gone = {"state": "done", "dry_run": False, "total": 1, "apps": {"shop": {"stale": 1}}}
        assert done == [(0, gone, ""), (0, {**gone, "total": 0, "apps": {"shop": {}}}, "")]

    # A key is of one app: several are cleaned in the store, and a service that is named by --url is not asked.
    two = tmp_path / "two.toml"
    two.write_text(f"{(tmp_path / 'pushsvc.toml').read_text()}\n[apps.news.live]\nsecret = '{'s' * 40}'\n")
    monkeypatch.setenv("PUSHSVC_CONFIG", str(two))
    for words in ((), ("--dry-run",)):
        code, out, err = await both.as_process("cleanup", *words)
        assert (code, out and out["apps"], err) == (0, {"shop": {}, "news": {}}, "")
    code, _, err = await both.as_process("cleanup", "--url", os.environ["PUSHSVC_URL"])
    assert (code, "is of the app shop, and this command is about shop, news: leave out --url" in err) == (1, True)


async def test_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
    both = BothWays(shell, monkeypatch)
    file = tmp_path / "devices.ndjson"
    token = apns("ok", 1)[0]["token"]
    lines = [
        {"id": "one", "platform": "apns", "token": token, "user": "u1", "topics": ["news"], "strikes": 2},
        {"id": "two", "platform": "nowhere", "token": "x"},
        {
            "id": "three",
            "platform": "fcm",
            "token": fcm("ok", 1)[0]["token"],
            "registered_at": "2026-01-01T00:00:00Z",
        },
        ["no device"],
    ]
    file.write_text("\n".join([*map(json.dumps, lines), "not JSON"]))
    moment = without("seconds")
    command = ("devices", "import", str(file), "--app", "shop")
    first = {"app": "shop", "imported": 2, "new": 2, "rejected": 3, "rejects": f"{file}.rejected", "done": True}
    first["fault"] = "line 2: platform: unknown platform; known are `apns`, `fcm`, `live`"
    over_api, in_store = await both.as_processes(*command)
    aside = f"the bad lines of an earlier import are in {file}.rejected.old now\n"
    assert (over_api[0], moment(over_api[1]), over_api[2]) == (0, first, "")
    assert (in_store[0], moment(in_store[1]), in_store[2]) == (0, {**first, "new": 0}, aside)
    rejected, shown = [], []
    for key in ({}, {"PUSHSVC_KEY": ""}):
        for name in ("one", "three"):
            assert (await shell("devices", "delete", name, "--app", "shop"))[0] == 0
        environ = {**os.environ, **key}
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "pushsvc", *command, env=environ)
        assert await process.wait() == 0
        rejected.append((tmp_path / "devices.ndjson.rejected").read_text())
        shown.append(without("registered_at", "last_seen_at")(await shell.json("devices", "show", "one")))
    assert rejected[0] == rejected[1]
    assert [json.loads(line)["line"] for line in rejected[0].splitlines()] == [2, 4, 5]
    assert shown[0] == shown[1]
    assert [(each["topics"], each["strikes"]) for each in shown[0]["items"]] == [(["news"], 2)]
    # What is too much for one body goes in several.
    monkeypatch.setattr(operator_api, "BODY", 100)
    at = Access(str(shell.service.session._base_url), KEY)
    async with operator_api.open_api(at, strict=True) as api:
        assert api is not None
        async with api.importing("shop") as write:
            assert [each if isinstance(each, bool) else each[0].path for each in await write(lines)] == [
                *(False, "platform", False, "$")
            ]


async def test_devices_and_webhooks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    then = 1_796_115_600_000
    times: dict[str, Any] = {"registered_at": then, "last_seen_at": then + 5, "tags": {"plan": "pro", "score": 1.5}}
    one = Device(id="one", platform="apns", token=apns("ok", 1)[0]["token"], user="u1", topics=("news",), **times)
    two = Device(id="gone", platform="fcm", token=fcm("ok", 1)[0]["token"], **times)
    devices = [
        structs.replace(one, strikes=2, struck_at=then + 9),
        structs.replace(two, state="pruned", pruned_at=then + 7, pruned_for="UNREGISTERED"),
    ]
    async with serving(tmp_path, capsys, monkeypatch, HOOK.format(port=9)) as shell:
        both = BothWays(shell, monkeypatch)
        place = webhook_configs(shell.service.settings)["shop"].place
        async with open_running_store(shell.service.settings) as store:
            await store.registry.put_many("shop", devices)
            event = FeedbackEvent(then, "apns", "token", "Unregistered", "suspected")
            assert isinstance(store, Store)
            await store.link.call("XADD", keys.events("shop", 0), "*", "e", encode_event(event))
            async with store.webhooks.claimed("shop", place, lease=30) as claim:
                assert claim is not None
                batch = await claim.next(5)
                assert batch is not None
                assert await claim.give_up(batch, "http_400")
        for words in (
            ("webhooks", "failed"),
            ("webhooks", "redeliver", "--dry-run"),
            ("devices", "restore", "--dry-run"),
        ):
            assert await both(*words)
            await both(*words, "--since", "2020-01-01", "--until", "2020-01-02")
        await both("devices", "unsuppress", "apns", "ab" * 32, "--app", "shop", code=1)
        for way in (both.over_api, both.in_store):
            code, out, _ = await way("webhooks", "test", "--app", "shop")
            assert (code, out.partition(" after")[0]) == (1, "127.0.0.1:9: failed, unreachable")
            assert (await way("webhooks", "redeliver", "--detach"))[0] == 0
            assert (await shell.json("webhooks", "list"))["items"][0]["asked"] == 1
        for environ in ({"PUSHSVC__REDIS__URL": "redis://127.0.0.1:1/0"}, {"PUSHSVC_KEY": ""}):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pushsvc", "devices", "export", "-", "--app", "shop", "--tombstones"),
                env={**os.environ, **environ},
                stdout=-1,
            )
            lines = (await process.communicate())[0].splitlines()
            assert sorted(lines) == sorted(ndjson_of(devices, addresses()).splitlines())
        assert await both.over_api("devices", "restore") == (0, "1 device restored\n", "")
        assert (await shell.json("devices", "show", "gone"))["items"][0]["state"] == "active"


async def test_check(monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
    url = str(shell.service.session._base_url)
    for online in ((), ("--online",)):
        there, here = [await shell.json("check", *online, *where) for where in (("--url", url), ())]
        for each in (there, here):
            for finding in each["findings"]:
                finding["what"] = finding["what"].partition(" after ")[0]
        assert there == here
    assert "accepts the credential" in str(there)
    # The configuration on disk may not be in use yet: it is the one that is checked, unless a URL is given.
    monkeypatch.setenv("PUSHSVC__APPS__SHOP__APNS__KEY_FILE", "gone.p8")
    assert (await shell("check"))[0] == 1
    assert (await shell("check", "--url", url))[0] == 0
    code, _, err = await shell("check", "--url", "http://127.0.0.1:1")
    assert (code, "http://127.0.0.1:1 does not answer" in err) == (1, True)
    monkeypatch.delenv("PUSHSVC_KEY")
    assert (await shell("check", "--url", url))[0] == 2
    assert (await shell("check", "--url", url, "--key", KEY))[0] == 0
