"""A user of Redis with exactly the permissions that the guide names: all works, and what is missing is named."""

from __future__ import annotations

import asyncio
import json
import math
import re
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from pushsvc import cli
from pushsvc.errors import StoreUnavailable
from pushsvc.runtime.checks.check import judge_permissions
from pushsvc.runtime.checks.jobs import check_jobs
from pushsvc.settings.schema import JobsSettings, RedisSettings, Settings
from pushsvc.store import forbidden_to_jobs, open_store
from pushsvc.store.link import permissions, scripts

from ..pages import PAGES
from .harness import Service, apns, fcm, running_service
from .servers import KINDS, Server, running_server, wait_until
from .test_cluster_failover import insist
from .topologies import is_ok, running_cluster


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running_server(request.param, tcp=True) as running:
        yield running


def restricted(server: Server, *more: str) -> str:
    """The URL of a user who may do what the guide says, and `more`."""
    found = re.search(r"`ACL SETUSER pushsvc on >SECRET (~ps:[^`]*)`", PAGES["guides/running.md"])
    assert found is not None
    server.flush()
    assert server.command("ACL SETUSER pushsvc reset on >SECRET", found[1], *more).startswith(b"+OK")
    server.command("ACL LOG RESET")
    return f"redis://pushsvc:SECRET@127.0.0.1:{server.port}/0"


@pytest.mark.parametrize("server", ["redis"], indirect=True)  # it takes a while, and both judge alike
async def test_the_service_needs_no_more_than_the_readme_says(server: Server, tmp_path: Path) -> None:
    async def act(service: Service, file: Path) -> None:
        targets = apns("ok", 1) + apns("Unregistered", "d") + apns("ServiceUnavailable.1", "s") + fcm("ok", 1)
        assert (await service.done(await service.push(targets, notification={"title": "t"}, collapse="c")))["sent"] == 3
        device = {"platform": "apns", "token": apns("ok", "phone")[0]["token"], "user": "ann"}
        async with service.session.put("/v1/devices/phone", json=device) as answer:
            assert answer.status == 201
        async with service.session.put("/v1/topics/news/devices/phone") as answer:
            assert answer.status == 204
        jobs = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pushsvc", "jobs", "--config", str(file)),
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            status, body = await service.post({"to": {"topic": "news"}, "notification": {"title": "t"}})
            assert status == 202
            assert await service.done(body["id"]) == {"total": 1, "sent": 1}
        finally:
            jobs.terminate()
            assert await jobs.wait() == 0
        async with service.session.delete("/v1/users/ann") as answer:
            assert answer.status == 200
        async with service.session.get("/readyz") as answer:
            assert answer.status == 200
        async with service.session.get("/metrics") as answer:
            assert answer.status == 200

    url = restricted(server)
    async with running_service(tmp_path, extra=f'[redis]\nurl = "{url}"\n') as service:
        assert service.settings.file is not None
        await act(service, service.settings.file)
    async with open_store(url) as store:
        assert (await store.inspect()).forbidden == []
    assert server.command("ACL LOG") == b"*0\r\n"


async def test_what_a_user_lacks_is_named(server: Server) -> None:
    async with open_store(restricted(server, "-zadd -xgroup|create -hgetall")) as store:
        lacking = (await store.inspect()).forbidden
        assert lacking == ["HGETALL", "XGROUP|CREATE", "ZADD"]
        (row,) = judge_permissions(lacking)
        assert row.level == "error"
        assert row.fix.endswith("~ps:* +hgetall +xgroup|create +zadd")
        with pytest.raises(StoreUnavailable):
            await store.pushes.ping()
    async with open_store(restricted(server)) as store:
        assert list(judge_permissions((await store.inspect()).forbidden)) == []


@pytest.mark.parametrize(
    ("more", "lacking", "fix"),
    [
        ("", [], ""),
        ("resetkeys ~ps:*", ["~rq:*"], "allow it: ACL SETUSER .. ~rq:*"),
        ("-blmove -zrange", ["+blmove", "+zrange"], "allow it: ACL SETUSER .. ~rq:* +blmove +zrange"),
        ("-eval", ["+eval"], "allow it: ACL SETUSER .. ~rq:* +eval"),
        ("-command", [], ""),
    ],
)
async def test_what_a_user_lacks_for_the_jobs_is_named(server: Server, more: str, lacking: list[str], fix: str) -> None:
    settings = Settings(redis=RedisSettings(url=restricted(server, more)))
    assert await forbidden_to_jobs(settings.redis.url) == lacking
    found = await check_jobs(settings)
    assert [(row.part, row.level, row.fix) for row in found] == ([("redis", "error", fix)] if fix else [])
    assert all(rule in row.what for row in found for rule in lacking)
    assert server.command("EXISTS rq:pushsvc-probe") == b":0\r\n"


async def test_the_redis_of_the_jobs_is_asked_where_it_is_another_one(server: Server) -> None:
    own = Settings(redis=RedisSettings(url="redis://localhost:1/0"), jobs=JobsSettings(url=restricted(server, "-set")))
    (row,) = await check_jobs(own)
    assert (row.part, row.level, row.fix) == ("jobs.url", "error", "allow it: ACL SETUSER .. ~rq:* +set")
    (row,) = await check_jobs(Settings(jobs=JobsSettings(url="redis://pushsvc:SECRET@127.0.0.1:1/0")))
    assert (row.part, row.level) == ("jobs.url", "error")
    assert row.what == "redis://127.0.0.1:1/0: Redis is not available: 127.0.0.1:1: Connection refused"
    (row,) = await check_jobs(Settings(redis=RedisSettings(url="redis+cluster://127.0.0.1:1")))
    assert (row.part, row.level, "not a cluster" in row.fix) == ("jobs.url", "error", True)
    assert await check_jobs(Settings()) == []


APP = """
[metrics]
port = 0
[apps.shop.apns]
topic = "com.example.shop"
key_file = "none.p8"
key_id = "ABC123DEFG"
team_id = "DEF123GHIJ"
"""


async def test_jobs_that_redis_refuses_say_once_what_is_refused_and_the_remedy(server: Server, tmp_path: Path) -> None:
    """Also a worker that gets as far as its first wait for a job."""

    def rejected() -> int:
        return sum(map(int, re.findall(rb"rejected_calls=(\d+)", server.command("INFO commandstats"))))

    for more, refused in (("resetkeys ~ps:*", "key"), ("-blmove", "blmove")):
        url, log, file = restricted(server, more), tmp_path / refused, tmp_path / f"{refused}.toml"
        server.command("CONFIG RESETSTAT")
        file.write_text(f'[redis]\nurl = "{url}"\n{APP}')
        with log.open("wb") as stream:
            jobs = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pushsvc", "jobs", "--config", str(file)), stderr=stream
            )
            try:
                async with asyncio.timeout(60):
                    while rejected() < 4:
                        assert jobs.returncode is None, log.read_text()
                        await asyncio.sleep(0.05)
                jobs.terminate()
                assert await jobs.wait() == 0
            finally:
                if jobs.returncode is None:
                    jobs.kill()
                    await jobs.wait()
        text = log.read_text()
        lines = [json.loads(line) for line in text.splitlines() if '"redis_' in line]
        assert [line["event"] for line in lines] == ["redis_away"], text
        assert lines[0]["at"] == f"redis://127.0.0.1:{server.port}/0"
        assert refused in lines[0]["error"]
        assert lines[0]["what"] == "the queue of jobs, in rq:*"
        assert "~rq:* +@all" in lines[0]["remedy"]
        assert "SECRET" not in text


async def test_a_user_who_may_not_read_the_memory_counts_as_no_error(server: Server) -> None:
    before = REGISTRY.get_sample_value("pushsvc_redis_errors_total")
    async with open_store(restricted(server, "-info")) as store:
        assert math.isnan(await store.memory_ratio())
        inspected = await store.inspect()
    assert (inspected.info, inspected.missing) == (None, [])
    assert REGISTRY.get_sample_value("pushsvc_redis_errors_total") == before


def test_every_command_that_is_sent_is_known() -> None:
    folder = Path(permissions.__file__).parent.parent
    text = "".join(
        file.read_text() for file in folder.rglob("*.py") if file.name not in ("embedded.py", "permissions.py")
    )
    words = {f"{first}|{second}" if second else first for first, second in WORDS.findall(text)}
    elsewhere = {"WAITAOF", "CLUSTER|SLOTS", "CONFIG|GET", "SENTINEL|MASTER", "SENTINEL|REPLICAS", "SENTINEL", "EVAL"}
    assert {word for word in words if word.partition("|")[0] in COMMANDS} - elsewhere <= {*permissions.SENT}
    assert {"XGROUP|CREATE", "XGROUP|DELCONSUMER", "XCLAIM", "BITFIELD", "INFO", "LLEN"} <= scripts.commands()


WORDS = re.compile(r'\(\s*"([A-Z]{3,})"(?:, "((?:CONSUMERS|SLOTS|GET|MASTER|REPLICAS))")?')
COMMANDS = {name.partition("|")[0] for name in (*permissions.SENT, *scripts.commands())} | {
    *("INCR", "EXPIRE", "ZINCRBY", "SREM", "XTRIM", "RENAME", "COPY", "UNLINK", "ZPOPMIN", "LPUSH", "LPOP", "HSCAN"),
    *("SSCAN", "MGET", "MSET", "GETDEL", "TOUCH", "XAUTOCLAIM", "PTTL", "TTL", "KEYS", "SCARD", "SISMEMBER"),
}


async def test_a_node_of_a_cluster_whose_restarts_are_not_noticed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As its user may not run INFO there. On the other nodes, on which it may, they are noticed."""

    def reported(*arguments: str) -> str:
        capsys.readouterr()
        cli.main(["check", *arguments])
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    with running_cluster(primaries=3, replicas=0) as rig:
        open_node, mute = rig.nodes[:2]
        for node in rig.nodes:
            rules = ["on", ">secret", "~*", "&*", "+@all", *["-info"] * (node is mute)]
            node.ask("ACL", "SETUSER", "narrow", *rules)
            node.words += ["--user", "narrow", *rules]  # also after a restart
        url = f"redis+cluster://narrow:secret@127.0.0.1:{open_node.port}"
        async with asyncio.timeout(60), open_store(url) as store:
            assert (await store.inspect()).unidentified == [f"127.0.0.1:{mute.port}"]
            for node, histories in ((mute, 0), (open_node, 1)):
                key = next(key for number in range(1000) if rig.holder(key := f"ps:{number}") is node)
                node.send(signal.SIGKILL)
                node.start()
                wait_until(node.answers)
                wait_until(lambda: all(map(is_ok, rig.nodes)), 30)
                await insist(partial(store.link.call, "GET", key))
                assert store.link.history == histories
        monkeypatch.setenv("PUSHSVC__REDIS__URL", url)
        findings = json.loads(await asyncio.to_thread(reported, "--json"))["findings"]
        (found,) = (row for row in findings if "a restart there" in row["what"])
        assert (found["part"], found["level"]) == ("redis", "warning")
        assert f" 127.0.0.1:{mute.port}:" in found["what"]
        assert found["fix"].endswith("ACL SETUSER .. +info")
        (line,) = (line for line in (await asyncio.to_thread(reported)).splitlines() if "a restart there" in line)
        assert line.startswith("warning\tredis\t")
        mute.ask("ACL", "SETUSER", "narrow", "+info")
        assert "a restart there" not in await asyncio.to_thread(reported)
