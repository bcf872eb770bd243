"""Broadcast channels at APNs, against a pool without a network: the requests, and what each answer becomes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, strategies as st

from pushsvc.errors import BadGateway, CredentialError, NotFound, RequestError, Unavailable
from pushsvc.net.http2.exchange import Failure, Response
from pushsvc.ports.channels import Channel
from pushsvc.providers.apns import Config, open_channels
from pushsvc.providers.apns.channels import ApnsChannels, refusal

from .credential_files import write_p8
from .provider_fakes import Clock, FakePool, golden, never_indexed, response

ID = "dHN0LXNyY2gtY2hubA=="
REQUEST_ID = uuid.UUID("2288cf3f-70d8-46a6-97d7-dd5d00867127")


class Opened:
    """The channels of one account on a fake pool."""

    def __init__(self, channels: ApnsChannels, pool: FakePool, clock: Clock) -> None:
        self.channels = channels
        self.pool = pool
        self.clock = clock

    async def answer(self, call: Awaitable[Any], *answers: Response | Failure) -> Any:
        """Make a call and answer its requests in turn; what it returns."""
        asking = asyncio.ensure_future(call)
        for given_answer in answers:
            seen = len(self.pool.requests)
            while len(self.pool.requests) == seen and not asking.done():
                await asyncio.sleep(0)
            self.pool.requests[-1].answer(given_answer)
        return await asking


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[Opened]:
    pools: list[FakePool] = []

    def open_pool(origin: str, **options: Any) -> FakePool:
        pools.append(FakePool(origin, **options))
        return pools[0]

    clock = Clock()
    async with open_channels(
        config, request_timeout=10.0, clock=clock, new_id=lambda: REQUEST_ID, open_pool=cast(Any, open_pool)
    ) as channels:
        yield Opened(channels, pools[0], clock)
    assert pools[0].closed


@pytest.fixture
def config(tmp_path: Path) -> Config:
    key_file, _ = write_p8(tmp_path)
    return Config(topic="com.example.shop", key_file=key_file, key_id="ABC123DEFG", team_id="DEF123GHIJ")


@pytest.fixture
async def it(config: Config) -> AsyncIterator[Opened]:
    async with opened(config) as it:
        yield it


def refused(status: int, reason: str) -> Response:
    return response(status, {"reason": reason})


# --- requests -----------------------------------------------------------------------------------


async def test_each_call_is_the_request_that_apple_describes(it: Opened) -> None:
    made = await it.answer(it.channels.create("latest"), response(201, b"", {"apns-channel-id": ID}))
    assert made == Channel(ID, "latest")
    described = {"message-storage-policy": 0, "push-type": "LiveActivity"}
    assert await it.answer(it.channels.get(ID), response(200, described)) == Channel(ID, "none")
    assert await it.answer(it.channels.all(), response(200, {"channels": [ID, "x"]})) == [ID, "x"]
    assert await it.answer(it.channels.delete(ID), response(204)) is None

    common = {
        ":scheme": "https",
        ":authority": "api-manage-broadcast.push.apple.com:2196",
        "apns-request-id": str(REQUEST_ID),
    }
    one, every = "/1/apps/com.example.shop/channels", "/1/apps/com.example.shop/all-channels"
    expected = [
        {**common, ":method": "POST", ":path": one},
        {**common, ":method": "GET", ":path": one, "apns-channel-id": ID},
        {**common, ":method": "GET", ":path": every},
        {**common, ":method": "DELETE", ":path": one, "apns-channel-id": ID},
    ]
    seen = [request.headers for request in it.pool.requests]
    tokens = {headers.pop("authorization") for headers in seen}
    assert seen == expected
    assert all([name[0] for name, _ in request.pairs[:4]] == [":"] * 4 for request in it.pool.requests)
    (token,) = tokens
    assert token.startswith("bearer ")
    assert never_indexed(it.pool.requests[0].fields, "authorization", token)
    bodies = [request.body for request in it.pool.requests]
    assert msgspec.json.decode(bodies[0]) == {"message-storage-policy": 1, "push-type": "LiveActivity"}
    assert bodies[1:] == [b"", b"", b""]


async def test_the_pool_is_opened_as_configured(tmp_path: Path) -> None:
    key_file, _ = write_p8(tmp_path)
    own = Config(
        topic="com.example.shop",
        key_file=key_file,
        key_id="ABC123DEFG",
        team_id="DEF123GHIJ",
        channels_endpoint="https://127.0.0.1:2195/",
    )
    async with opened(own) as it:
        assert it.pool.origin == "https://127.0.0.1:2195"
        assert (it.pool.options["connections"], it.pool.options["request_timeout"]) == (1, 10.0)
        assert it.pool.options["body_limit"] >= 10_000 * 100  # the ids of all channels that there may be


async def test_a_key_that_cannot_be_read_is_said_before_anything_is_opened(config: Config) -> None:
    Path(config.key_file).unlink()
    with pytest.raises(CredentialError):
        await opened(config).__aenter__()


# --- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", golden("apns_channels.toml"), ids=lambda row: f"{row['status']}-{row.get('reason')}")
def test_each_row_of_the_table(row: dict[str, Any]) -> None:
    body = row["body"].encode() if "body" in row else msgspec.json.encode({"reason": row["reason"]})

    error = refusal(response(row["status"], body, row.get("headers")), "com.example.shop", 1_800_000_000.0)

    assert type(error).__name__ == row["answer"]
    assert error.retry_after == row.get("retry_after")
    assert row["says"] in error.detail
    if row.get("reason", "<") != "<script>":
        assert row.get("reason", "") in error.detail


@given(
    status=st.integers(min_value=-1, max_value=999),
    body=st.one_of(st.binary(max_size=200), st.text().map(lambda text: msgspec.json.encode({"reason": text}))),
    headers=st.dictionaries(st.sampled_from(["retry-after", "date"]), st.text(max_size=40)),
)
def test_whatever_the_server_sends_is_a_clear_error(status: int, body: bytes, headers: dict[str, str]) -> None:
    error = refusal(Response(status, body, headers), "com.example.shop", 1_800_000_000.0)

    assert isinstance(error, RequestError)
    assert error.status in (404, 409, 502, 503)
    assert error.detail.isprintable()
    assert len(error.detail) < 300


@pytest.mark.parametrize(
    "answer",
    [response(200, b"{}"), response(200, {"message-storage-policy": 7}), response(200, b"\xff"), response(200)],
    ids=str,
)
async def test_a_good_answer_that_cannot_be_read_is_none(answer: Response, it: Opened) -> None:
    for call in (it.channels.get(ID), it.channels.all(), it.channels.create("none")):
        with pytest.raises(BadGateway, match="not in the form"):
            await it.answer(call, answer)


async def test_no_answer_says_whether_it_may_have_been_done(it: Opened) -> None:
    with pytest.raises(Unavailable, match=r"no answer \(timeout\); the request may have been carried out"):
        await it.answer(it.channels.create("none"), Failure("timeout", True))
    it.pool.trouble = "host:2196: connection refused"
    with pytest.raises(Unavailable, match=r"cannot be reached: host:2196: connection refused\."):
        await it.answer(it.channels.all(), Failure("unreachable", False))


async def test_an_expired_token_is_replaced_once_it_may_be(it: Opened) -> None:
    with pytest.raises(BadGateway, match="ExpiredProviderToken"):
        await it.answer(it.channels.all(), refused(403, "ExpiredProviderToken"))
    it.clock.now += 1300  # more than the 20 minutes that a token must last
    listed = await it.answer(it.channels.all(), refused(403, "ExpiredProviderToken"), response(200, {"channels": []}))
    assert listed == []
    tokens = [request.headers["authorization"] for request in it.pool.requests]
    assert tokens[0] == tokens[1] != tokens[2]


async def test_another_key_needs_another_connection(it: Opened) -> None:
    unrelated = refused(403, "UnrelatedKeyIdInToken")
    assert await it.answer(it.channels.delete(ID), unrelated, response(204)) is None
    assert it.pool.renewals == 1
    with pytest.raises(BadGateway, match="UnrelatedKeyIdInToken"):
        await it.answer(it.channels.delete(ID), unrelated, unrelated)


async def test_too_many_new_tokens_are_answered_with_patience(it: Opened) -> None:
    it.clock.now += 1700
    with pytest.raises(Unavailable, match="TooManyProviderTokenUpdates"):
        await it.answer(it.channels.all(), refused(429, "TooManyProviderTokenUpdates"))
    it.clock.now += 1100
    with pytest.raises(NotFound):
        await it.answer(it.channels.get(ID), refused(400, "ChannelNotRegistered"))
    first, second = [request.headers["authorization"] for request in it.pool.requests]
    assert first == second


async def test_who_gives_up_leaves_no_trace(it: Opened) -> None:
    asking = asyncio.ensure_future(it.channels.all())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    it.pool.requests[-1].answer(response(200, {"channels": []}))
    assert await it.answer(it.channels.all(), response(200, {"channels": [ID]})) == [ID]
