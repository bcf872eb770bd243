"""The simulator's record: what was received, and whether anything was accepted twice."""

from __future__ import annotations

import tracemalloc

from hypothesis import given, strategies as st

from pushsvc.lab.simulator.http2 import Answer
from pushsvc.lab.simulator.record import PlatformRecord, Record

OK = Answer(200, "", b"")
DEAD = Answer(410, "Unregistered", b"")


def add(record: PlatformRecord, token: str, delivery: str | None, answer: Answer = OK, body: bytes = b"{}") -> None:
    headers = [(b":path", f"/3/device/{token}".encode(), False), (b"apns-id", (delivery or "-").encode(), False)]
    record.add(1.5, 1, 3, headers, body, answer, token.encode(), None if delivery is None else delivery.encode())


def test_counts_and_questions() -> None:
    record = Record(keep=2).apns
    add(record, "aa", "1")
    add(record, "aa", "2")
    add(record, "bb", "1")
    add(record, "cc", None, DEAD)
    assert record.totals == {"200": 3, "410 Unregistered": 1}
    assert (record.total, record.accepted, record.distinct, record.duplicates) == (4, 3, 2, 1)
    assert record.distinct_tokens == 3
    assert (record.requests_of("aa"), record.accepted_of("aa")) == (2, 2)
    assert (record.requests_of("cc"), record.accepted_of("cc")) == (1, 0)
    assert (record.accepted_id("1"), record.accepted_id("9")) == (2, 0)
    assert [item.fields[":path"] for item in record.requests()] == ["/3/device/bb", "/3/device/cc"], "the last two"
    assert [item.status for item in record.requests(token="cc")] == [410]
    assert [item.fields["apns-id"] for item in record.requests(apns_id="1")] == ["1"]
    record.clear()
    assert (record.total, record.duplicates, record.requests()) == (0, 0, [])


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("12345"), st.booleans()), max_size=40))
def test_the_record_agrees_with_a_list(pushes: list[tuple[str, str, bool]]) -> None:
    record = PlatformRecord("apns", 5, enabled=True)
    for token, delivery, accepted in pushes:
        add(record, token, delivery if accepted else None, OK if accepted else DEAD)
    deliveries = [delivery for _, delivery, accepted in pushes if accepted]
    assert record.total == len(pushes)
    assert record.accepted == len(deliveries)
    assert record.distinct == len(set(deliveries))
    assert record.duplicates == sum(deliveries.count(delivery) > 1 for delivery in set(deliveries))
    assert all(record.requests_of(token) == sum(token == push[0] for push in pushes) for token in "abcde")
    assert len(record.requests()) == min(5, len(pushes))


def test_dry_runs_and_unanswered_requests_are_not_accepted() -> None:
    record = Record().fcm
    add(record, "t", None, Answer(200, "validate_only", b""))
    add(record, "t", None, Answer(0, "stall", b""))
    assert (record.accepted, record.totals) == (0, {"0 stall": 1, "200 validate_only": 1})


def test_without_a_record_there_are_totals_still() -> None:
    record = Record(enabled=False).apns
    add(record, "aa", "1")
    assert (record.total, record.accepted, record.distinct, record.requests()) == (1, 1, 0, [])


def test_a_hundred_thousand_requests_take_a_few_megabytes() -> None:
    record = PlatformRecord("apns", 10, enabled=True)
    tracemalloc.start()
    for number in range(100_000):
        name = b"%d" % number
        record.add(0.0, 1, 1, [], b"", OK, name, name)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 5_000_000, "so a million take less than 50 MB"


def test_a_request_as_json_shows_text_and_never_loses_bytes() -> None:
    record = Record().apns
    add(record, "aa", "1", body=b'{"aps":{}}')
    add(record, "aa", "1", body=b"\xff")
    text, binary = (item.as_json() for item in record.requests())
    assert (text["body"], text["body_base64"]) == ('{"aps":{}}', "eyJhcHMiOnt9fQ==")
    assert (binary["body"], binary["body_base64"]) == (None, "/w==")
    assert text["headers"][0] == [":path", "/3/device/aa"]


def test_no_token_in_the_repr() -> None:
    record = Record().apns
    add(record, "deadbeef", "1")
    assert "deadbeef" not in repr(record.requests()[0])
