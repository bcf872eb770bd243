"""The store's pure parts, and those that need no server."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from redis import exceptions as faults
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelConnectionPool

from pushsvc.errors import ABSENT_REDIS, ConfigError, InvalidRequest, StoreError, StoreUnavailable
from pushsvc.model.address import NO_ADDRESSES
from pushsvc.model.codec import CodecError
from pushsvc.model.delivery import ENDS
from pushsvc.model.push import Target
from pushsvc.model.status import Counts, LiveCounts
from pushsvc.ports.letters import DeadFilter
from pushsvc.store import StoreConfig, keys, layout, token_hash
from pushsvc.store.erase.subjects import ErasureRecord, Subjects
from pushsvc.store.feedback.log import parse_event_id, start_of
from pushsvc.store.letters.listing import LOOK, STEP, RedisLetters
from pushsvc.store.link import scripts
from pushsvc.store.link.commit import GroupCommit
from pushsvc.store.link.connect import PERMIT, open_redis, store_faults
from pushsvc.store.link.packed import Packed
from pushsvc.store.link.pipelines import refusals
from pushsvc.store.part import StoreContext
from pushsvc.store.pushes.status import FIELDS, counts_of, state_of, status_of
from pushsvc.store.queue.letter import DeadLetter, decode_dead, encode_dead

# --- keys -----------------------------------------------------------------------------------------


def test_keys_share_the_hash_tag_of_their_shard() -> None:
    assert keys.lane("shop", 2, "apns", "bulk") == "ps:{shop.2}:q:apns:bulk"
    assert keys.push("shop", 0, "x") == "ps:{shop.0}:p:x"
    for app in ("", "a{b", "a}b"):
        with pytest.raises(ValueError, match="curly"):
            keys.prefix(app, 0)


@given(st.text(), st.integers(1, 64))
def test_every_push_has_its_shard(push_id: str, shards: int) -> None:
    assert 0 <= keys.shard_of(push_id, shards) < shards
    assert keys.shard_of(push_id, 1) == 0


def test_shards_are_used_evenly() -> None:
    found = [keys.shard_of(f"push-{number}", 8) for number in range(8000)]
    assert all(800 < found.count(shard) < 1200 for shard in range(8))


def test_configuration_of_shards() -> None:
    assert StoreConfig(shards=4).shards_of("any") == 4
    assert StoreConfig(shards={"shop": 3}).shards_of("shop") == 3
    assert StoreConfig(shards={"shop": 3}).shards_of("other") == 1
    for wrong in ({"shards": 0}, {"shards": {"shop": 0}}, {"chunk_size": 0}):
        with pytest.raises(ValueError, match=r"shard|chunk_size"):
            StoreConfig(**wrong)


def test_a_token_hash_is_short_keyed_and_stable() -> None:
    assert token_hash(b"k" * 32, "token") == "42b4fc6f09dbd2b5"
    assert token_hash(b"l" * 32, "token") != token_hash(b"k" * 32, "token")


# --- scripts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "accept",
        "cancel",
        "lapse",
        "outstanding",
        "promote",
        "quarantine",
        "receipts",
        "reclaim",
        "record",
        "settle",
        "take",
    ],
)
def test_every_script_says_what_it_does(name: str) -> None:
    script = scripts.load(name)
    header = script.text.partition("\n\n")[0]
    assert all(word in header for word in ("-- KEYS ", "-- ARGV ", "-- Returns "))
    assert "-- include:" not in script.text
    assert len(script.sha) == 40


def test_scripts_get_the_layout_from_python() -> None:
    named = f"local BLOCK, CONTAINER, DENSE = {layout.BLOCK}, {layout.CONTAINER}, {layout.DENSE}\n"
    assert named in scripts.load("registry_apply").text
    for name in scripts._FILES:
        text = scripts.load(name).text
        assert "-- include:" not in text
        assert "-- layout:" not in text
        assert not re.search(rf"[/%] ({layout.BLOCK}|{layout.CONTAINER})\b", text)


def test_includes_are_part_of_the_digest() -> None:
    assert "local function fence(" in scripts.load("settle").text


# --- status ---------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from(ENDS), st.integers(0, 50)),
    st.integers(0, 50),
    st.integers(0, 50),
    st.none() | st.integers(-1, 120),
)
def test_counts_always_balance(ended: dict[str, int], queued: int, retrying: int, in_flight: int | None) -> None:
    total = sum(ended.values()) + queued + retrying
    for state in ("sending", "cancelled"):
        counts = counts_of(state, total, retrying, ended, in_flight)
        found = {name: getattr(counts, name) for name in Counts.__struct_fields__ if name != "total"}
        assert counts.total == total == sum(found.values())
        if state == "cancelled" and in_flight is not None:
            assert (counts.queued, counts.retrying) == (min(max(in_flight, 0), queued + retrying), 0)
        else:
            assert (counts.queued, counts.retrying) == (queued, retrying)
        assert (state_of(state, counts) == state) == (state == "sending" or counts.queued + counts.retrying == 0)


def test_status_from_the_fields_of_a_hash() -> None:
    values: list[bytes | None] = [b"sending", b"5", b"100", b"200", None, b"1", *[None] * 2, b"2", *[None] * 9]
    assert len(values) == len(FIELDS)
    status = status_of("shop", "p", values)
    assert status is not None
    assert (status.created_at, status.updated_at) == (100, 200)
    assert status.counts == Counts(total=5, queued=2, retrying=1, sent=2)
    assert (status.send_at, status.live) == (None, None)
    assert status.trace == ""
    traced = status_of("shop", "p", [*values[:-1], bytes(range(16))])
    assert traced == msgspec.structs.replace(status, trace=bytes(range(16)).hex())
    live = status_of("shop", "p", [*values[:-4], b"1", None, b"2", None])
    assert live is not None
    assert live.live == LiveCounts(acked=1, fallback=0, waiting=2)
    scheduled = status_of("shop", "p", [b"scheduled", b"5", b"100", b"100", b"900", *[None] * 13])
    assert scheduled is not None
    assert (scheduled.state, scheduled.send_at, scheduled.counts) == ("scheduled", 900, Counts(total=5, queued=5))
    cancelled = status_of(
        "shop",
        "p",
        [b"cancelled", b"9", b"1", b"2", None, b"1", b"3", b"1", b"2", *([None] * 5), None, None, b"7", None],
    )
    assert cancelled is not None
    assert (cancelled.state, cancelled.counts) == ("sending", Counts(total=9, queued=3, sent=2, cancelled=4))
    assert cancelled.live == LiveCounts(waiting=3)
    assert status_of("shop", "p", [None] * len(FIELDS)) is None
    assert status_of("shop", "p", None) is None


# --- cursors --------------------------------------------------------------------------------------


def test_event_ids() -> None:
    assert parse_event_id("") == (0, 0, -1)
    assert parse_event_id("17-3") == (17, 3, 0)
    assert parse_event_id("17-3.2") == (17, 3, 2)
    assert parse_event_id("17") == (17, 0, 0)
    for wrong in ("x", "1-x", "1-2.x", "-", "1-2-3", "٣", "1" * 30):
        with pytest.raises(InvalidRequest):
            parse_event_id(wrong)
    assert start_of(17, 3, True) == "(17-3"
    assert start_of(17, 3, False) == "17-3"


def test_dead_letters_are_versioned() -> None:
    letter = DeadLetter("p", "apns", Target(3, "secret"), "h", "BadTopic", 400, 2, 5)
    assert decode_dead(encode_dead(letter)) == letter
    assert "secret" not in repr(letter)
    for wrong in (b"", b"\x02", b"\x01\x00", b"\x01\xc1"):
        with pytest.raises(CodecError):
            decode_dead(wrong)


# --- connecting -----------------------------------------------------------------------------------


async def test_urls_of_every_kind() -> None:
    plain = open_redis("redis://user:pw@host:7000/3?health_check_interval=7", name="me")
    assert isinstance(plain, Redis)
    kwargs = plain.connection_pool.connection_kwargs
    assert (kwargs["host"], kwargs["port"], kwargs["db"], kwargs["password"]) == ("host", 7000, 3, "pw")
    assert (kwargs["socket_timeout"], kwargs["client_name"]) == (5.0, "pushsvc:me")
    assert kwargs["health_check_interval"] == 7
    blocking = open_redis("rediss://host", name="a b\n", blocking=True)
    assert isinstance(blocking, Redis)
    assert blocking.connection_pool.connection_kwargs["socket_timeout"] is None
    assert blocking.connection_pool.connection_kwargs["client_name"] == "pushsvc:a-b-"
    unix = open_redis("unix:///tmp/a%20b.sock", name="me")
    assert isinstance(unix, Redis)
    assert unix.connection_pool.connection_kwargs["path"] == "/tmp/a b.sock"

    url = "rediss+sentinel://u:p%40@one:1,two/mymaster/2?sentinel_password=s&ssl_cert_reqs=none"
    sentinel = open_redis(url, name="me")
    assert isinstance(sentinel, Redis)
    pool = sentinel.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "mymaster"
    assert (pool.connection_kwargs["db"], pool.connection_kwargs["password"]) == (2, "p@")
    assert pool.connection_kwargs["ssl_cert_reqs"] == "none"
    nodes = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(node["host"], node["port"], node["password"]) for node in nodes] == [
        ("one", 1, "s"),
        ("two", 26379, "s"),
    ]
    cluster = open_redis("redis+cluster://one:7000,two", name="me")
    assert isinstance(cluster, RedisCluster)


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://h", "unix:///s", "redis+sentinel://one/master", "rediss+sentinel://one/master"]
)
async def test_commands_are_packed_by_hiredis_as_redis_py_packs_them(url: str, blocking: bool) -> None:
    client = open_redis(url, name="me", blocking=blocking)
    assert isinstance(client, Redis)
    connection: Any = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py gives none
    assert issubclass(type(connection), Packed)
    words = ("SET", "key", "\u00e9 \U0001f514", b"\x00\r\n\xff", 7, -(10**18), 0.1, 1e300, "", b"x" * 10_000)
    for command in (words, ("SCRIPT LOAD", "return 1"), ("PING",)):
        assert b"".join(connection.pack_command(*command)) == b"".join(
            AbstractConnection.pack_command(connection, *command)
        )
    whole = [words, ("PING",)] * 3
    assert b"".join(connection.pack_commands(whole)) == b"".join(
        b"".join(connection.pack_command(*command)) for command in whole
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:6379",
        "http://secret@host",
        "redis://:secret@host:port",
        "redis+sentinel://:secret@host:1",
        "redis+sentinel://:secret@host:x/master",
        "redis+sentinel://:secret@host/master/x",
        "redis+cluster://:secret@:7000",
    ],
)
def test_urls_that_cannot_be_meant(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^redis\.url: ") as caught:
        open_redis(url, name="me")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (faults.ConnectionError("refused"), StoreUnavailable),
        (faults.TimeoutError("slow"), StoreUnavailable),
        (TimeoutError(), StoreUnavailable),
        (ConnectionResetError("reset"), StoreUnavailable),
        (faults.BusyLoadingError("loading"), StoreUnavailable),
        (faults.ReadOnlyError("replica"), StoreUnavailable),
        (faults.OutOfMemoryError("full"), StoreUnavailable),
        (faults.AuthenticationError("wrong password"), StoreUnavailable),
        (faults.ResponseError("MISCONF Errors writing to the AOF file"), StoreUnavailable),
        (
            faults.ResponseError("Error running script (call to f_1): 2: -OOM command not"),
            StoreUnavailable,
        ),
        (
            faults.ResponseError(
                "Command # 1 (XREADGROUP GROUP dispatch a COUNT 64 BLOCK 2000 STREAMS ps:{shop.0}:q:apns:normal) of "
                f"pipeline caused error: ('UNBLOCKED force unblock, instance state changed',){' ' * 300}"
            ),
            StoreUnavailable,
        ),
        (
            faults.ResponseError("Command # 2 (HSET k f OOM-1) of pipeline caused error: ('WRONGTYPE of key',)"),
            StoreUnavailable,
        ),
        (faults.ResponseError("WRONGTYPE Operation against a key"), StoreUnavailable),
        (faults.ResponseError("NOGROUP No such key 'ps:{shop.0}:q:apns:normal'"), StoreUnavailable),
        (
            faults.ResponseError("ERR Script attempted to access a non local key in a cluster node script: f_1"),
            StoreUnavailable,
        ),
        (
            faults.ResponseError("ERR ACL failure in script: User u has no permissions to run the 'xadd' command"),
            StoreUnavailable,
        ),
        (
            RuntimeError(
                "unable to perform operation on <TCPTransport closed=True reading=False>; the Transport closed"
            ),
            StoreUnavailable,
        ),
        (faults.ResponseError("ERR wrong number of arguments"), StoreError),
        (faults.DataError("Invalid input"), StoreError),
    ],
)
def test_faults_become_store_errors(fault: Exception, expected: type[Exception]) -> None:
    with pytest.raises(StoreError) as caught:
        asyncio.run(failing(fault))
    assert type(caught.value) is expected


async def failing(fault: Exception) -> None:
    with store_faults():
        raise fault


def test_among_answers_only_refusals_are_answers() -> None:
    refused = [b"OK", faults.ResponseError("NOGROUP No such key"), faults.MovedError("1 127.0.0.1:7000")]
    assert refusals(list(refused)) == refused
    gone = RuntimeError("unable to perform operation on <TCPTransport closed=True reading=False>; the Transport closed")
    for fault in (
        gone,
        faults.ClusterDownError("the cluster is down"),
        faults.ConnectionError("closed"),
        faults.TimeoutError("late"),
        OSError(104, "reset"),
    ):
        with pytest.raises(StoreUnavailable):
            asyncio.run(failing_among([b"OK", fault]))


async def failing_among(answers: list[Any]) -> None:
    with store_faults():
        refusals(answers)


def test_what_redis_quotes_of_arguments_is_left_out() -> None:
    with pytest.raises(StoreError) as caught:
        asyncio.run(failing(faults.ResponseError("unknown command 'EVALSHA', with args beginning with: 'my-token'")))
    assert "my-token" not in str(caught.value)


def test_what_is_not_about_the_store_passes() -> None:
    with pytest.raises(KeyError):
        asyncio.run(failing(KeyError("mine")))


# --- group commit ---------------------------------------------------------------------------------


class _Writes:
    """A write that waits until it is let go. The result of an item is that number as a text, of 99 a fault."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None
        self.fault: Exception = ValueError("no")

    async def __call__(self, items: list[int]) -> list[str | Exception]:
        self.seen.append(items)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [self.fault if item == 99 else str(item) for item in items]


async def test_what_comes_in_one_tick_or_during_a_write_shares_the_next() -> None:
    writes = _Writes()
    commit = GroupCommit(writes)
    first = [commit.add(1, 1), commit.add(2, 1)]
    await asyncio.sleep(0)
    later = [commit.add(3, 1), commit.add(4, 1)]
    await asyncio.sleep(0)
    assert writes.seen == [[1, 2]]
    assert not any(future.done() for future in first)
    writes.gate.set()
    assert await asyncio.gather(*first, *later) == ["1", "2", "3", "4"], "each caller has its own result"
    assert writes.seen == [[1, 2], [3, 4]]
    await commit.aclose()


@pytest.mark.parametrize(("fault", "raised"), [(ValueError("no"), ValueError), (StopIteration(), RuntimeError)])
async def test_a_fault_among_the_results_of_a_write_is_raised_to_its_caller_alone(
    fault: Exception, raised: type[Exception]
) -> None:
    writes = _Writes()
    writes.gate.set()
    writes.fault = fault
    commit = GroupCommit(writes, most=3)
    found = await asyncio.gather(*map(commit.add, (98, 99, 100, 101)), return_exceptions=True)
    assert (writes.seen, found[::2], found[3]) == ([[98, 99, 100], [101]], ["98", "100"], "101")
    assert isinstance(found[1], raised)


@pytest.mark.parametrize(
    ("limits", "sizes", "expected"),
    [
        ({"most": 2}, [1, 1, 1, 1, 1], [2, 2, 1]),
        ({"most_bytes": 10}, [4, 4, 4, 4], [3, 1]),
        ({"most_bytes": 10}, [50, 50], [1, 1]),
    ],
)
def test_a_write_is_bounded(limits: dict[str, int], sizes: list[int], expected: list[int]) -> None:
    async def main() -> list[int]:
        writes = _Writes()
        writes.gate.set()
        commit = GroupCommit(writes, **limits)
        await asyncio.gather(*(commit.add(size, size) for size in sizes))
        return [len(items) for items in writes.seen]

    assert asyncio.run(main()) == expected


def test_a_failed_write_fails_its_own_callers_only() -> None:
    async def main() -> list[Any]:
        writes = _Writes()
        commit = GroupCommit(writes)
        writes.error = StoreUnavailable("away")
        failing = [commit.add(1, 1), commit.add(2, 1)]
        writes.gate.set()
        found: list[Any] = await asyncio.gather(*failing, return_exceptions=True)
        writes.error = None
        after = commit.add(3, 1)
        await after
        return [*found, after.exception()]

    first, second, third = asyncio.run(main())
    assert isinstance(first, StoreUnavailable)
    assert isinstance(second, StoreUnavailable)
    assert third is None


async def test_a_caller_that_gives_up_does_not_hurt_the_others() -> None:
    writes = _Writes()
    commit = GroupCommit(writes)
    leaving, staying = commit.add(1, 1), commit.add(2, 1)
    await asyncio.sleep(0)
    leaving.cancel()
    writes.gate.set()
    await staying
    assert writes.seen == [[1, 2]]
    await commit.aclose()


def test_closing_lets_what_was_handed_over_be_written() -> None:
    async def main() -> list[list[int]]:
        writes = _Writes()
        commit = GroupCommit(writes)
        future = commit.add(1, 1)
        writes.gate.set()
        await commit.aclose()
        assert future.done()
        return writes.seen

    assert asyncio.run(main()) == [[1]]


async def test_a_few_writes_may_be_under_way_at_once_and_the_rest_gathers() -> None:
    writes = _Writes()
    commit = GroupCommit(writes, flights=2)
    futures = []
    for number in range(4):
        futures += [commit.add(number, 1), commit.add(number + 10, 1)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert writes.seen == [[0, 10], [1, 11]]
    writes.gate.set()
    await asyncio.gather(*futures)
    assert writes.seen == [[0, 10], [1, 11], [2, 12, 3, 13]]
    await commit.aclose()
    again = commit.add(9, 1)
    await again
    assert writes.seen[-1] == [9]


class OneAtATime:
    """A link to dead letters that nobody means: how many steps are under way at once, and how large they are."""

    def __init__(self) -> None:
        self.now = self.most = self.steps = 0
        self.sizes: set[int] = set()

    async def call(self, *command: Any) -> list[Any]:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        self.steps += 1
        self.sizes.add(command[-1])
        letter = DeadLetter("p", "apns", Target(0, "t"), "h", "BadTopic", 400, 1, 1)
        return [(b"%d-0" % number, {b"d": encode_dead(letter)}) for number in range(command[-1])]


async def test_looks_through_all_dead_letters_take_turns() -> None:
    link = OneAtATime()
    own = RedisLetters(StoreContext(link, StoreConfig(), b"", lambda: 0))  # type: ignore[arg-type]  # a link that answers one command
    which = DeadFilter(reason="nope")
    pages = await asyncio.gather(*(own.page("shop", which, cursor="", limit=100) for _ in range(20)))
    assert [rows for rows, _ in pages] == [[]] * 20
    assert all(cursor for _, cursor in pages)
    assert (link.most, link.steps, link.sizes) == (1, 20 * LOOK // STEP, {STEP})


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (faults.AuthenticationError("invalid username-password pair"), "correct user and password in redis.url"),
        (
            faults.ConnectionError("Error 111 connecting to 127.0.0.1:1. Connection refused."),
            ABSENT_REDIS,
        ),
        (faults.ConnectionError("the server closed the connection"), ABSENT_REDIS),
        (faults.ConnectionError("Connection closed by server."), ABSENT_REDIS),
        (faults.OutOfMemoryError("OOM command not allowed"), ""),
        (faults.NoPermissionError("User p has no permissions to run the 'set' command"), PERMIT),
        (faults.ResponseError("ACL failure in script: User p has no permissions"), PERMIT),
    ],
)
def test_a_refusal_says_what_to_do_where_its_cause_says_so(error: Exception, fix: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        asyncio.run(failing(error))
    assert caught.value.fix == fix


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "Error 111 connecting to 127.0.0.1:1. Connect call failed ('127.0.0.1', 1).",
            "127.0.0.1:1: Connection refused",
        ),
        ("Error 111 connecting to ::1:1. Connect call failed ('::1', 1, 0, 0).", "::1:1: Connection refused"),
        ("Error 111 connecting to 127.0.0.1:1. Connection refused.", "127.0.0.1:1: Connection refused"),
        ("Error -2 connecting to no.where:1. Name or service not known.", "no.where:1: Name or service not known"),
        (
            "Error 2 connecting to /run/a b.sock. No such file or directory.",
            "/run/a b.sock: No such file or directory",
        ),
        (
            "Error 1 connecting to r:1. [SSL: X] verify failed (_ssl.c:1000).",
            "r:1: [SSL: X] verify failed (_ssl.c:1000)",
        ),
        (
            "Error Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), "
            "[Errno 111] Connect call failed ('127.0.0.1', 1) connecting to localhost:1.",
            "localhost:1: Connection refused",
        ),
        (
            "Cluster cannot be connected: Error 111 connecting to 127.0.0.1:1. Connect call failed ('127.0.0.1', 1).",
            "Cluster cannot be connected: 127.0.0.1:1: Connection refused",
        ),
        ("Connection closed by server.", "Connection closed by server"),
    ],
)
def test_what_keeps_a_connection_from_being_made_is_said_in_plain_words(said: str, shown: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        asyncio.run(failing(faults.ConnectionError(said)))
    assert str(caught.value) == f"Redis is not available: {shown}"


def test_a_token_is_found_in_unreadable_bytes_in_either_form() -> None:
    token = "ab" * 32
    who = Subjects({"anna": ErasureRecord("anna", (("phone", "apns", token),), 1)}, b"key", NO_ADDRESSES)
    assert who.within(b"\xff" + token.encode()) == "anna"
    assert who.within(b"\xff" + bytes.fromhex(token)) == "anna"
    assert who.within(b"\xff" + bytes.fromhex("cd" * 32)) is None
