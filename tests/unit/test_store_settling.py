"""The arguments of settle.lua: groups, singles, buckets of retries, rows, dead letters and receipts."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec.structs import astuple

from pushsvc.model.codec import decode_chunk, decode_receipt, decode_row
from pushsvc.model.delivery import (
    BadNotification,
    Delivery,
    End,
    Ended,
    Outcome,
    Retry,
    Sent,
    Settlement,
    TokenDead,
    TokenSuspect,
    Unavailable,
    Verdict,
)
from pushsvc.model.push import Chunk, Message, Target
from pushsvc.ports.entries import EntryRef
from pushsvc.store.layout import FEW, SMALL
from pushsvc.store.link import scripts
from pushsvc.store.pushes.pushes import rows_of
from pushsvc.store.queue.letter import decode_dead
from pushsvc.store.queue.record import EndOf, Finished, Group, Note, ReceiptOf, Record, RetryOf, Single, lua_string
from pushsvc.store.queue.settling import (
    STEP_MS,
    WIDEST,
    batches,
    mask_of,
    pack,
    pack_finished,
)

SENT = Sent(status=200, provider_id="id-1")
AT = 1_000_000


def chunk(total: int, *, push_id: str = "p", turn: int = 1, attempt: int = 1, starts_at: int = AT) -> Chunk:
    return Chunk(
        push_id=push_id,
        app="shop",
        channel="apns",
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
    settlements = [settle(each, 0, Ended("sent")) for each in (first, second)]
    groups, singles = pack(settlements)
    assert groups == []
    (kind,) = singles
    assert astuple(kind)[:4] == ("apns", "urgent", "sent", 1)
    assert kind.list[::2] == ["p", "q"]
    row = decode_row(blob(kind.list[1]))
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


def test_a_small_push_keeps_a_row_under_each_index() -> None:
    of = chunk(FEW)
    (group,), _ = pack(
        [settle(of, 3, Ended("sent")), settle(of, 4, Ended("sent")), settle(of, 5, Ended("expired"), None, "ttl")]
    )
    assert astuple(group)[:8] == ("p", "apns", "urgent", FEW, 1, [3, 4, 5], 0, lua_string(b""))
    assert [(end, count, len(kept), *rest) for end, count, kept, *rest in map(astuple, group.ends)] == [
        ("sent", 2, 2, 0, 0),
        ("expired", 1, 1, 0, 0),
    ]
    row = decode_row(blob(group.ends[1].rows[0]))
    assert (row.outcome, row.reason, row.status, row.attempts) == ("expired", "ttl", 0, 0)
    assert (group.retries, group.dead, group.receipts, group.asked, group.counted) == (
        [],
        [],
        [],
        1,
        0,
    )


@pytest.mark.parametrize(("total", "rows_of_sent"), [(FEW + 1, [4, 3]), (SMALL, [4, 3]), (SMALL + 1, []), (0, [4, 3])])
def test_rows_of_a_large_push_stand_together_where_it_was_sent(total: int, rows_of_sent: list[int]) -> None:
    of = msgspec.structs.replace(chunk(20), total=total)
    ends: list[tuple[int, End]] = [(4, "sent"), (3, "sent"), (6, "expired"), (5, "expired")]
    (group,), _ = pack([settle(of, index, Ended(end)) for index, end in ends])
    assert astuple(group)[5:8] == ([4, 3, 6, 5], 0, lua_string(bytes([0b00011110])))
    (sent, sent_count, sent_rows, together, _), (expired, expired_count, expired_rows, alone, _) = map(
        astuple, group.ends
    )
    assert (sent, sent_count, together) == ("sent", 2, int(bool(rows_of_sent)))
    assert (expired, expired_count, alone) == ("expired", 2, 0)
    found = [(index, rows_of(blob(member))) for index, member in zip(sent_rows[::2], sent_rows[1::2], strict=True)]
    assert [(index, [number for number, _ in rows]) for index, rows in found] == ([(4, rows_of_sent)] if found else [])
    assert bool(found) == bool(rows_of_sent)
    assert expired_rows[::2] == [6, 5]
    for place, member in ((6, expired_rows[1]), (5, expired_rows[3])):
        assert blob(member).startswith(b"%d " % place)
        ((number, row),) = rows_of(blob(member))
        assert (number, row.outcome, row.token_hash) == (place, "expired", f"h{place}")


def test_rows_of_an_audience_that_may_grow_are_those_of_its_first_thousand() -> None:
    targets = tuple(Target(index, f"t{index}") for index in range(SMALL - 2, SMALL + 2))
    of = msgspec.structs.replace(chunk(20), total=0, targets=targets)
    (group,), _ = pack([settle(of, place, Ended("sent")) for place in range(4)])
    ((_, count, kept, together, _),) = map(astuple, group.ends)
    assert (count, together) == (4, 1)
    assert [number for number, _ in rows_of(blob(kept[1]))] == [SMALL - 2, SMALL - 1]


@given(st.sets(st.integers(0, 1_000_000), min_size=1, max_size=60))
def test_a_mask_has_the_bit_of_each_index(indexes: set[int]) -> None:
    near = {min(indexes) + index % 8000 for index in indexes}
    for some in (indexes, near):
        first, mask = mask_of(list(some))
        if not mask:
            assert max(some) // 8 - min(some) // 8 >= WIDEST
            continue
        assert len(mask) <= WIDEST
        found = {8 * (first + place) + bit for place, byte in enumerate(mask) for bit in range(8) if byte << bit & 128}
        assert found == some


def test_what_is_said_of_a_delivery_first_counts() -> None:
    of = chunk(40)
    again = Retry(AT + 5, 2)
    settlements = [settle(of, 1, Ended("sent")), settle(of, 1, again, Unavailable()), settle(of, 1, Ended("sent"))]
    groups, _ = pack(settlements)
    assert [(group.indexes, len(group.ends), len(group.retries)) for group in groups] == [
        ([1], 1, 0),
        ([1], 0, 1),  # the script finds it closed
        ([1], 1, 0),
    ]


def test_a_mask_is_only_for_what_ends() -> None:
    of = chunk(40)
    (group,), _ = pack([settle(of, 1, Ended("sent")), settle(of, 2, Retry(AT + 5, 2), Unavailable())])
    assert astuple(group)[5:8] == ([1, 2], 0, lua_string(b""))


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
    indexes, dead, receipts = group.indexes, group.dead, group.receipts
    assert indexes == [1, 2, 4, 3, 0, 5]  # by end, then by retry
    assert [indexes[place - 1] for place, _ in map(astuple, dead)] == [2, 4]
    assert [(indexes[place - 1], dead) for place, _, dead in map(astuple, receipts)] == [(3, 1), (4, 0), (5, 1)]
    letter = decode_dead(blob(dead[0].blob))
    assert (letter.target, letter.reason, letter.status, letter.attempts) == (of.targets[2], "PayloadTooLarge", 400, 3)
    receipt = decode_receipt(blob(receipts[0].blob))
    assert (receipt.token, receipt.kind, receipt.since, receipt.push_id, receipt.device_id) == (
        "t3",
        "dead",
        7,
        "p",
        "d3",
    )
    assert decode_receipt(blob(receipts[1].blob)).kind == "suspect"
    head = decode_chunk(letter.head)
    assert (head.targets, head.message) == ((), of.message)


@pytest.mark.parametrize("total", [1, 2])
@pytest.mark.parametrize(("status", "asked"), [(0, 0), (200, 1)])
def test_a_dry_run_says_whether_the_provider_was_asked(total: int, status: int, asked: int) -> None:
    of = msgspec.structs.replace(chunk(total), dry_run=True)
    groups, singles = pack([settle(of, index, Ended("sent"), Sent(status=status)) for index in range(total)])
    assert ([group.asked for group in groups], singles) == ([asked], [])


def test_what_is_closed_is_left_out() -> None:
    of = chunk(3)
    (group,), _ = pack([settle(of, index, Retry(AT + 1, 2), Unavailable()) for index in range(3)], {("p", 1)})
    assert group.indexes == [0, 2]
    assert [target.index for target in decode_chunk(blob(group.retries[0].chunk)).targets] == [0, 2]


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
    indexes, retries = group.indexes, group.retries
    assert sorted(indexes) == list(range(len(waits)))
    place = 0
    for due, count, encoded, *_ in map(astuple, retries):
        again = decode_chunk(blob(encoded))
        assert [target.index for target in again.targets] == indexes[place : place + count]
        assert (again.turn, again.message, again.total) == (turn + 1, of.message, 20)
        place += count
        for target in again.targets:
            wait, attempt = waits[target.index]
            assert attempt == again.attempt
            assert 0 <= due - (AT + wait) < STEP_MS
    assert place == len(waits)


def test_a_mass_of_retries_goes_again_as_each_falls_due_and_names_its_content() -> None:
    targets = tuple(Target(index, f"t{index}") for index in range(500))
    message = Message("apns", b"x" * 3000)
    of = msgspec.structs.replace(chunk(1), targets=targets, total=500, message=message, variant="apns")
    dues = [AT + 10_000 + number * STEP_MS for number in range(500)]
    (group,), _ = pack([settle(of, index, Retry(due, 2), Unavailable()) for index, due in enumerate(dues)])
    assert [(retry.due, retry.count) for retry in group.retries] == [(due, 1) for due in dues]
    assert max(len(blob(retry.chunk)) for retry in group.retries) < 120


def test_retries_of_one_time_are_one_chunk() -> None:
    of = chunk(20)
    (group,), _ = pack([settle(of, index, Retry(AT + 900_000, 2), Unavailable()) for index in range(20)])
    assert [(due, count) for due, count, *_ in map(astuple, group.retries)] == [(AT + 900_000, 20)]


def test_of_a_cancelled_push_what_was_in_flight_is_counted_apart() -> None:
    of = chunk(9)
    settlements = [
        settle(of, 0, Ended("cancelled"), Unavailable(status=503)),
        settle(of, 1, Ended("cancelled"), None),
        settle(of, 2, Retry(AT + 5, 1), None),
        settle(of, 3, Retry(AT + 5, 2), Unavailable()),
        settle(of, 4, Ended("sent")),
    ]
    (group,), _ = pack(settlements, counted={"p"})
    assert [(end, count, flew) for end, count, _, _, flew in map(astuple, group.ends)] == [
        ("cancelled", 1, 1),
        ("cancelled", 1, 0),
        ("sent", 1, 1),
    ]
    assert [(count, flew) for _, count, _, flew, *_ in map(astuple, group.retries)] == [(1, 0), (1, 1)]
    assert (group.indexes, group.counted) == ([0, 1, 4, 2, 3], 1)
    (other,), _ = pack(settlements, counted={"q"})
    assert [(end, count, flew) for end, count, _, _, flew in map(astuple, other.ends)] == [
        ("cancelled", 2, 0),
        ("sent", 1, 0),
    ]


def test_a_retry_says_whether_limits_have_counted_it() -> None:
    of = chunk(9)
    (group,), _ = pack(
        [
            settle(of, 0, Retry(AT + 5, 1, counted=False), None),
            settle(of, 1, Retry(AT + 5, 1), Unavailable()),
            settle(of, 2, Retry(AT + 5, 1, counted=False), None),
        ]
    )
    again = [decode_chunk(blob(encoded)) for _, _, encoded, *_ in map(astuple, group.retries)]
    assert [([target.index for target in each.targets], each.counted) for each in again] == [
        ([0, 2], False),
        ([1], True),
    ]


def test_finished_entries_by_lane() -> None:
    refs = [
        EntryRef("shop", 0, "apns", "urgent", "1-0"),
        EntryRef("shop", 0, "fcm", "urgent", "2-0"),
        EntryRef("shop", 0, "apns", "urgent", "3-0"),
    ]
    assert list(map(astuple, pack_finished(refs))) == [
        ("apns", "urgent", ["1-0", "3-0"]),
        ("fcm", "urgent", ["2-0"]),
    ]


def test_the_last_batch_is_known() -> None:
    of = chunk(20)
    settlements = [settle(of, index, Ended("sent")) for index in range(5)]
    assert [(len(batch), last) for batch, last in batches(settlements, 2)] == [(2, False), (2, False), (1, True)]
    assert [(len(batch), last) for batch, last in batches([], 2)] == [(0, True)]


@pytest.mark.parametrize("part", [Record, Group, EndOf, RetryOf, Note, ReceiptOf, Single, Finished])
def test_the_script_takes_its_input_apart_as_it_is_typed(part: type[msgspec.Struct]) -> None:
    text = scripts.load("settle").text
    (reported,) = re.findall(rf"^--   {part.__name__} +\{{ ([\w, \n-]+?) \}}", text, flags=re.MULTILINE)
    fields = part.__struct_fields__
    assert tuple(re.findall(r"\w+", reported)) == fields
    taken = [tuple(re.findall(r"\w+", names)) for names in re.findall(r"local ([\w, ]+?) =\s+unpack\(", text)]
    # A name that a step has no use for is `_`.
    assert fields in [
        tuple(field if name == "_" else name for name, field in zip(names, fields, strict=True))
        for names in taken
        if len(names) == len(fields)
    ]
