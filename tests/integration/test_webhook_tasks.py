"""Webhooks of several apps in one process: none waits for another's receiver, and nothing else does."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest

from pushsvc.jobs.webhooks import WebhookTasks
from pushsvc.model.codec import encode_event
from pushsvc.model.signing import write_secret
from pushsvc.model.status import FeedbackEvent
from pushsvc.runtime.plans import webhook_configs
from pushsvc.runtime.reload import Current
from pushsvc.settings.schema import AppSettings, Settings
from pushsvc.settings.webhook import WebhookSettings
from pushsvc.store import Store, keys

from .servers import KINDS, Server
from .test_jobs import until, worker
from .test_jobs_audiences import register, to_topic

BACKENDS = KINDS

SECRET = write_secret(bytes(32))
EVENT = encode_event(FeedbackEvent(1, "apns", "t", "Unregistered", "suppressed"))


class Receiver:
    """Has each call at once, and answers it when `answers` is set."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[bytes] = []
        """The request line of each."""
        self.called = asyncio.Event()
        self.answers = asyncio.Event()
        self.open = 0
        """Calls that have no answer yet."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                await reader.readexactly(length)
                self.calls.append(head.partition(b"\r\n")[0])
                self.open += 1
                self.called.set()
                await self.answers.wait()
                self.open -= 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiver(*, answers: bool = True) -> AsyncIterator[Receiver]:
    found = Receiver()
    if answers:
        found.answers.set()
    listening = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
    try:
        yield found
    finally:
        found.answers.set()
        listening.close()


async def add_event(store: Store, app: str) -> None:
    await store.link.call("XADD", keys.events(app, 0), "*", "e", EVENT)


def settings_of(**urls: str) -> Settings:
    def app(name: str, url: str) -> AppSettings:
        return AppSettings(name=name, webhook=WebhookSettings(url=url, secret=SECRET, allow_private=True))

    return Settings(apps={name: app(name, url) for name, url in urls.items()})


async def reported(store: Store, settings: Settings, app: str) -> bool:
    """All events of the app."""
    standing = await store.webhooks.standing(app, webhook_configs(settings)[app].place)
    return bool(standing.cursor) and standing.waiting_since is None


async def expanded(store: Store, push_id: str) -> bool:
    status = await store.pushes.status("shop", push_id)
    return status is not None and (status.state, status.counts.total) == ("sending", 3)


async def test_a_receiver_that_does_not_answer_delays_neither_audiences_nor_other_webhooks(
    server: Server, tmp_path: Path, store: Store
) -> None:
    await register(store, 3)
    async with receiver(answers=False) as slow, receiver() as quick:
        settings = settings_of(slow=slow.url, shop=quick.url)
        apns = {"topic": "com.example", "key_file": f"{tmp_path}/none.p8", "key_id": "ABC123DEFG"}
        environ = {
            f"PUSHSVC__APPS__{name.upper()}__WEBHOOK": json.dumps(
                {"url": url, "secret": SECRET, "allow_private": True, "timeout": 30.0}
            )
            for name, url in (("slow", slow.url), ("shop", quick.url))
        }
        environ["PUSHSVC__APPS__SLOW__APNS"] = json.dumps({**apns, "team_id": "DEF123GHIJ"})
        await add_event(store, "slow")
        with worker(server, tmp_path, **environ) as process:
            await slow.called.wait()
            await store.pushes.accept(to_topic("p"))
            await add_event(store, "shop")
            await until(partial(expanded, store, "p"))
            await until(partial(reported, store, settings, "shop"))
            # All of that while the call is open.
            assert (slow.open, len(slow.calls)) == (1, 1)
            process.send_signal(signal.SIGTERM)
            slow.answers.set()
            assert await asyncio.to_thread(process.wait) == 0
            # The call that was under way has been ended and recorded.
            assert await reported(store, settings, "slow")
            assert len(slow.calls) == 1


async def test_more_apps_than_places_take_turns(store: Store) -> None:
    """With one place, an app that always has more to deliver lets the others have it."""
    async with receiver() as busy, receiver() as other:
        settings = settings_of(busy=busy.url, other=other.url)
        settings = msgspec.structs.replace(
            settings,
            apps={
                name: msgspec.structs.replace(app, webhook=msgspec.structs.replace(app.webhook, batch=1))
                for name, app in settings.apps.items()
            },
        )
        tasks = WebhookTasks(store.webhooks, Current(settings), clock=store.seconds, most=1)
        for _ in range(2):
            await add_event(store, "busy")
        await tasks.start_due()
        await busy.called.wait()

        async def both() -> bool:
            if not other.calls:
                await add_event(store, "busy")  # faster than it is sent
            await tasks.start_due()
            return await reported(store, settings, "other")

        await add_event(store, "other")
        await until(both)
        await tasks.close()


async def test_each_app_has_one_task_and_rest_is_left_to_the_store(store: Store) -> None:
    async with receiver(answers=False) as slow, receiver() as quick:
        settings = settings_of(slow=slow.url, quick=quick.url)
        current = Current(settings)
        tasks, elsewhere = (WebhookTasks(store.webhooks, current, clock=store.seconds) for _ in range(2))
        for app in ("slow", "quick"):
            await add_event(store, app)
        await tasks.start_due()
        await slow.called.wait()
        for each in (tasks, elsewhere):
            await each.start_due()  # it is at work on it
        await until(partial(reported, store, settings, "quick"))
        assert len(slow.calls) == 1
        # Taken out of the configuration meanwhile: its task ends with the call, and no other begins.
        await add_event(store, "slow")
        current.settings = settings_of(quick=quick.url)
        slow.answers.set()
        await tasks.close()
        await elsewhere.start_due()
        assert (len(slow.calls), len(quick.calls)) == (1, 1)


async def test_a_webhook_that_cannot_be_tried_is_not_tried_all_the_time(store: Store) -> None:
    hook = WebhookSettings(url="https://127.0.0.1:1/", secret=SECRET, ca_file="/nonexistent")
    settings = Settings(apps={"shop": AppSettings(name="shop", webhook=hook), "bare": AppSettings(name="bare")})
    place = webhook_configs(settings)["shop"].place
    await store.link.call("XADD", keys.events("shop", 0), "*", "e", EVENT)
    assert await store.webhooks.due("shop", place)
    tasks = WebhookTasks(store.webhooks, Current(settings), clock=store.seconds)
    await tasks.start_due()

    async def put_off() -> bool:
        until_ms, owner = await store.link.call("HMGET", keys.hook("shop"), "until", "own")
        return until_ms is not None and owner is None

    await until(put_off)
    assert not await store.webhooks.due("shop", place)
    standing = await store.webhooks.standing("shop", place)
    assert standing.due_in > 25_000
    assert "apps.shop.webhook.ca_file" in standing.reason
    assert standing.failing_since is not None
    await tasks.close()


@pytest.mark.parametrize(("later", "dead"), [(0.0, 0), (4 * 86_400.0, 1)])
async def test_a_batch_is_as_old_as_the_clock_says_that_is_given(later: float, dead: int, store: Store) -> None:
    """It is that of Redis, which has dated the events: a host whose clock is wrong gives no batch up."""
    hook = WebhookSettings(url="http://127.0.0.1:1/", secret=SECRET, allow_private=True, attempts=1)
    settings = Settings(apps={"shop": AppSettings(name="shop", webhook=hook)})
    place = webhook_configs(settings)["shop"].place
    await add_event(store, "shop")
    tasks = WebhookTasks(store.webhooks, Current(settings), clock=lambda: store.seconds() + later)

    async def failed() -> bool:
        await tasks.start_due()
        standing = await store.webhooks.standing("shop", place)
        return standing.failures > 0 or standing.dead > 0

    await until(failed)
    assert (await store.webhooks.standing("shop", place)).dead == dead
    await tasks.close()
