"""Nothing secret reaches a log, whatever a caller or a library says."""

from __future__ import annotations

import io
import json
import logging
import time

import pytest
import structlog
from hypothesis import given, strategies as st

from pushsvc.model.push import Target
from pushsvc.redaction import REDACTED, is_secret, scrub_text
from pushsvc.telemetry import configure_logging, get_logger, redact

APNS_TOKEN = "8f3c" * 16
FCM_TOKEN = "dQw4w9WgXcQ:APA91bH" + "x" * 120
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJURUFNIn0.c2lnbmF0dXJl"
PEM = "-----BEGIN PRIVATE KEY-----\nMIGTAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "tokens",
        "device_token",
        "deviceToken",
        "Authorization",
        "api_key",
        "apiKey",
        "apikey",
        "X-Api-Key",
        "private_key",
        "client_secret",
        "password",
        "fid",
        "jwt",
    ],
)
def test_secret_names(name: str) -> None:
    assert is_secret(name)
    assert redact(None, "info", {name: "v"}) == {name: REDACTED}


@pytest.mark.parametrize(
    "name",
    ["token_hash", "key_id", "key_file", "token_uri", "app", "reason", "monkey", "keyboard", "secretary", "fidelity"],
)
def test_names_that_only_look_so(name: str) -> None:
    assert not is_secret(name)
    assert redact(None, "info", {name: "v"}) == {name: "v"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"GET /3/device/{APNS_TOKEN} 410", f"GET /3/device/{REDACTED} 410"),
        (APNS_TOKEN.upper(), REDACTED),
        (f"to {FCM_TOKEN}!", f"to {REDACTED}!"),
        (f"authorization: bearer {JWT}", f"authorization: bearer {REDACTED}"),
        (f"jwt {JWT} was refused", f"jwt {REDACTED} was refused"),
        ("Authorization: Bearer ya29.a0AfH6SMBx-_~+/=", f"Authorization: Bearer {REDACTED}"),
        ("{'Authorization': 'Basic dXNlcjpwYXNzd29yZA=='}", f"{{'Authorization': 'Basic {REDACTED}'}}"),
        ("redis://user:hunter22@host:6379/0", f"redis://user:{REDACTED}@host:6379/0"),
        (f"key:\n{PEM}\nend", f"key:\n{REDACTED}\nend"),
        (PEM[:60], REDACTED),
        ("a bearer of good news, basically", "a bearer of good news, basically"),
        ("push 018f3c1e-7b1a-7000-8000-000000000000 done", "push 018f3c1e-7b1a-7000-8000-000000000000 done"),
        ("https://host/path?x=a@b", "https://host/path?x=a@b"),
    ],
)
def test_secrets_within_texts(text: str, shown: str) -> None:
    assert scrub_text(text) == shown


def test_nested_values_and_structs() -> None:
    event = {
        "event": "sent",
        "request": {"headers": {"authorization": "x", "apns-id": "1"}, "list": [("token", APNS_TOKEN)]},
        "target": Target(index=1, token=APNS_TOKEN),
        "body": b"secret bytes",
        "tokens": 3,
        "password": 12345,
        "token": None,
        "n": 1.5,
    }
    assert redact(None, "info", event) == {
        "event": "sent",
        "request": {"headers": {"authorization": REDACTED, "apns-id": "1"}, "list": [["token", REDACTED]]},
        "target": "Target(index=1, kind='token', device_id=None)",
        "body": "<12 bytes>",
        "tokens": 3,
        "password": REDACTED,
        "token": None,
        "n": 1.5,
    }


@given(st.text(), st.sampled_from([APNS_TOKEN, FCM_TOKEN, JWT, PEM]))
def test_no_surroundings_hide_a_secret(around: str, secret: str) -> None:
    assert secret not in scrub_text(f"{around} {secret} {around}")


@pytest.mark.parametrize("part", ["a", "-", "a-", "://:", "eyJ", "bearer ", "-----BEGIN PRIVATE KEY-----"])
def test_no_text_takes_long(part: str) -> None:
    """The patterns are linear: eight times the text takes nowhere near sixty-four times as long."""

    def cost(size: int) -> float:
        sample = part * (size // len(part))
        best = 1e9
        for _ in range(3):
            began = time.process_time()
            scrub_text(sample)
            best = min(best, time.process_time() - began)
        return best

    assert cost(160_000) < max(cost(20_000), 0.0005) * 30


@pytest.mark.parametrize("as_json", [True, False])
def test_every_road_to_the_log_is_covered(as_json: bool) -> None:
    stream = io.StringIO()
    configure_logging("debug", stream, json=as_json)
    log = get_logger("road")
    log.info("plain", token=APNS_TOKEN)
    log.bind(device_token=APNS_TOKEN).warning("bound")
    with structlog.contextvars.bound_contextvars(secret=APNS_TOKEN):
        log.error(f"in the text {APNS_TOKEN}")
    try:
        raise ValueError(f"token {APNS_TOKEN} is bad")
    except ValueError:
        log.exception("with a traceback")
        logging.getLogger("asyncio").exception("from a library %s", FCM_TOKEN)
    logging.getLogger("aioapns").error("Status of %s: %s", APNS_TOKEN, JWT)
    text = stream.getvalue()
    assert APNS_TOKEN not in text
    assert FCM_TOKEN not in text
    assert JWT not in text
    assert text.count(REDACTED) >= 7
    if as_json:
        assert len([json.loads(line) for line in text.splitlines()]) == 6
