"""The canned answers that the console's pages are tried with are those of the real calls: no field more, and none of
another type."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from pushsvc.api.call import Call
from pushsvc.api.console.calls import SessionDocument
from pushsvc.api.routes import CALLS

from ..integration.console_rig import PUSH, STATES, answer

NAMES = {"id": PUSH, "device_id": "phone-1", "job": "abc"}
QUERY = {"span": "3600", "step": "60"}
ASKED = [call for call in CALLS if call.path.startswith("/v1/") and call.method in ("GET", "POST") and call.answer.body]


def canned(call: Call, state: Any) -> Any:
    return answer(state, call.method, re.sub(r"\{(\w+)\}", lambda name: NAMES.get(name[1], "x"), call.path), QUERY)


def extra(given: Any, kept: Any, place: str = "$") -> list[str]:
    """The fields that are given and that the document does not have."""
    if isinstance(given, dict) and isinstance(kept, dict):
        found = [f"{place}.{name}" for name in given if name not in kept]
        return found + [
            each for name in given.keys() & kept for each in extra(given[name], kept[name], f"{place}.{name}")
        ]
    if isinstance(given, list):
        return [each for at, one in enumerate(given) for each in extra(one, kept[at], f"{place}[{at}]")]
    return []


@pytest.mark.parametrize("state", STATES)
def test_the_canned_answers_are_those_of_the_calls(state: Any) -> None:
    tried = 0
    for call in ASKED:
        given = canned(call, state)
        if given:
            read = msgspec.json.decode(msgspec.json.encode(given), type=call.answer.body)
            kept = msgspec.json.decode(msgspec.json.encode(read))
            assert extra(given, kept) == [], call.name
            tried += 1
    assert tried > 10


def test_a_session_says_what_the_pages_read() -> None:
    assert {"app", "key", "scopes", "live", "version"} <= set(SessionDocument.__struct_fields__)
