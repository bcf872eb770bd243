"""What settle.lua is told: groups, singles, buckets of retries, rows, dead letters and receipts."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.codec import decode_chunk, decode_receipt, decode_row
from pushsvc.model import (
    BadNotification,
    Chunk,
    Delivery,
    Ended,
    Message,
    Outcome,
    Retry,
    Sent,
    Settlement,
    Target,
    TokenDead,
    TokenSuspect,
    Unavailable,
    Verdict,
)
from pushsvc.ports import EntryRef
from pushsvc.store.dead import decode_dead
from pushsvc.store.settling import batches, lua_string, pack, pack_finished

SENT = Sent(status=200, provider_id="id-1")
AT = 1_000_000


def chunk(total: int, *, push_id: str = "p", turn: int = 1, attempt: int = 1, starts_at: int = AT) -> Chunk:
    return Chunk(
        push_id=push_id,
        app="shop",
        platform="apns",
        lane="urgent",
        total=total,
        starts_at=starts_at,
        expires_at=AT * 2,
        message=Message("apns", b"{}"),
        targets=tuple(Target(index, f"t{index}", device_id=f"d{index}") for index in range(min(total, 20))),
        attempt=attempt,
        turn=turn,
    )


def settle(of: Chunk, index: int, verdict: Verdict, outcome: Outcome | None = SENT, reason: str = "") -> Settlement:
    return Settlement(Delivery(of, of.targets[index]), outcome, verdict, AT, f"h{index}", reason)


def blob(value: msgspec.Raw) -> bytes:
    """The bytes of a `lua_string`."""
    raw = bytes(value)
    return raw[2:] if raw[:1] == b"\xd9" else raw[5:]


@given(st.binary(max_size=70_000))
def test_a_blob_is_a_messagepack_string(data: bytes) -> None:
    raw = bytes(lua_string(data))
    assert raw[:1] in (b"\xd9", b"\xdb")
    size = raw[1] if raw[:1] == b"\xd9" else int.from_bytes(raw[1:5], "big")
    assert (size, blob(msgspec.Raw(raw))) == (len(data), data)


def test_the_only_delivery_of_a_push_goes_the_short_way() -> None:
    first, second = chunk(1), chunk(1, push_id="q")
    old = chunk(1, push_id="old", starts_at=AT - 500)
    settlements = [settle(each, 0, Ended("sent")) for each in (first, second, old)]
    groups, singles = pack(settlements, renew_before=AT - 100)
    assert groups == []
    (kind, rest) = singles
    assert kind[:5] == ("apns", "urgent", "sent", 1, 0)
    assert kind[5][::2] == ["p", "q"]
    assert rest[4:5] + tuple(rest[5][:1]) == (1, "old")
    row = decode_row(blob(kind[5][1]))
    assert (row.outcome, row.status, row.attempts, row.provider_id, row.token_hash, row.device_id) == (
        "sent",
        200,
        1,
        "id-1",
        "h0",
        "d0",
    )


def test_what_leaves_more_than_a_row_goes_the_long_way() -> None:
    for verdict, outcome in (
        (Retry(AT + 5, 2), Unavailable(status=503)),
        (Ended("failed", dead_letter=True), BadNotification(status=400)),
        (Ended("invalid"), TokenDead(status=410)),
        (Ended("failed"), TokenSuspect(status=400)),
    ):
        groups, singles = pack([settle(chunk(1), 0, verdict, outcome)])
        assert (len(groups), singles) == (1, [])


def test_a_small_push_keeps_every_row_and_a_large_one_only_the_failures() -> None:
    for total, rows in ((1000, 2), (1001, 0)):
        of = chunk(total)
        ((push_id, platform, lane, all_of_it, turn, indexes, ends, retries, letter, dead, receipts, asked),), _ = pack(
            [settle(of, 3, Ended("sent")), settle(of, 4, Ended("sent")), settle(of, 5, Ended("expired"), None, "ttl")]
        )
        assert (push_id, platform, lane, all_of_it, turn) == ("p", "apns", "urgent", total, 1)
        assert indexes == [3, 4, 5]
        assert [(end, count, len(kept)) for end, count, kept in ends] == [("sent", 2, rows), ("expired", 1, 1)]
        row = decode_row(blob(ends[1][2][0]))
        assert (row.outcome, row.reason, row.status, row.attempts) == ("expired", "ttl", 0, 0)
        assert (retries, blob(letter), dead, receipts, asked) == ([], b"", [], [], 1)


def test_dead_letters_and_receipts_name_their_place() -> None:
    of = chunk(9, attempt=3)
    settlements = [
        settle(of, 0, Retry(AT + 5, 4), Unavailable()),
        settle(of, 1, Ended("sent")),
        settle(of, 2, Ended("failed", dead_letter=True), BadNotification(status=400, reason="PayloadTooLarge")),
        settle(of, 3, Ended("invalid"), TokenDead(status=410, reason="Unregistered", since=7)),
        settle(of, 4, Ended("failed", dead_letter=True), TokenSuspect(status=400, reason="DeviceTokenNotForTopic")),
        settle(of, 5, Retry(AT + 5, 4), TokenDead(status=410)),
    ]
    (group,), _ = pack(settlements)
    indexes, dead, receipts = group[5], group[9], group[10]
    assert indexes == [1, 2, 4, 3, 0, 5]  # by end, then by retry
    assert [indexes[place - 1] for place, _ in dead] == [2, 4]
    assert [indexes[place - 1] for place, _ in receipts] == [3, 4, 5]
    letter = decode_dead(blob(dead[0][1]))
    assert (letter.target, letter.reason, letter.status, letter.attempts) == (of.targets[2], "PayloadTooLarge", 400, 3)
    receipt = decode_receipt(blob(receipts[0][1]))
    assert (receipt.token, receipt.kind, receipt.since, receipt.push_id, receipt.device_id) == (
        "t3",
        "dead",
        7,
        "p",
        "d3",
    )
    assert decode_receipt(blob(receipts[1][1])).kind == "suspect"
    head = decode_chunk(blob(group[8]))
    assert (head.targets, head.message) == ((), of.message)


@pytest.mark.parametrize("total", [1, 2])
@pytest.mark.parametrize(("status", "asked"), [(0, 0), (200, 1)])
def test_a_dry_run_tells_whether_the_provider_was_asked(total: int, status: int, asked: int) -> None:
    of = msgspec.structs.replace(chunk(total), dry_run=True)
    groups, singles = pack([settle(of, index, Ended("sent"), Sent(status=status)) for index in range(total)])
    assert ([group[11] for group in groups], singles) == ([asked], [])


def test_what_is_closed_is_left_out() -> None:
    of = chunk(3)
    (group,), _ = pack([settle(of, index, Retry(AT + 1, 2), Unavailable()) for index in range(3)], {("p", 1)})
    assert group[5] == [0, 2]
    assert [target.index for target in decode_chunk(blob(group[7][0][2])).targets] == [0, 2]


@given(
    waits=st.lists(st.tuples(st.integers(-5000, 5_000_000), st.integers(1, 3)), min_size=1, max_size=20),
    turn=st.integers(1, 9),
)
def test_retries_travel_together_and_never_early(waits: list[tuple[int, int]], turn: int) -> None:
    of = chunk(20, turn=turn)
    settlements = [
        settle(of, index, Retry(AT + wait, attempt), Unavailable()) for index, (wait, attempt) in enumerate(waits)
    ]
    (group,), _ = pack(settlements)
    indexes, retries = group[5], group[7]
    assert sorted(indexes) == list(range(len(waits)))
    place = 0
    for due, count, encoded in retries:
        again = decode_chunk(blob(encoded))
        assert [target.index for target in again.targets] == indexes[place : place + count]
        assert (again.turn, again.message, again.total) == (turn + 1, of.message, 20)
        place += count
        for target in again.targets:
            wait, attempt = waits[target.index]
            assert attempt == again.attempt
            assert 0 <= due - (AT + wait) <= max(wait, 1) / 8
    assert place == len(waits)


def test_retries_of_one_time_are_one_chunk() -> None:
    of = chunk(20)
    (group,), _ = pack([settle(of, index, Retry(AT + 900_000, 2), Unavailable()) for index in range(20)])
    assert [(due, count) for due, count, _ in group[7]] == [(AT + 900_000, 20)]


def test_finished_entries_by_lane() -> None:
    refs = [
        EntryRef("shop", 0, "apns", "urgent", "1-0"),
        EntryRef("shop", 0, "fcm", "urgent", "2-0"),
        EntryRef("shop", 0, "apns", "urgent", "3-0"),
    ]
    assert pack_finished(refs) == [("apns", "urgent", ["1-0", "3-0"]), ("fcm", "urgent", ["2-0"])]


def test_the_last_batch_is_known() -> None:
    of = chunk(20)
    settlements = [settle(of, index, Ended("sent")) for index in range(5)]
    assert [(len(batch), last) for batch, last in batches(settlements, 2)] == [(2, False), (2, False), (1, True)]
    assert [(len(batch), last) for batch, last in batches([], 2)] == [(0, True)]
