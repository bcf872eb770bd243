"""Messages to FCM, against a pool and a token endpoint without a network."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import structs

from pushsvc.model.delivery import Delivery, Misconfigured, Sent, TokenDead, Unavailable
from pushsvc.model.push import Message, Route
from pushsvc.net.http2.exchange import Failure
from pushsvc.ports.provider import Provider
from pushsvc.providers.fcm import RENDERER, Config, open_provider
from pushsvc.providers.fcm.credentials import AccessToken, TokenRefusedError

from .credential_files import write_service_account
from .provider_fakes import (
    CREATED_AT,
    GOLDEN,
    PUSH_ID,
    Cancelled,
    Clock,
    FakePool,
    Outcomes,
    Submitted,
    chunk,
    content,
    golden,
    never_indexed,
    response,
)

NOTE = Message("fcm", b'{"notification":{"title":"Hi"}}')
ROUTE = Route("shop", "fcm")
STALE = {"error": {"code": 401, "message": "invalid authentication credentials", "status": "UNAUTHENTICATED"}}
NAME = {"name": "projects/shop-1/messages/7"}


class TokenEndpoint:
    """Gives tokens, or refuses, or lets wait; called from a thread."""

    def __init__(self) -> None:
        self.calls = 0
        self.failure: Exception | None = None
        self.life = 3600.0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> tuple[str, float]:
        self.gate.wait(10)
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        return f"token-{self.calls}", self.life


class Opened:
    """One provider on a fake pool, with its token endpoint, clocks and outcomes."""

    def __init__(
        self, provider: Provider, pool: FakePool, endpoint: TokenEndpoint, clock: Clock, ttl_clock: Clock
    ) -> None:
        self.provider = provider
        self.pool = pool
        self.endpoint = endpoint
        self.clock = clock
        self.ttl_clock = ttl_clock
        self.outcomes = Outcomes()
        self.woken = 0
        provider.on_room(self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def send(self, message: Message = NOTE, *tokens: str, **options: Any) -> list[Submitted]:
        before = len(self.pool.requests)
        made = chunk(message, *(tokens or ("tok",)), **options)
        for target in made.targets:
            self.provider.submit(Delivery(made, target), self.outcomes)
        return self.pool.requests[before:]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until it holds; a generous deadline raises."""
        async with asyncio.timeout(30):
            while not condition():  # what is waited for happens in a thread and a task
                await asyncio.sleep(0.001)


@asynccontextmanager
async def opened(folder: Path, tokens: TokenEndpoint, **options: Any) -> AsyncIterator[Opened]:
    pools: list[FakePool] = []

    def open_pool(origin: str, **given: Any) -> FakePool:
        pools.append(FakePool(origin, **given))
        return pools[0]

    clock, ttl_clock = Clock(), Clock()
    config = Config(service_account_file=write_service_account(folder), **options)
    async with open_provider(
        *(ROUTE, config),
        request_timeout=10.0,
        clock=clock,
        ttl_clock=ttl_clock,
        open_pool=cast(Any, open_pool),
        fetch=tokens,
    ) as provider:
        yield Opened(provider, pools[0], tokens, clock, ttl_clock)
    assert pools[0].closed


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Opened]:
    """A provider that has its first token."""
    async with opened(tmp_path, TokenEndpoint()) as it:
        await it.until(lambda: it.provider.room)
        yield it


# --- requests -----------------------------------------------------------------------------------


async def test_the_request_has_every_field_once_and_the_pseudo_fields_first(it: Opened) -> None:
    (request,) = it.send()

    assert [name for name, _ in request.pairs[:4]] == [":method", ":path", ":scheme", ":authority"]
    assert request.headers == {
        ":method": "POST",
        ":scheme": "https",
        ":path": "/v1/projects/shop-1/messages:send",
        ":authority": "fcm.googleapis.com",
        "content-type": "application/json; charset=UTF-8",
        "authorization": "Bearer token-1",
    }
    assert never_indexed(request.fields, "authorization", "Bearer token-1")
    assert request.body == b'{"message":{"token":"tok","notification":{"title":"Hi"}}}'


async def test_fids_dry_runs_and_empty_messages(it: Opened) -> None:
    bodies = [
        *it.send(NOTE, "one", "two", kind="fid"),
        *it.send(NOTE, "tok", dry_run=True),
        *it.send(Message("fcm", b"{}")),
        *it.send(NOTE, 'quo"te'),
        *it.send(NOTE, "news", kind="topic"),
        *it.send(NOTE, "'a' in topics", kind="condition", dry_run=True),
    ]

    assert [request.body for request in bodies] == [
        b'{"message":{"fid":"one","notification":{"title":"Hi"}}}',
        b'{"message":{"fid":"two","notification":{"title":"Hi"}}}',
        b'{"validate_only":true,"message":{"token":"tok","notification":{"title":"Hi"}}}',
        b'{"message":{"token":"tok"}}',
        b'{"message":{"token":"quo\\"te","notification":{"title":"Hi"}}}',
        b'{"message":{"topic":"news","notification":{"title":"Hi"}}}',
        b'{"validate_only":true,"message":{"condition":"\'a\' in topics","notification":{"title":"Hi"}}}',
    ]


@pytest.mark.parametrize("row", golden("examples.toml", "fcm"), ids=lambda row: row["file"])
async def test_firebases_examples_arrive_as_their_pages_show_them(row: dict[str, Any], it: Opened) -> None:
    page = (GOLDEN / "examples" / row["file"]).read_text()
    message = json.loads(page)["message"]
    token = message.pop("token")
    rest = page[page.index('..."') + 5 : page.rindex("}")].rstrip()
    (request,) = it.send(Message("fcm", b"{" + rest.encode()), token)

    assert request.body == f'{{"message":{{"token":"{token}",{rest}}}'.encode()
    assert list(json.loads(request.body)["message"].items()) == [("token", token), *message.items()]


async def test_the_project_of_the_configuration_wins(tmp_path: Path) -> None:
    options = {"project_id": "other", "endpoint": "https://127.0.0.1:8443", "connections": 3, "window": 9}
    async with opened(tmp_path, TokenEndpoint(), **options) as it:
        await it.until(lambda: it.provider.room)
        (request,) = it.send()
        assert request.headers[":path"] == "/v1/projects/other/messages:send"
        assert request.headers[":authority"] == "127.0.0.1:8443"
        assert (it.pool.options["connections"], it.pool.options["window"]) == (3, 9)
        it.pool.trouble, it.pool.silence = "refused", 7.0
        assert (it.provider.trouble, it.provider.silence, it.provider.route) == ("refused", 7.0, ROUTE)


async def test_spans_are_what_is_left_when_it_is_sent(it: Opened) -> None:
    """FCM counts them from when it gets the message: https://firebase.google.com/docs/cloud-messaging/customize-messages/setting-message-lifespan"""
    note = RENDERER.render(content(notification={"title": "Hi"}, ttl=10), push_id=PUSH_ID, starts_at=CREATED_AT)
    made = structs.replace(chunk(note, "a", "b"), expires_at=CREATED_AT + 10_000)
    first, second = (Delivery(made, target) for target in made.targets)

    def sent(delivery: Delivery, at: float) -> tuple[str, str, str]:
        it.ttl_clock.now = CREATED_AT / 1000 + at
        it.clock.now = it.ttl_clock.now + 1800.0  # this machine's, which may be wrong, has no say in it
        before = len(it.pool.requests)
        it.provider.submit(delivery, it.outcomes)
        message = json.loads(it.pool.requests[before].body)["message"]
        return (
            message["android"]["ttl"],
            message["webpush"]["headers"]["TTL"],
            message["apns"]["headers"]["apns-expiration"],
        )

    end = str(CREATED_AT // 1000 + 10)
    assert sent(first, 0.0) == ("10s", "10", end)
    assert sent(second, 0.9) == ("10s", "10", end)
    assert sent(first, 1.0) == ("9s", "9", end)  # of the same chunk, a second later
    assert sent(second, 6.2) == ("4s", "4", end)
    assert sent(first, 10.5) == ("0s", "0", end)
    again = structs.replace(made, attempt=2, turn=2)  # as a retry, or from a lane where it waited
    assert sent(Delivery(again, made.targets[0]), 6.9) == ("4s", "4", end)
    replayed = structs.replace(made, expires_at=made.expires_at + 3_600_000)
    later = str(CREATED_AT // 1000 + 3610)
    assert sent(Delivery(replayed, made.targets[0]), 3600.0) == ("10s", "10", later)


# --- answers ------------------------------------------------------------------------------------


async def test_each_answer_reaches_its_own_delivery_once(it: Opened) -> None:
    first, second, third = it.send(NOTE, "a", "b", "c")
    third.answer(Failure("timeout", True))
    first.answer(response(200, NAME))
    details = [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "UNREGISTERED"}]
    second.answer(response(404, {"error": {"status": "NOT_FOUND", "details": details}}))

    assert [(delivery.target.token, outcome) for delivery, outcome in it.outcomes] == [
        ("c", Unavailable(reason="timeout", maybe_sent=True)),
        ("a", Sent(status=200, provider_id="projects/shop-1/messages/7")),
        ("b", TokenDead(status=404, reason="UNREGISTERED")),
    ]


# --- the access token ---------------------------------------------------------------------------


async def test_there_is_no_room_until_the_first_token_and_a_wake_when_it_comes(tmp_path: Path) -> None:
    endpoint = TokenEndpoint()
    endpoint.gate.clear()
    async with opened(tmp_path, endpoint) as it:
        assert it.provider.room == 0
        assert it.provider.trouble == "waiting for an access token"
        endpoint.gate.set()
        await it.until(lambda: it.provider.room)
        assert it.woken == 1
        assert it.provider.trouble == ""


async def test_a_refused_service_account_is_named_and_asked_for_again(tmp_path: Path) -> None:
    endpoint = TokenEndpoint()
    endpoint.failure = TokenRefusedError("refused: invalid_grant", reason="invalid_grant", final=True)
    async with opened(tmp_path, endpoint) as it:
        await it.until(lambda: endpoint.calls)
        await it.until(lambda: "invalid_grant" in it.provider.trouble)
        assert (it.provider.room, it.provider.refused) == (0, "invalid_grant")
        assert "clock" in it.provider.remedy("invalid_grant")
        endpoint.failure = None
        await it.until(lambda: it.provider.room)
        assert (it.provider.trouble, it.provider.refused) == ("", "")


async def test_whatever_goes_wrong_asking_goes_on(tmp_path: Path) -> None:
    endpoint = TokenEndpoint()
    endpoint.failure = RuntimeError("secret text")
    async with opened(tmp_path, endpoint) as it:
        await it.until(lambda: "RuntimeError" in it.provider.trouble)
        assert "secret" not in it.provider.trouble
        endpoint.failure = None
        await it.until(lambda: it.provider.room)


async def test_one_delivery_tries_a_new_token_for_all_that_were_refused(it: Opened) -> None:
    it.clock.now += 60
    requests = it.send(NOTE, "a", "b", "c")
    for request in requests[:2]:
        request.answer(response(401, STALE))
    assert it.provider.room == 0  # nothing new goes out with a token that is refused
    await it.until(lambda: len(it.pool.requests) == 4)
    assert it.outcomes.last == Unavailable(reason="renewed"), "it has waited: whether it may go, its submitter knows"
    requests[2].answer(response(401, STALE))  # of the old token, after the new one has come
    again = it.pool.requests[3:]

    assert it.endpoint.calls == 2
    assert [json.loads(request.body)["message"]["token"] for request in again] == ["a", "c"]
    assert {request.headers["authorization"] for request in again} == {"Bearer token-2"}
    again[0].answer(response(401, STALE))
    again[1].answer(response(200, NAME))
    assert [type(outcome) for _, outcome in it.outcomes] == [Unavailable, Misconfigured, Sent]
    assert it.outcomes[1][1] == Misconfigured(status=401, reason="UNAUTHENTICATED")
    assert len(it.pool.requests) == 5


@pytest.mark.parametrize("over", ["expired", "cancelled"])
async def test_what_is_over_when_there_is_a_new_token_is_not_sent_again(over: str, it: Opened) -> None:
    made = chunk(NOTE, "waits", "late")
    kind = Cancelled if over == "cancelled" else Delivery
    for target in made.targets:
        it.provider.submit(kind(made, target), it.outcomes)
    it.clock.now += 60
    waits, late = it.pool.requests
    if over == "expired":
        it.ttl_clock.now = made.expires_at / 1000
    waits.answer(response(401, STALE))
    await it.until(lambda: it.provider.room)
    late.answer(response(401, STALE))  # of the old token, after the new one has come
    assert [outcome for _, outcome in it.outcomes] == [Unavailable(reason="renewed")] * 2
    assert len(it.pool.requests) == 2


async def test_a_new_token_that_is_refused_at_once_is_not_to_blame(it: Opened) -> None:
    (request,) = it.send()
    request.answer(response(401, STALE))

    assert it.outcomes.last == Misconfigured(status=401, reason="UNAUTHENTICATED")
    assert it.endpoint.calls == 1
    assert it.provider.room


@pytest.mark.parametrize(
    ("final", "outcome"),
    [(True, Misconfigured(status=401, reason="invalid_grant")), (False, Unavailable(reason="invalid_grant"))],
    ids=["refused", "unreachable"],
)
async def test_what_was_refused_ends_when_no_new_token_can_be_had(final: bool, outcome: object, it: Opened) -> None:
    it.clock.now += 60
    requests = it.send(NOTE, "a", "b")
    it.endpoint.failure = TokenRefusedError("no", reason="invalid_grant", final=final)
    for request in requests:
        request.answer(response(401, STALE))
    await it.until(lambda: len(it.outcomes) == 2)

    assert [reported for _, reported in it.outcomes] == [outcome] * 2


async def test_what_waits_for_a_token_ends_when_the_provider_closes(tmp_path: Path) -> None:
    endpoint = TokenEndpoint()
    async with opened(tmp_path, endpoint) as it:
        await it.until(lambda: it.provider.room)
        it.clock.now += 60
        (request,) = it.send()
        endpoint.gate.clear()
        request.answer(response(401, STALE))
        await it.provider.aclose()
        endpoint.gate.set()

        assert it.outcomes.last == Unavailable(reason="closing")


async def test_what_is_refused_while_the_provider_closes_ends_too(tmp_path: Path) -> None:
    endpoint = TokenEndpoint()
    async with opened(tmp_path, endpoint) as it:
        await it.until(lambda: it.provider.room)
        it.clock.now += 60
        (request,) = it.send()
        endpoint.gate.clear()
        it.pool.on_close = lambda: request.answer(response(401, STALE))
        await it.provider.aclose()
        endpoint.gate.set()

        assert [outcome for _, outcome in it.outcomes] == [Unavailable(reason="closing")]


async def test_a_key_that_lies_in_the_firebase_project_asks_for_no_new_token(it: Opened) -> None:
    it.clock.now += 60
    (request,) = it.send()
    details = [{"@type": "x/google.firebase.fcm.v1.FcmError", "errorCode": "THIRD_PARTY_AUTH_ERROR"}]
    request.answer(response(401, {"error": {"details": details}}))

    assert it.outcomes.last == Misconfigured(status=401, reason="THIRD_PARTY_AUTH_ERROR", part="apple")
    assert it.endpoint.calls == 1
    assert it.provider.room


class _Paced(AccessToken):
    """Notes how long it means to wait, and lets the clock run on instead."""

    def __init__(self, endpoint: TokenEndpoint, clock: Clock, rounds: int) -> None:
        super().__init__(endpoint, clock=clock, changed=lambda: self.states.append(self.value))
        self.waits: list[float] = []
        self.states: list[str] = []
        self._moving, self._rounds = clock, rounds

    async def _pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        self._moving.now += seconds
        if len(self.waits) == self._rounds:
            raise asyncio.CancelledError


def _paced(endpoint: TokenEndpoint, rounds: int) -> _Paced:
    async def main() -> _Paced:
        token = _Paced(endpoint, Clock(), rounds)
        with pytest.raises(asyncio.CancelledError):
            await token.keep()
        return token

    return asyncio.run(main())


@pytest.mark.parametrize(("life", "wait"), [(3600.0, 3300.0), (400.0, 200.0), (1.0, 1.0), (-5.0, 1.0)])
def test_a_token_is_replaced_ahead_of_its_end(life: float, wait: float) -> None:
    endpoint = TokenEndpoint()
    endpoint.life = life

    assert _paced(endpoint, 3).waits == [wait] * 3


def test_failures_back_off_and_an_old_token_is_used_until_it_ends() -> None:
    endpoint = TokenEndpoint()

    def fetch() -> tuple[str, float]:
        endpoint.calls += 1
        if endpoint.calls > 1:
            raise TokenRefusedError("no", reason="no", final=False)
        return "token", 500.0

    token = _paced(cast(TokenEndpoint, fetch), 11)

    # 250 s before the end the first try fails; 1 + 2 + 4 + .. + 60 s later the token has ended.
    assert token.waits == [250, 1, 2, 4, 8, 16, 32, 60, 60, 60, 7]
    assert token.states == ["token"] * 11


def test_an_ended_token_is_not_used() -> None:
    endpoint = TokenEndpoint()

    def fetch() -> tuple[str, float]:
        endpoint.calls += 1
        if endpoint.calls > 1:
            raise TokenRefusedError("no", reason="no", final=False)
        return "token", 2.0

    assert _paced(cast(TokenEndpoint, fetch), 4).states == ["token", "token", "", ""]


@pytest.mark.parametrize("jump", [3600.0, -60.0])
async def test_a_token_is_looked_at_before_it_is_used_however_long_its_keeper_slept(jump: float) -> None:
    """A suspended machine, or a clock that is set: the keeper waits by a clock that knew nothing of it."""
    clock, fetched = Clock(), asyncio.Event()
    token = AccessToken(TokenEndpoint(), clock=clock, changed=fetched.set)
    keeper = asyncio.create_task(token.keep())
    await fetched.wait()
    first = token.number
    assert token.usable()
    fetched.clear()
    clock.now += jump
    assert not token.usable()
    await asyncio.wait_for(fetched.wait(), 10)
    assert token.usable()
    assert token.number == first + 1
    keeper.cancel()
    await asyncio.wait([keeper])
