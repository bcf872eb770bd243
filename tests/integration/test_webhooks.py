"""Webhooks between real processes: `pushsvc jobs` on one side, a receiver that knows the guide only on the other."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pushsvc import cli
from pushsvc.model.codec import encode_event
from pushsvc.model.devices import Device
from pushsvc.model.signing import write_secret
from pushsvc.model.status import FeedbackEvent
from pushsvc.ports.live import EventReport
from pushsvc.ports.webhooks import Standing
from pushsvc.stages.webhooks.config import WebhookConfig
from pushsvc.store import Store, keys

from ..pages import PAGES, blocks
from .harness import apns, fcm
from .ports import free_ports
from .processes import open_site, own_processes, until
from .servers import KINDS, Server, running_server
from .test_store_kit import make_push, new_store
from .webhook_receiver import Receiver, noted

RECEIVER = Path(__file__).with_name("webhook_receiver.py")
SECRET = write_secret(bytes(range(32)))
OTHER_SECRET = write_secret(bytes(range(1, 33)))

CONFIG = """
[metrics]
port = {metrics}
[jobs]
takeover = 1.0
[redis]
url = "{url}"
[apps.shop.apns]
topic = "com.example.shop"
key_file = "{folder}/none.p8"
key_id = "ABC123DEFG"
team_id = "DEF123GHIJ"
"""
HOOK = """
[apps.shop.webhook]
url = "http://127.0.0.1:{port}/hook?key=hidden"
secret = "{secret}"
allow_private = true
batch = 20
timeout = 0.5
base = 0.02
cap = 0.2
"""


class Rig:
    """One configuration, its store, and the processes that a test starts."""

    def __init__(self, server: Server, folder: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.server = server
        self.folder = folder
        self.store = store
        self.port = free_ports(2)
        self.config = folder / "pushsvc.toml"
        self.log = folder / "log"
        self.record = folder / "record"
        self.configure()

    def configure(self, extra: str = "", *, path: str = "/hook?key=hidden", secret: str = SECRET) -> None:
        """Write the configuration, which running processes reload."""
        hook = HOOK.format(port=self.port, secret=secret).replace("/hook?key=hidden", path) + extra
        text = CONFIG.format(url=self.server.url, folder=self.folder, metrics=0) + hook
        whole = self.folder / "new.toml"
        whole.write_text(text)
        whole.replace(self.config)

    @contextmanager
    def process(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process, killed at the end if it has not ended before."""
        with self.log.open("ab") as log:
            process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @asynccontextmanager
    async def jobs(self) -> AsyncIterator[subprocess.Popen[bytes]]:
        """`pushsvc jobs`, once it works."""
        reported = self.log.read_text().count('"ready"') if self.log.exists() else 0
        with self.process("-m", "pushsvc", "jobs", "--config", str(self.config)) as process:
            await self.until("jobs is ready", lambda: self.log.read_text().count('"ready"') > reported)
            yield process

    @asynccontextmanager
    async def receiver(self, *plan: Any, secret: str = SECRET) -> AsyncIterator[None]:
        """The receiver, once it listens."""
        with self.process(str(RECEIVER), str(self.port), secret, str(self.record), json.dumps(plan)):
            await self.until("the receiver listens", lambda: _listens(self.port))
            yield

    async def events(self, first: int, last: int, devices: int = 40) -> None:
        """Events as feedback records them: number `n` is of device `n % devices`, with `n` as its reason."""
        key = keys.events("shop", 0)
        events = [
            FeedbackEvent(1_796_115_600_000 + n, "apns", f"secret-token-{n % devices}", f"R{n}", "suspected")
            for n in range(first, last)
        ]
        await self.store.link.many([("XADD", key, "*", "e", encode_event(event)) for event in events])

    def calls(self) -> list[dict[str, Any]]:
        """What the receiver has noted."""
        return noted(self.record)

    def had(self) -> list[dict[str, Any]]:
        """The events that the receiver has taken for new, in that order."""
        return [event for call in self.calls() for event in call.get("new", ())]

    async def standing(self) -> Standing:
        url = re.search(r'^url = "(http.*)"', self.config.read_text(), re.MULTILINE)
        assert url is not None
        return await self.store.webhooks.standing("shop", WebhookConfig(url=url[1], keys=()).place)

    async def until(self, what: str, reached: Callable[[], Any]) -> None:
        deadline = asyncio.get_running_loop().time() + 60
        while True:
            value = reached()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"still not so: {what}; {await self.standing()}\n{self.log.read_text()[-3000:]}")
            await asyncio.sleep(0.02)

    async def until_had(self, count: int) -> None:
        await self.until(f"{count} events were had", lambda: len(self.had()) >= count)

    def in_order_once(self, count: int, devices: int = 40) -> None:
        """Each event once, in the order of recording, and so in that of its device."""
        reasons = [event["reason"] for event in self.had()]
        assert reasons == [f"R{n}" for n in range(count)]
        by_device: dict[str, list[int]] = {}
        for event in self.had():
            by_device.setdefault(event["token"], []).append(int(event["reason"][1:]))
        assert len(by_device) == min(devices, count)
        assert all(each == sorted(each) for each in by_device.values())

    async def command(self, *words: str) -> tuple[int, str]:
        """A `pushsvc` command to its end, in a thread of this process: exit code, what it printed or complained of."""
        self.capsys.readouterr()
        code = await asyncio.to_thread(cli.main, [*words, "--config", str(self.config)])
        reported = self.capsys.readouterr()
        return code, reported.out + reported.err


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


BACKENDS = KINDS


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    with running_server("valkey") as found:
        yield found


@asynccontextmanager
async def rigged(server: Server, folder: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Rig]:
    async with new_store(server) as store:
        rig = Rig(server, folder, store, capsys)
        yield rig
        # Neither the path of the URL, nor a secret, nor a token.
        log = rig.log.read_text()
        assert not re.search(r"hidden|whsec_|secret-token", log)


async def test_down_slow_failing_and_killed_in_between(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with rigged(server, tmp_path, capsys) as rig:
        async with rig.jobs() as jobs:
            await rig.events(0, 300)

            async def tried() -> bool:
                return (await rig.standing()).failures >= 3

            await rig.until("it has been tried while nobody listens", tried)
            assert (await rig.standing()).reason == "unreachable"
            async with rig.receiver(500, 503, "slow:0.8", 429, "lost", 200, 500, "lost"):
                await rig.until_had(100)
                jobs.send_signal(signal.SIGKILL)
                await asyncio.to_thread(jobs.wait)
        await rig.events(300, 600)  # while neither is there
        # Each call takes a moment, so that the next kill is in the midst of it.
        async with rig.receiver(*["slow:0.05"] * 60):
            async with rig.jobs() as jobs:
                await rig.until_had(400)
                jobs.send_signal(signal.SIGKILL)
                await asyncio.to_thread(jobs.wait)
            assert len(rig.had()) < 600
        async with rig.receiver(), rig.jobs() as jobs:
            await rig.until_had(600)
            jobs.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(jobs.wait) == 0
        rig.in_order_once(600)
        standing = await rig.standing()
        assert (standing.waiting_since, standing.failures, standing.dead) == (None, 0, 0)

        calls = rig.calls()
        assert not [call for call in calls if call["did"] == "refused"]
        had = [call for call in calls if "new" in call]
        times = Counter(call["call"] for call in had)
        repeated = {call: count for call, count in times.items() if count > 1}
        # A repeat is whole: it has the same events, and none of them is new.
        for call in repeated:
            first, *others = [each for each in had if each["call"] == call]
            assert all((each["events"], each["new"]) == (first["events"], []) for each in others)
        lost = sum(1 for call in had if call["did"] in ("lost", "slow:0.8"))
        kills = 2
        with capsys.disabled():
            print(
                f"\n{server.kind}: {len(calls)} calls, 600 events once each; {sum(repeated.values()) - len(repeated)}"
                f" calls repeated ({lost} answers lost, {kills} kills)"
            )
        assert sum(repeated.values()) - len(repeated) <= lost + kills


async def test_what_devices_report_is_sent_beside_feedback_events(
    valkey: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with rigged(valkey, tmp_path, capsys) as rig:
        rig.configure('kinds = ["feedback", "event"]\nattempts = 1\nretry_for = 0\n')
        await rig.store.registry.put("shop", Device(id="phone", platform="apns", token="secret-token-0"))
        pushes = [f"p{number}" for number in range(25)]
        for push in pushes:
            await rig.store.pushes.accept(make_push(push))
        reports = [EventReport(push, "phone", "opened") for push in pushes]
        assert await rig.store.live.report("shop", reports, log=True) == ["apns"] * 25
        async with rig.receiver(400, 400), rig.jobs():

            async def given_up() -> bool:
                return len(await rig.store.event_webhooks.dead("shop")) == 2

            await rig.until("both were given up", given_up)
            await rig.events(0, 3)
            await rig.until_had(3)
            code, out = await rig.command("webhooks", "list", "--json")
            assert [(row["kind"], row["state"], row["dead"]) for row in json.loads(out)["items"]] == [
                ("feedback", "ok", 0),
                ("event", "failing", 2),
            ]
            code, out = await rig.command("webhooks", "redeliver")
            assert (code, out) == (0, "2 of 2 batches with 25 events delivered\n")
        calls = [call for call in rig.calls() if "new" in call]
        assert [(call["type"], len(call["new"])) for call in calls] == [("feedback", 3), ("event", 20), ("event", 5)]
        delivered = [event for call in calls[1:] for event in call["new"]]
        assert [(each["push_id"], each["device_id"], each["platform"], each["event"]) for each in delivered] == [
            (push, "phone", "apns", "opened") for push in pushes
        ]


async def test_a_redelivered_batch_and_one_that_is_refused_hold_nobody_up(
    valkey: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with rigged(valkey, tmp_path, capsys) as rig:
        rig.configure("attempts = 2\nretry_for = 0\n")
        await rig.events(0, 100)
        async with rig.receiver(200, 400, 400), rig.jobs():
            await rig.until_had(80)
            assert [event["reason"] for event in rig.had()] == [f"R{n}" for n in (*range(20), *range(40, 100))]
            assert (await rig.standing()).dead == 1
            code, out = await rig.command("webhooks", "failed")
            assert code == 0
            row = out.splitlines()[1].split("\t")
            assert (row[0], row[2:5]) == ("shop", ["20", "2", "http_400"])
            code, out = await rig.command("webhooks", "redeliver", "--dry-run", "--app", "shop")
            assert (code, out) == (0, "1 batch with 20 events would be redelivered\n")
            code, out = await rig.command("webhooks", "redeliver", "--until", "2020-01-01")
            assert (code, out) == (0, "no batch was given up\n")
            code, out = await rig.command("webhooks", "redeliver", "--since", "1h")
            assert (code, out) == (0, "1 of 1 batch with 20 events delivered\n")
            assert sorted(event["reason"] for event in rig.had()) == sorted(f"R{n}" for n in range(100))
            first, second = (call for call in rig.calls() if call["did"] == 400)
            assert rig.calls()[-1]["call"] == first["call"] == second["call"]
            assert (await rig.command("webhooks", "failed"))[1].splitlines()[1:] == ["0 batches"]
            code, out = await rig.command("webhooks", "failed", "--json")
            assert json.loads(out) == {"items": []}


async def test_what_cannot_be_redelivered_stays(
    valkey: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with rigged(valkey, tmp_path, capsys) as rig:
        rig.configure("attempts = 1\nretry_for = 0\n")
        async with rig.jobs():
            async with rig.receiver(400, 400, 400):
                await rig.events(0, 60)

                async def given_up() -> bool:
                    return (await rig.standing()).dead == 3

                await rig.until("all three were given up", given_up)
            async with rig.receiver(422, 503):
                code, out = await rig.command("webhooks", "redeliver")
                assert (code, out) == (1, "0 of 3 batches with 60 events delivered\n")
                # The first was refused for its own sake; with the second the receiver was in trouble.
                assert [call["did"] for call in rig.calls()[3:]] == [422, 503]
                reported = json.loads((await rig.command("webhooks", "failed", "--json"))[1])["items"]
                assert [(each["attempts"], each["reason"]) for each in reported] == [
                    (2, "http_422"),
                    (2, "http_503"),
                    (1, "http_400"),
                ]
                code, out = await rig.command("webhooks", "redeliver", "--json")
                assert (code, json.loads(out)["delivered"]) == (0, {"shop": 3})
        rig.in_order_once(60)


async def test_gone_switches_it_off_until_somebody_resumes_it_or_its_url_is_another(
    valkey: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with rigged(valkey, tmp_path, capsys) as rig:

        async def off() -> bool:
            return (await rig.standing()).off

        async with rig.receiver(410, 200, 410), rig.jobs():
            await rig.events(0, 5)
            await rig.until("it is off", off)
            await rig.events(5, 10)
            code, out = await rig.command("webhooks", "list")
            row = out.splitlines()[1].split("\t")
            assert (code, row[0], row[1], row[2], row[5]) == (0, "shop", f"127.0.0.1:{rig.port}", "off", "http_410")
            code, out = await rig.command("webhooks", "resume", "--app", "shop")
            assert (code, out) == (0, "the webhook of shop is resumed\n")
            await rig.until("it is off again", off)
            assert len(rig.had()) == 5
            rig.configure(path="/other?key=hidden")
            await rig.until_had(10)
            listed = json.loads((await rig.command("webhooks", "list", "--json"))[1])["items"]
            assert [(each["state"], each["off"]) for each in listed] == [("ok", False)]
        rig.in_order_once(10)


async def test_a_secret_changes_under_way(valkey: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with rigged(valkey, tmp_path, capsys) as rig:
        async with rig.jobs() as jobs:
            async with rig.receiver():
                await rig.events(0, 5)
                await rig.until_had(5)
                rig.configure(f'old_secret = "{SECRET}"\n', secret=OTHER_SECRET)
                jobs.send_signal(signal.SIGHUP)
                await rig.until("it has read it", lambda: '"reloaded"' in rig.log.read_text())
                await rig.events(5, 10)
                await rig.until_had(10)
            async with rig.receiver(secret=OTHER_SECRET):
                await rig.events(10, 15)
                await rig.until_had(15)
            rig.configure(secret=SECRET)
            reported = rig.log.read_text().count('"reloaded"')
            jobs.send_signal(signal.SIGHUP)
            await rig.until("it has read it", lambda: rig.log.read_text().count('"reloaded"') > reported)
            async with rig.receiver(secret=OTHER_SECRET):
                await rig.events(15, 20)
                await rig.until("it was refused", lambda: rig.calls()[-1]["did"] == "refused")
            async with rig.receiver():
                await rig.until_had(20)
        rig.in_order_once(20)


async def test_retry_after_is_waited_for(valkey: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with rigged(valkey, tmp_path, capsys) as rig:
        async with rig.receiver(429), rig.jobs():
            await rig.events(0, 5)
            await rig.until("it was refused", lambda: rig.calls())
            await rig.until_had(5)
        refused, had = rig.calls()
        assert refused["call"] == had["call"]
        assert int(had["at"]) - int(refused["at"]) >= 1
        again = re.search(r'"again_in":\s*([\d.]+)', rig.log.read_text())
        assert again is not None
        assert 1.0 <= float(again[1]) <= 1.1


async def test_redirects_are_not_followed(valkey: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with rigged(valkey, tmp_path, capsys) as rig:
        elsewhere = tmp_path / "elsewhere"
        words = (str(RECEIVER), str(rig.port + 1), SECRET, str(elsewhere))
        with rig.process(*words):
            await rig.until("the other one listens", lambda: _listens(rig.port + 1))
            async with rig.receiver(f"to:http://127.0.0.1:{rig.port + 1}/"), rig.jobs():
                await rig.events(0, 5)
                await rig.until_had(5)
        assert [call["did"] for call in rig.calls()] == [f"to:http://127.0.0.1:{rig.port + 1}/", 200]
        assert not elsewhere.exists()


async def test_private_addresses_are_not_called(
    valkey: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with rigged(valkey, tmp_path, capsys) as rig:
        text = rig.config.read_text().replace("allow_private = true\n", "")
        rig.config.write_text(text.replace("http://127.0.0.1", "https://localhost"))
        async with rig.receiver(), rig.jobs():
            await rig.events(0, 5)

            async def refused() -> bool:
                return (await rig.standing()).reason == "address_refused"

            await rig.until("it was refused", refused)
            code, out = await rig.command("check", "--json")
            findings = {each["part"]: each for each in json.loads(out)["findings"]}
            assert code == 1
            assert "not to the public internet" in findings["apps.shop.webhook"]["what"]
            code, out = await rig.command("webhooks", "test", "--app", "shop")
            assert (code, out.partition(" after")[0]) == (1, f"localhost:{rig.port}: failed, address_refused")
            # Its owner may allow it, and nothing has been lost.
            rig.configure()
            await rig.until_had(5)
        assert [call["did"] for call in rig.calls()] == [200]


async def test_commands_that_call_and_that_look(
    valkey: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with rigged(valkey, tmp_path, capsys) as rig:
        code, out = await rig.command("webhooks", "secret")
        assert code == 0
        secret = out.strip()
        rig.configure(secret=secret)
        async with rig.receiver(200, 503, secret=secret):
            code, out = await rig.command("webhooks", "test", "--app", "shop")
            assert (code, out.partition(" after")[0]) == (0, f"127.0.0.1:{rig.port}: ok, http_200")
            (call,) = rig.calls()
            assert (call["did"], call["type"], call["events"]) == (200, "test", 0)
            code, out = await rig.command("webhooks", "test", "--app", "shop", "--json")
            assert (code, json.loads(out)["status"]) == (1, 503)
        code, out = await rig.command("webhooks", "test", "--app", "shop")
        assert (code, out.partition(" after")[0]) == (1, f"127.0.0.1:{rig.port}: failed, unreachable")
        code, out = await rig.command("webhooks", "test", "--app", "shp")
        assert code == 1
        assert "apps.shp: no such app" in out
        code, out = await rig.command("check", "--json")
        rows = [row for row in json.loads(out)["findings"] if row["part"] == "apps.shop.webhook"]
        assert [(row["level"], row["what"]) for row in rows] == [
            ("ok", "127.0.0.1 leads to 127.0.0.1"),
            ("warning", "http:// shows device tokens to every network on the way"),
        ]
        rig.config.write_text(CONFIG.format(url=valkey.url, folder=tmp_path, metrics=0))
        code, out = await rig.command("webhooks", "resume", "--app", "shop")
        assert code == 1
        assert "apps.shop.webhook.url: the app has no webhook" in out
        code, out = await rig.command("webhooks", "list")
        assert (code, out.splitlines()[1:]) == (0, ["0 webhooks"])


def test_a_call_whose_line_is_not_complete_has_not_been_had(tmp_path: Path) -> None:
    record = tmp_path / "record"
    assert noted(record) == []
    record.write_text('{"call": "1", "new": [{"id": "a"}]}\n{"call": "2", "new": [{"id"')
    assert [call["call"] for call in noted(record)] == ["1"]
    with Receiver(0, SECRET, record, []) as receiver:
        assert receiver.seen == {"a"}
        receiver.note(call="2")
    assert [call["call"] for call in noted(record)] == ["1", "2"]


# --- the whole way --------------------------------------------------------------------------------


def test_from_a_dead_token_to_the_receiver(tmp_path: Path) -> None:
    """`pushsvc up`, the simulator behind it: what `GET /v1/feedback` answers is what the receiver has."""
    port, record = free_ports(), tmp_path / "record"
    with own_processes(tmp_path) as processes, open_site(tmp_path) as site:
        hook = HOOK.format(port=port, secret=SECRET).replace("batch = 20", "batch = 3")
        site.config.write_text(site.config.read_text() + hook)
        receiver = subprocess.Popen(
            [sys.executable, str(RECEIVER), str(port), SECRET, str(record), "[500]"], env=processes.environ()
        )
        try:
            up = processes.start("up", **site.environ)
            site.api.until_ready()
            dead = apns("Unregistered", *range(5)) + apns("BadDeviceToken", 1) + fcm("UNREGISTERED", *range(4))
            push = site.api.push(dead + apns("ok", *range(5)))
            assert site.api.until_done(push) == {"total": 15, "sent": 5, "invalid": 9, "failed": 1}

            def had() -> list[dict[str, Any]]:
                return [event for call in noted(record) for event in call.get("new", ())]

            until(lambda: f"all ten were had: {had()}", lambda: len(had()) == 10)
            status, page = site.api.call("GET", "/v1/feedback")
            assert status == 200
            assert page["items"] == had()
            assert {event["token"] for event in had()} == {each["token"] for each in dead}
            _, text = site.api.call("GET", "/metrics")
            assert 'pushsvc_webhook_calls_total{app="shop",result="failed"} 1.0' in text

            def reported() -> str:
                return str(site.api.call("GET", "/metrics")[1])

            until(reported, lambda: 'pushsvc_webhook_lag_seconds{app="shop"} 0.0' in reported())
            assert 'pushsvc_webhook_dead_batches{app="shop"} 0.0' in reported()
            assert up.end() == 0, up.output()
        finally:
            receiver.kill()
            receiver.wait()


def test_the_page_s_own_lines_verify_a_call() -> None:
    """The code block as a reader would paste it, against the specification's own vector."""
    (block,) = blocks("python", PAGES["reference/webhooks.md"])
    names: dict[str, Any] = {}
    exec(block, names)
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert not names["is_genuine"](secret, headers, body)  # of 2021
    names["time"] = type("Then", (), {"time": staticmethod(lambda: 1614265400.0)})
    assert names["is_genuine"](secret, headers, body)
    assert not names["is_genuine"](secret, headers, body + b" ")
    assert not names["is_genuine"](SECRET, headers, body)
    assert not names["is_genuine"](secret, {**headers, "webhook-id": "another"}, body)
    assert not names["is_genuine"](secret, {**headers, "webhook-timestamp": "1614265331"}, body)
