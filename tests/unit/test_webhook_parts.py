"""The pure parts of webhooks: addresses, verdicts, bodies."""

from __future__ import annotations

import ipaddress
import json

import pytest
from hypothesis import given, strategies as st

from pushsvc.api import answers
from pushsvc.model.documents import feedback_document
from pushsvc.model.status import DeviceEvent, FeedbackEvent
from pushsvc.net.public_address import is_public
from pushsvc.ports.receipts import EventPage
from pushsvc.ports.webhooks import Batch, Standing
from pushsvc.stages.webhooks.body import batch_body, trial_body
from pushsvc.stages.webhooks.config import WebhookConfig
from pushsvc.stages.webhooks.trouble import troubles_of
from pushsvc.stages.webhooks.verdict import Delivered, GivenUp, Halved, Later, SwitchedOff, Verdict, WebhookReply, judge
from pushsvc.store.webhooks.claim import batch_id

NOW = 1_796_115_600_000
HOUR = 3600
EVENT = FeedbackEvent(NOW - 5, "apns", "8f3c", "Unregistered", "suppressed", "d1")


# --- addresses ------------------------------------------------------------------------------------

PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.0.1", "172.32.0.1", "2606:4700::1111", "2a00:1450:4001::1"]
NOT_PUBLIC = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "169.254.169.254",  # metadata of AWS, Google, Azure
    "100.100.100.200",  # .. of Alibaba
    "192.0.0.192",  # .. of Oracle
    "168.63.129.16",  # Azure's own
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::7f00:1",
    "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
    "2001:db8::1",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",  # metadata of AWS
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "100::1",
    "4000::1",
    "",
    "localhost",
    "2130706433",
    "0x7f.1",
    "127.1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_not_public(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses())
def test_never_more_generous_than_python(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if is_public(str(address)):
        assert address.is_global
        not_global = ("private", "loopback", "link_local", "multicast", "reserved", "unspecified")
        assert not [word for word in not_global if getattr(address, f"is_{word}")]


@given(st.text(max_size=40))
def test_any_text_is_judged(text: str) -> None:
    assert is_public(text) in (True, False)


# --- verdicts -------------------------------------------------------------------------------------

CONFIG = WebhookConfig(url="https://example.com/", keys=(b"k" * 32,), attempts=3, retry_for=HOUR, base=1.0, cap=60.0)


def batch(attempts: int = 0, failures: int = 0, *, age: float = 0.0, again: bool = False, events: int = 1) -> Batch:
    return Batch("b", [(f"{NOW - int(age * 1000)}-0", EVENT)] * events, attempts, failures, again=again)


def no(status: int, retry_after: float | None = None) -> WebhookReply:
    return WebhookReply(status, f"http_{status}" if status else "timeout", retry_after)


VERDICTS: list[tuple[str, WebhookReply, Batch, Verdict]] = [
    ("200", no(200), batch(), Delivered()),
    ("204", no(204), batch(5, 5, age=2 * HOUR), Delivered()),
    ("299", no(299), batch(), Delivered()),
    ("asked for again, delivered", no(200), batch(9, again=True), Delivered()),
    ("a redirect is not followed", no(302), batch(), Later(0.5)),
    ("304", no(304), batch(), Later(0.5)),
    ("the first failure", no(500), batch(), Later(0.5)),
    ("its third in a row", no(500), batch(0, 2), Later(2.0)),
    ("capped", no(503), batch(1, 40), Later(30.0)),
    ("Retry-After comes on top", no(503, 20.0), batch(), Later(20.5)),
    ("Retry-After of any refusal", no(429, 7.0), batch(0, 1), Later(8.0)),
    ("no answer", no(0), batch(), Later(0.5)),
    ("a client error is no other", no(400), batch(), Later(0.5)),
    ("gone", no(410), batch(), SwitchedOff()),
    ("gone for those asked for too", no(410), batch(again=True), SwitchedOff()),
    ("too large", no(413), batch(events=2), Halved()),
    ("too large for those asked for too", no(413), batch(events=20, again=True), Halved()),
    ("nothing left to halve", no(413, 3.0), batch(0, 2), GivenUp(5.0)),
    ("often, and young", no(500), batch(50), Later(0.5)),
    ("old, and seldom", no(500), batch(1, age=2 * HOUR), Later(0.5)),
    ("old and often", no(500), batch(2, age=HOUR), GivenUp()),
    ("not quite old", no(500), batch(2, age=HOUR - 0.001), Later(0.5)),
    ("asked for again has one try", no(500), batch(again=True), GivenUp()),
]


@pytest.mark.parametrize(
    ("answer", "reported", "verdict"), [row[1:] for row in VERDICTS], ids=[row[0] for row in VERDICTS]
)
def test_verdicts(answer: WebhookReply, reported: Batch, verdict: Verdict) -> None:
    assert judge(answer, reported, CONFIG, now=NOW, jitter=0.5) == verdict


@given(st.integers(0, 599), st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 10**7))
def test_a_wait_is_bounded_and_nothing_young_is_given_up(
    status: int, attempts: int, failures: int, jitter: float, age: float
) -> None:
    verdict = judge(no(status), batch(attempts, failures, age=age), CONFIG, now=NOW, jitter=jitter)
    if isinstance(verdict, Later):
        assert 0 <= verdict.wait <= CONFIG.cap
    if isinstance(verdict, GivenUp):
        assert verdict.wait <= CONFIG.cap
    if isinstance(verdict, GivenUp) and status != 413:
        assert age >= HOUR - 0.001
        assert attempts + 1 >= CONFIG.attempts


@pytest.mark.parametrize(
    ("status", "trouble"), [(0, True), (408, True), (429, True), (500, True), (503, True), (400, False), (302, False)]
)
def test_whether_the_receiver_is_in_trouble(status: int, trouble: bool) -> None:
    assert no(status).in_trouble == trouble


# --- what is said ---------------------------------------------------------------------------------


def test_the_events_are_the_documents_of_the_api() -> None:
    events = [("1-0", EVENT), ("2-0.3", EVENT)]
    document = json.loads(batch_body("shop", Batch("b", events)))
    assert document == {
        "type": "feedback",
        "timestamp": "2026-12-01T08:59:59.995Z",
        "app": "shop",
        "events": json.loads(answers.feedback(EventPage(events), None))["items"],
    }
    assert batch_body("shop", Batch("b", events)) == batch_body("shop", Batch("b", events, attempts=3))
    assert json.loads(trial_body("shop", NOW)) == {
        "type": "test",
        "timestamp": "2026-12-01T09:00:00.000Z",
        "app": "shop",
        "events": [],
    }


def test_what_a_device_reports_is_an_event() -> None:
    event = DeviceEvent(NOW - 5, "01push", "d1", "opened", "live")
    assert json.loads(batch_body("shop", Batch("b", [("1-0", event)]))) == {
        "type": "event",
        "timestamp": "2026-12-01T08:59:59.995Z",
        "app": "shop",
        "events": [
            {
                "id": "event_1-0",  # no feedback event has this one
                "at": "2026-12-01T08:59:59.995Z",
                "push_id": "01push",
                "device_id": "d1",
                "platform": "live",
                "event": "opened",
            }
        ],
    }
    assert batch_id("shop", "17-3", "event") == "event_shop_17-000000000003_00000"


def test_ids_have_no_full_stop_and_the_order_of_their_events() -> None:
    assert batch_id("shop", "17-3.2") == "feedback_shop_17-000000000003_00002"
    ids = [batch_id("shop", f"17-{sequence}.{shard}") for sequence in (0, 9, 10, 19, 100) for shard in (0, 9, 10)]
    assert ids == sorted(set(ids))


def test_no_repr_shows_a_token_a_key_or_a_path() -> None:
    config = WebhookConfig(url="https://example.com/hidden", keys=(b"hidden",), headers={"X-Key": "hidden"})
    reported = f"{config!r} {feedback_document('1-0', EVENT)!r} {Batch('b', [('1-0', EVENT)])!r}"
    assert "hidden" not in reported
    assert "8f3c" not in reported
    assert config.host == "example.com"
    assert "hidden" not in config.place


# --- trouble --------------------------------------------------------------------------------------

TEST = "`pushsvc webhooks test --app shop`"
FAILED = "`pushsvc webhooks failed --app shop`, then `pushsvc webhooks redeliver --app shop`"
RESUME = (
    "it is switched off because its receiver answered 410, the events wait: "
    "`pushsvc webhooks resume --app shop` when it takes calls again"
)


@pytest.mark.parametrize(
    ("standing", "trouble"),
    [
        (Standing(), ""),
        (Standing(waiting_since=0), ""),
        (Standing(failures=9, reason="http_503", failing_since=NOW - 300_000), ""),
        (
            Standing(failures=9, reason="http_503", failing_since=NOW - 300_001),
            f"fails since 2026-12-01T08:54:59.999Z, 9 calls in a row, with http_503: {TEST}",
        ),
        (
            Standing(reason="apps.shop.webhook.ca_file: no such file", failing_since=NOW - HOUR * 1000),
            f"fails since 2026-12-01T08:00:00.000Z, with apps.shop.webhook.ca_file: no such file: {TEST}",
        ),
        (Standing(off=True, reason="http_410", failing_since=NOW), RESUME),
        (Standing(dead=1), f"1 batch was given up: {FAILED}"),
        (Standing(off=True, dead=1200), f"{RESUME}; 1,200 batches were given up: {FAILED}"),
    ],
)
def test_trouble_names_its_reason_and_its_remedy(standing: Standing, trouble: str) -> None:
    found = troubles_of("shop", standing, NOW)
    assert "; ".join(f"{each.cause}: {each.remedy}" for each in found) == trouble
