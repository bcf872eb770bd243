"""`pushsvc.client` against a running service, and against servers that misbehave; the senders of its page, run."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from pushsvc import client as package, live_client
from pushsvc.api import openapi
from pushsvc.api.config import ApiConfig
from pushsvc.client import AsyncClient, Client, PushDocument, Refused, Retries, Unreachable, documents as known
from pushsvc.runtime.providers import addresses

from ..node import needs_node, node
from .ports import free_ports
from .test_intake_kit import TOKEN, running, running_in_thread

PUSH: PushDocument = {"to": {"tokens": [{"platform": "apns", "token": TOKEN}]}, "notification": {"title": "x"}}
PAGE = (Path(package.__file__).parents[1] / "docs" / "guides" / "clients.md").read_text(encoding="utf-8")
SCHEMAS = openapi.build(addresses=addresses(), config=ApiConfig())["components"]["schemas"]


# --- the documents --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (known.PushDocument, "PushDocument"),
        (known.ToDocument, "To"),
        (known.TokenTarget, "TokenTarget"),
        (known.NotificationDocument, "Notification"),
        (known.DeviceDocument, "DeviceDocument"),
    ],
)
def test_what_is_sent_has_the_fields_of_the_api(kind: type, schema: str) -> None:
    hints = typing.get_type_hints(kind, include_extras=True)
    assert set(hints) == set(SCHEMAS[schema]["properties"])
    needed = {name for name, hint in hints.items() if typing.get_origin(hint) is typing.Required}
    assert needed == set(SCHEMAS[schema].get("required", ()))


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (known.Accepted, "Accepted"),
        (known.BatchResult, "BatchItem"),
        (known.Status, "Status"),
        (known.Counts, "Counts"),
        (known.Delivery, "Delivery"),
        (known.Device, "RegisteredDevice"),
        (known.Topic, "Topic"),
        (known.Problem, "Problem"),
        (known.FeedbackEvent, "Feedback"),
    ],
)
def test_what_is_answered_has_the_fields_of_the_api(kind: type[msgspec.Struct], schema: str) -> None:
    fields = {field.encode_name: field.required for field in msgspec.structs.fields(kind)}
    assert set(fields) == set(SCHEMAS[schema]["properties"])
    needed = {name for name, required in fields.items() if required}
    assert needed <= set(SCHEMAS[schema]["required"]), "an answer may come without it"


# --- a running service ----------------------------------------------------------------------------


async def test_pushes_are_sent_followed_and_cancelled() -> None:
    async with running() as service, AsyncClient(service.url, key="full") as push:
        accepted = await push.send(PUSH)
        assert (accepted.state, accepted.deliveries) == ("sending", 1)
        assert (await push.status(accepted.id)).counts.queued == 1
        assert (await push.cancel(accepted.id)).ended

        first = await push.send(PUSH, idempotency_key="order-7")
        assert await push.send(PUSH, idempotency_key="order-7") == first

        results = await push.send_batch([PUSH, {"to": {}}, PUSH])
        assert [result.status for result in results] == [202, 422, 202]
        assert results[1].error is not None
        assert results[1].error.errors

        with pytest.raises(Refused) as refused:
            await push.send({"to": {}, "notification": {"title": "x"}})
        assert refused.value.status == 422
        assert refused.value.problem.errors[0].path in str(refused.value)
        with pytest.raises(TimeoutError):
            await push.wait(first.id, timeout=0.05)


def test_devices_are_kept_by_the_sync_client() -> None:
    with running_in_thread() as service, Client(service.url, key="registrar") as push:
        device = push.put_device("phone", {"platform": "apns", "token": TOKEN, "user": "u1", "tags": {"beta": True}})
        assert (device.id, device.tags) == ("phone", {"beta": True})
        assert push.device("phone") == device
        push.subscribe("news", "phone")
        assert push.topic("news").devices == 1
        assert [each.id for each in push.devices()] == [each.id for each in push.user_devices("u1")] == ["phone"]
        push.unsubscribe("news", "phone")
        assert push.delete_device("phone")
        assert not push.delete_device("phone")
    with pytest.raises(RuntimeError, match="closed"):
        push.device("phone")


# --- servers that misbehave -----------------------------------------------------------------------

Scripted = tuple[int, dict[str, str], Any]
ACCEPTED: Scripted = (202, {}, {"id": "p1", "state": "a-new-word", "deliveries": 1, "a_new_field": 1})
BUSY: Scripted = (503, {"Retry-After": "0"}, {"title": "Busy", "status": 503})


def asked_of(answers: list[Scripted], retries: Retries) -> tuple[object, list[dict[str, str]]]:
    """Send a push to a server with these answers. Returns the answer or the error, and the headers of each request."""
    asked: list[dict[str, str]] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(dict(request.headers))
        status, headers, body = answers[len(asked) - 1]
        if status == 0:
            assert request.transport is not None
            request.transport.close()
        text = body if isinstance(body, str) else msgspec.json.encode(body).decode()
        return web.Response(status=status or 200, headers=headers, text=text)

    async def main() -> object:
        app = web.Application()
        app.router.add_post("/v1/push", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            async with AsyncClient(f"http://127.0.0.1:{port}", key="secret-key", retries=retries) as push:
                return await push.send(PUSH)
        except (Refused, Unreachable) as error:
            return error
        finally:
            await runner.cleanup()

    return asyncio.run(main()), asked


QUICK = Retries(patience=60, base=0.001)


def test_a_push_is_tried_again_with_the_same_idempotency_key() -> None:
    answer, asked = asked_of([(0, {}, ""), BUSY, (429, {"Retry-After": "0"}, {}), ACCEPTED], QUICK)
    assert answer == known.Accepted("p1", "a-new-word", 1)
    assert len({headers["Idempotency-Key"] for headers in asked}) == 1
    assert len(asked) == 4


def test_what_another_try_does_not_change_is_not_tried_again() -> None:
    error, asked = asked_of([(401, {}, {"title": "No API key", "status": 401})], QUICK)
    assert isinstance(error, Refused)
    assert (error.status, len(asked)) == (401, 1)
    error, asked = asked_of([(200, {}, "<html>")], QUICK)
    assert isinstance(error, Unreachable)
    assert len(asked) == 1


def test_a_wait_that_is_longer_than_the_patience_is_given_up_at_once() -> None:
    error, asked = asked_of([(503, {"Retry-After": "3600"}, "<html>")], QUICK)
    assert isinstance(error, Refused)
    assert (error.retry_after, len(asked)) == (3600.0, 1)


def test_no_error_and_no_repr_has_the_key() -> None:
    port = free_ports()
    with Client(f"http://127.0.0.1:{port}", key="secret-key", retries=Retries(0)) as push:
        with pytest.raises(Unreachable) as unreachable:
            push.send(PUSH)
        assert "secret-key" not in f"{unreachable.value}{push!r}"
    with pytest.raises(ValueError, match="key"):
        Client("http://127.0.0.1", key="")


def test_no_repr_of_an_answer_has_a_token() -> None:
    secret = "dQw4w9WgXcQ"
    at = "2026-12-01T09:00:00.000Z"
    device = known.Device("d1", "fcm", at, at, "active", token=secret, fid=secret)
    dead = known.FeedbackEvent("1-0", at, "fcm", secret, "UNREGISTERED", "pruned")
    message = live_client.Message("p1", 1, "e", {"notification": {"title": secret}})
    publication = live_client.Publication(1, message.data)
    shown = f"{known.Page([device])}{known.Page([dead])}{live_client.Handle(message)}{publication}"
    assert ("d1" in shown, "UNREGISTERED" in shown, "p1" in shown, secret in shown) == (True, True, True, False)


def test_a_client_that_is_closed_ends_the_calls_of_other_threads() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor() as threads:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}", key="k")
        waits = threads.submit(client.status, "p")
        connection, _ = silent.accept()
        connection.recv(1)
        client.close()
        with pytest.raises(RuntimeError, match="closed during the call"):
            waits.result()
        with pytest.raises(RuntimeError, match="is closed"):
            client.status("p")
        client.close()
        connection.close()


def test_pauses_grow_are_spread_and_never_undercut_the_service() -> None:
    retries = Retries(patience=60, base=1, cap=8)
    assert [retries.pause(tries, 0, 1.0, asked=None) for tries in (1, 2, 3, 4, 5)] == [1, 2, 4, 8, 8]
    assert [retries.pause(1, 0, chance, asked=None) for chance in (0.0, 1.0)] == [0.5, 1.0]
    assert [retries.pause(1, 0, chance, asked=30.0) for chance in (0.0, 1.0)] == [30.125, 30.25]
    assert [retries.pause(tries, 0, 1.0, asked=0.0) for tries in (1, 2)] == [1, 2]
    assert retries.pause(9, 59, 1.0, asked=None) is None
    assert Retries(0).pause(1, 0, 0.0, asked=None) is None


# --- the senders of the page ----------------------------------------------------------------------


def sender(language: str) -> str:
    """The first block of the page in this language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    assert len(found[1].strip().splitlines()) <= 16
    return (
        found[1]
        .replace('"users": ["u1"]', f'"tokens": [{{"platform": "apns", "token": "{TOKEN}"}}]')
        .replace('users: ["u1"]', f'tokens: [{{ platform: "apns", token: "{TOKEN}" }}]')
    )


def send_with(*command: str) -> None:
    with running_in_thread() as service:
        environ = {**os.environ, "PUSHSVC_URL": service.url, "PUSHSVC_KEY": "pusher"}
        run = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
        assert run.returncode == 0, run.stderr
        (push_id,) = service.store.pushes
        assert push_id in run.stdout


def test_the_sender_in_python() -> None:
    send_with(sys.executable, "-c", sender("python"))


@needs_node
def test_the_sender_in_node(tmp_path: Path) -> None:
    file = tmp_path / "send.mjs"
    file.write_text(sender("js"), encoding="utf-8")
    send_with(*node(), str(file))


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
def test_the_sender_in_go(tmp_path: Path) -> None:
    file = tmp_path / "send.go"
    file.write_text(sender("go"), encoding="utf-8")
    send_with("go", "run", str(file))
