"""`send`, `status`, `cancel`, `keys` and `check` against a running service, as a shell would call them."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pushsvc import cli
from pushsvc.cli.operator import api as operator_api, store as operator_store
from pushsvc.lab.simulator import apns_token, fcm_token
from pushsvc.telemetry import configure_logging

from .harness import KEY, Service, apns, running_service
from .servers import KINDS, Kind, running_server


def service_url(service: Service) -> str:
    return str(service.session._base_url).rstrip("/")


class Shell:
    """Calls the command line in a thread of its own, beside the service's loop."""

    def __init__(self, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
        self.service = service
        self._capsys = capsys

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, and ours of standard error (the service in this process logs there too)."""
        self._capsys.readouterr()
        code = await asyncio.to_thread(cli.main, list(arguments))
        captured = self._capsys.readouterr()
        ours = [line for line in captured.err.splitlines() if not line.startswith("{")]
        return code, captured.out, "\n".join(ours)

    async def json(self, *arguments: str, code: int = 0) -> Any:
        found, out, err = await self(*arguments, "--json")
        assert found == code, err
        return json.loads(out)


@asynccontextmanager
async def serving(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, extra: str = ""
) -> AsyncIterator[Shell]:
    """A shell beside a service that the environment points at. `extra` is added to its configuration."""
    # The service shares this process' streams and its level of logging; only the command line is to be heard there.
    configure_logging("info", io.StringIO())
    monkeypatch.setenv("PUSHSVC__LOGGING__LEVEL", "warning")
    async with running_service(tmp_path, extra=extra) as service:
        monkeypatch.setenv("PUSHSVC_URL", str(service.session._base_url))
        monkeypatch.setenv("PUSHSVC_KEY", KEY)
        monkeypatch.setenv("PUSHSVC_CONFIG", str(tmp_path / "pushsvc.toml"))
        yield Shell(service, capsys)


async def test_sending_following_and_looking(tmp_path: Path, shell: Shell) -> None:
    good, dead = apns_token("ok", "1"), fcm_token("UNREGISTERED", "1")
    code, out, err = await shell("send", "--apns", good, "--fcm", dead, "--title", "Hi", "--data", "a=1=2", "-f")
    assert (code, err) == (0, "")
    push, *lines = out.splitlines()
    assert lines[-1] == "done: 2 of 2: 1 sent, 1 invalid"
    assert (await shell("status", push))[1].splitlines()[:2] == [f"{push}  done", "2 of 2: 1 sent, 1 invalid"]
    reported = await shell.json("status", push, "--deliveries")
    assert reported["counts"]["total"] == 2
    assert {row["outcome"] for row in reported["deliveries"]} == {"sent", "invalid"}
    assert good not in str(reported)
    code, out, _ = await shell("status", push, "--follow", "-d")
    assert code == 0
    assert out.splitlines()[0] == "done: 2 of 2: 1 sent, 1 invalid"
    assert out.splitlines()[1].startswith("platform\toutcome\treason\t")
    assert "\tinvalid\tUNREGISTERED\t" in out

    # Not one was sent: a script must notice.
    code, out, _ = await shell("send", "--apns", apns_token("BadTopic", "2"), "--title", "x", "--ttl", "1", "-f")
    assert code == 1
    assert out.splitlines()[-1].startswith("done: 1 of 1: 1 ")

    document = tmp_path / "push.json"
    document.write_text(json.dumps({"to": {"tokens": []}, "notification": {"title": "t"}, "lane": "bulk"}))
    reported = await shell.json("send", str(document), "--apns", apns_token("ok", "3"), "--follow")
    assert (reported["state"], reported["counts"]["sent"]) == ("done", 1)
    reported = await shell.json("send", str(document), "--apns", apns_token("ok", "4"))
    assert reported["deliveries"] == 1
    repeated = ["send", str(document), "--apns", apns_token("ok", "5"), "--idempotency-key", "once"]
    assert (await shell(*repeated))[1] == (await shell(*repeated))[1]


async def test_what_the_server_refuses(shell: Shell) -> None:
    code, out, err = await shell("send", "--apns", "not a token", "--badge", "-1")
    assert (code, out) == (1, "")
    first, *faults = err.splitlines()
    assert first.startswith("pushsvc: ")
    assert first.endswith("(422)")
    assert any(fault.startswith("  to.tokens[0].token: ") for fault in faults)
    code, _, err = await shell("status", "00000000-0000-0000-0000-000000000000")
    assert code == 1
    assert err.endswith("(404)")
    code, _, err = await shell("status", "x/../y?z", "--key", "wrong")
    assert code == 1
    assert err.endswith("(401)")
    assert "wrong" not in err


async def test_cancelling(shell: Shell) -> None:
    # Refused credentials hold the route, so that its pushes wait.
    _, out, _ = await shell("send", "--apns", apns_token("InvalidProviderToken", "1"), "--title", "x")
    push = out.strip()
    assert (await shell.json("cancel", push))["id"] == push
    # A request that was in flight is waited for.
    reported = await shell.json("status", push, "--follow", code=1)
    assert reported["state"] == "cancelled"
    assert reported["counts"]["total"] == reported["counts"]["cancelled"] == 1
    _, out, _ = await shell("send", "--fcm", fcm_token("ok", "1"), "--title", "x", "--follow")
    code, _, err = await shell("cancel", out.splitlines()[0])
    assert code == 1
    assert err.endswith("(409)")


async def test_keys(shell: Shell) -> None:
    new = ["keys", "new", "--app", "shop", "--name"]
    code, key, err = await shell(*new, "backend")
    assert code == 0
    assert key.startswith("pushsvc_")
    place = f"kept at {service_url(shell.service)}"
    assert err.splitlines()[0] == f"The key 'backend' of shop, {place}; it is not shown again:"
    code, _, _ = await shell("send", "--key", key, "--apns", apns_token("ok", "1"), "--title", "x", "--follow")
    assert code == 0
    made = await shell.json(*new, "all", "--scope", "admin", "--scope", "push", "--intake", "2/h")
    assert (made["scopes"], made["intake"]) == (["push", "admin"], "2/h")
    assert made["key"] != key.strip()

    code, _, err = await shell(*new, "backend")
    assert (code, err) == (
        1,
        "pushsvc: shop has a key 'backend' already: revoke it first or choose another name",
    )
    code, _, err = await shell(*new, "test")
    assert (code, err) == (1, "pushsvc: the configuration has a key 'test' of shop: choose another name")
    assert (await shell(*new, "a b"))[0] == 2
    code, _, err = await shell(*new, "fast", "--intake", "very")
    assert code == 2
    assert "--intake: expected a rate such as" in err
    for limited in (0, 0, 1):
        code, _, err = await shell("send", "--key", made["key"], "--apns", apns_token("ok", "1"), "--title", "x")
        assert code == limited
    assert "The key 'all' may post 2 pushes in 3600 s" in err
    code, _, err = await shell("keys", "new", "--app", "shp", "--name", "x")
    assert (code, err) == (1, "pushsvc: apps.shp: no such app in the configuration (did you mean `shop`?)")

    code, out, _ = await shell("keys", "list", "--app", "shop")
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()]
    assert [(row[1], row[2], row[3], row[5]) for row in rows[1:]] == [
        ("all", "push, admin", "2/h", "store"),
        ("backend", "push", "", "store"),
        ("test", "push, devices, feedback, admin", "", "configuration"),
    ]
    listed = (await shell.json("keys", "list"))["items"]
    assert [row["name"] for row in listed] == ["all", "backend", "test"]
    assert key.strip() not in str(listed)

    assert await shell.json("keys", "revoke", "--app", "shop", "--name", "backend") == {
        "app": "shop",
        "name": "backend",
        "revoked": True,
    }
    code, _, err = await shell("keys", "revoke", "--app", "shop", "--name", "backend")
    assert code == 1
    assert "no key 'backend' in the store" in err
    code, _, err = await shell("keys", "revoke", "--app", "shop", "--name", "test")
    assert code == 1
    assert "remove it there: running servers stop accepting it within seconds" in err
    assert [row["name"] for row in (await shell.json("keys", "list"))["items"]] == ["all", "test"]


async def test_checking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
    reported = await shell.json("check")
    assert reported["ok"] is True
    assert {finding["part"] for finding in reported["findings"]} >= {
        "configuration",
        "redis",
        "apps.shop.apns",
        "apps.shop.fcm",
    }
    assert all(finding.keys() == {"part", "level", "what", "fix", "expires"} for finding in reported["findings"])
    # What a running service holds is named, though every file is good.
    shell.service.simulator.break_credentials("apns")
    await shell.service.push(apns("ok", "held"))
    rows: list[list[str]] = []
    while not any(row[1] == "apps.shop.apns" and row[0] == "warning" for row in rows):
        code, out, _ = await shell("check")
        rows = [line.split("\t") for line in out.splitlines()]
    (found,) = [row[2] for row in rows if row[0] == "warning" and row[1] == "apps.shop.apns"]
    assert code == 0
    assert "the route is currently held" in found
    assert "InvalidProviderToken" in found
    shell.service.simulator.restore_credentials("apns")
    monkeypatch.setenv("PUSHSVC__APPS__SHOP__APNS__KEY_FILE", "gone.p8")
    code, out, _ = await shell("check")
    assert code == 1
    (row,) = [line.split("\t") for line in out.splitlines() if line.startswith("error")]
    assert row[1] == "apps.shop.apns"
    assert str(tmp_path / "gone.p8") in row[2]
    assert row[3], "no remedy"
    monkeypatch.setenv("PUSHSVC__REDIS__URL", "redis://me:hunter22@127.0.0.1:1/0")
    code, out, _ = await shell("check")
    assert code == 1
    assert "hunter22" not in out
    assert "error\tredis\tredis://127.0.0.1:1/0: " in out

    monkeypatch.setenv("PUSHSVC__SERVER__PRT", "x")
    monkeypatch.setenv("PUSHSVC__RETRY__BASE", "x")
    reported = await shell.json("check", code=1)
    assert [(finding["level"], finding["part"]) for finding in reported["findings"]] == [
        ("error", "configuration"),
        ("error", "PUSHSVC__SERVER__PRT"),
        ("error", "retry.base (from PUSHSVC__RETRY__BASE)"),
    ]


def test_a_variable_that_only_seems_to_set_a_key_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUSHSVC_SERVER_PORT", "9")
    monkeypatch.setenv("PUSHSVC_SERVICE_HOST", "10.0.0.7")
    warned = "warning\tPUSHSVC_SERVER_PORT\tis ignored: this name sets nothing\tdid you mean PUSHSVC__SERVER__PORT?\n"
    for refused in (False, True):  # where the configuration cannot be used, it may be for want of this very key
        if refused:
            monkeypatch.setenv("PUSHSVC__SERVER__PRT", "9")
        cli.main(["check"])
        out = capsys.readouterr().out
        assert (warned in out, "SERVICE_HOST" in out, "SERVER__PRT" in out) == (True, False, refused)


def test_a_check_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the embedded store does not run, whether it would is tried elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check"]) == 1
    out = capsys.readouterr().out
    assert f"embedded under {tmp_path / 'var'}, not running: Valkey" in out
    assert [line.split("\t")[1] for line in out.splitlines() if line.startswith("error\t")] == ["apps"]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "var").write_text("a file where the folder should be")
    assert cli.main(["check"]) == 1
    assert f"error\tstore.data_dir\t{tmp_path / 'var'} cannot be written to" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_of_redis_who_may_not_ask_how_it_is_set_up_is_no_fault(
    kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with running_server(kind) as server:
        server.command(*["ACL", "SETUSER", "narrow", "on", ">secret", "~*", "&*", "+@all", "-info", "-command"])
        monkeypatch.setenv("PUSHSVC__REDIS__URL", server.url.replace("unix://", "unix://narrow:secret@"))
        assert cli.main(["check"]) == 1
        out = capsys.readouterr().out
        assert "this user may not run INFO or COMMAND" in out
        assert [line.split("\t")[1] for line in out.splitlines() if line.startswith("error\t")] == ["apps"]


HOOK = """
[apps.shop.webhook]
url = "http://127.0.0.1:{port}/hook"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
allow_private = true
"""


async def test_checking_online(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real sockets with TLS and HTTP/2: what the providers and the receiver of the webhook answer, and what is wrong
    where they cannot be reached."""
    status = 204

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d Any\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
        writer.close()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def found(shell: Shell, code: int = 0) -> dict[str, list[tuple[str, str, str]]]:
        rows: dict[str, list[tuple[str, str, str]]] = {}
        for each in (await shell.json("check", "--online", code=code))["findings"]:
            rows.setdefault(each["part"], []).append((each["level"], each["what"], each["fix"]))
        return rows

    with socket.create_server(("127.0.0.1", 0)) as listener:
        hook = HOOK.format(port=listener.getsockname()[1])
        async with (
            serving(tmp_path, capsys, monkeypatch, hook) as shell,
            await asyncio.start_server(receive, sock=listener),
        ):
            simulator = shell.service.simulator
            rows = await found(shell)
            assert rows["apps.shop.apns"][-1][0] == "ok"
            assert "accepts the credential for com.example" in rows["apps.shop.apns"][-1][1]
            assert "accepts the account for" in rows["apps.shop.fcm"][-1][1]
            assert "answers 204 after" in rows["apps.shop.webhook"][-1][1]
            assert simulator.record.apns.accepted == simulator.record.fcm.accepted == 0

            simulator.break_credentials()
            status = 500
            rows = await found(shell, code=1)
            level, what, fix = rows["apps.shop.apns"][-1]
            assert (level, "403 InvalidProviderToken" in what, "`key_id`" in fix) == ("error", True, True)
            level, what, fix = rows["apps.shop.fcm"][-1]
            assert (level, "UNAUTHENTICATED" in what or "invalid_grant" in what) == ("error", True)
            assert fix
            assert rows["apps.shop.webhook"][-1][:1] == ("error",)
            simulator.restore_credentials()

            # Both accept connections, and answer no request.
            with monkeypatch.context() as impatient:
                impatient.setattr("pushsvc.providers.online.TIMEOUT", 0.3)
                simulator.control("stall", on=True)
                rows = await found(shell, code=1)
                simulator.control("stall", on=False)
            for part in ("apps.shop.apns", "apps.shop.fcm"):
                level, what, fix = rows[part][-1]
                assert (level, "accepts the connection, but has not answered within 0.3 s" in what) == (
                    "error",
                    True,
                ), what
                assert "look at its status page" in fix

            # Its certificate is of an authority that this system does not know; and a port that does not speak HTTP/2.
            plain = await asyncio.start_server(refuse, "127.0.0.1", 0)
            for name, text in (("CA_FILE", ""), ("ENDPOINT", f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}")):
                with monkeypatch.context() as environment:
                    environment.setenv(f"PUSHSVC__APPS__SHOP__APNS__{name}", text)
                    level, what, fix = (await found(shell, code=1))["apps.shop.apns"][-1]
                assert (level, what.startswith("cannot be reached: 127.0.0.1:")) == ("error", True)
                assert ("certificate verify failed" if name == "CA_FILE" else "TLS failed") in what
                assert fix
            plain.close()


async def test_the_store_and_the_api_show_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command of an operator that has two ways, with a key and without one."""
    async with serving(tmp_path, capsys, monkeypatch, HOOK.format(port=1)) as shell:
        service = shell.service
        async with service.session.put("/v1/devices/phone", json={**apns("ok", "1")[0], "user": "u1"}) as answer:
            assert answer.status == 201
        await service.done(await service.push(apns("BadPriority", 2)))
        used: list[str] = []

        def noted(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
            def make(*given: Any) -> Any:
                used.append(name)
                return made(*given)

            return make

        for module, name in ((operator_api, "ApiOperator"), (operator_store, "StoreOperator")):
            monkeypatch.setattr(module, name, noted(name, getattr(module, name)))

        async def both(*words: str, code: int = 0, forms: Sequence[Sequence[str]] = ((), ("--json",))) -> None:
            for form in forms:
                used.clear()
                over_api = await shell(*words, *form)
                with monkeypatch.context() as environment:
                    environment.delenv("PUSHSVC_KEY")
                    in_store = await shell(*words, *form)
                assert used == ["ApiOperator", "StoreOperator"]
                assert over_api == in_store
                assert over_api[0] == code

        await both("keys", "list")
        await both("failed")
        await both("failed", "--reason", "BadPriority", "--limit", "1")
        await both("webhooks", "list")
        await both("webhooks", "resume", "--app", "shop", forms=[()])
        await both("devices", "show", "phone")
        await both("devices", "show", "nobody", code=1)
        await both("keys", "new", "--app", "shop", "--name", "test", code=1)
        await both("keys", "revoke", "--app", "shop", "--name", "test", code=1)
        await both("keys", "revoke", "--app", "shop", "--name", "nobody", code=1)
        await both("devices", "delete", "nobody", "--app", "shop", code=1)
        await both("users", "erase", "nobody", "--app", "shop")
        made = await shell.json("keys", "new", "--app", "shop", "--name", "mine", "--intake", "2/h")
        assert (used[-1], made["intake"], made["kept_in"]) == ("ApiOperator", "2/h", "store")
        assert made["store"] == service_url(service)
        assert (await shell("keys", "revoke", "--app", "shop", "--name", "mine"))[0] == 0
        assert (await shell("devices", "delete", "phone", "--app", "shop"))[0] == 0
        # A service that is named must answer; one that is only configured need not run.
        code, _, err = await shell("keys", "list", "--url", "http://127.0.0.1:1")
        assert (code, "http://127.0.0.1:1 does not answer" in err) == (1, True)
        monkeypatch.setenv("PUSHSVC_URL", "http://127.0.0.1:1")
        assert (await shell("keys", "list"))[0] == 0

        # The store of the configuration may be that of another service: nothing is changed there in its place.
        acts = (
            *("users erase nobody", "devices delete nobody", "webhooks resume"),
            *("keys new --name other", "keys revoke --name test"),
        )
        used.clear()
        for act in acts:
            code, _, err = await shell(*act.split(), "--app", "shop")
            assert (code, "http://127.0.0.1:1 does not answer" in err) == (1, True)
        two, secret = tmp_path / "two.toml", "s" * 40
        two.write_text(f"{(tmp_path / 'pushsvc.toml').read_text()}\n[apps.news.live]\nsecret = '{secret}'\n")
        monkeypatch.setenv("PUSHSVC_CONFIG", str(two))
        monkeypatch.setenv("PUSHSVC_URL", url := str(service.session._base_url))
        theirs = f"the key for {url} is of the app shop, and this command is about"
        for act in (*acts, "keys list --url", "failed --url", "devices show phone --url"):
            used.clear()
            words = [*act.split(), url] if act.endswith("--url") else act.split()
            code, _, err = await shell(*words, "--app", "news")
            assert (code, f"{theirs} news: give a key of news by PUSHSVC_KEY_NEWS or --key" in err) == (1, True)
            if act not in acts:
                code, _, err = await shell(*words)
                assert (code, f"{theirs} shop, news: name it by --app shop" in err) == (1, True)
            assert set(used) == {"ApiOperator"}
        code, _, err = await shell("failed", "--url", url, "--app", "news", "--key", "")
        assert (code, "set PUSHSVC_KEY_NEWS, or give --key" in " ".join(err.split())) == (2, True)
        used.clear()
        assert (await shell("keys", "list", "--app", "news"))[0] == 0
        assert used == ["ApiOperator", "StoreOperator"]
