"""The way of every call to its handler: what the row of the table says is what is enforced."""

from __future__ import annotations

import re

import pytest

from pushsvc.api.call import Call
from pushsvc.api.http.params import read_path
from pushsvc.api.openapi import SHOWN
from pushsvc.api.pushes.routes import CALLS as PUSHES
from pushsvc.api.routes import CALLS
from pushsvc.errors import InvalidRequest, NotFound

CONSOLE = {"/console/session", "/console/stream"}
"""What the console's own pages ask for; the pages themselves are the same for everyone."""

IDS = [call.name for call in CALLS]


def test_every_call_has_its_own_name_and_place() -> None:
    assert len({call.name for call in CALLS}) == len({(call.method, call.path) for call in CALLS}) == len(CALLS)


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_every_name_of_a_path_is_declared(call: Call) -> None:
    assert {param.name for param in call.names} == set(re.findall(r"\{(\w+)\}", call.path))


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_every_call_of_an_app_needs_a_key(call: Call) -> None:
    assert call.keyed is (call.path.startswith("/v1/") or call.path in CONSOLE)


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_values_do_not_hide_one_another(call: Call) -> None:
    names = [param.name for params in (call.names, call.params, call.headers) for param in params]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_every_answer_has_a_status_of_its_own(call: Call) -> None:
    assert len({answer.status for answer in call.answers}) == len(call.answers)


def test_the_document_shows_what_is_not_kept_out_of_it() -> None:
    assert [call for call in CALLS if call.in_document] == SHOWN


def test_a_path_names_all_its_faults_and_what_cannot_be_there_is_not_found() -> None:
    subscription = next(call for call in CALLS if call.name == "put_subscription")
    with pytest.raises(InvalidRequest) as caught:
        read_path({"topic": "x" * 1000, "device_id": "y" * 1000}, subscription.names)
    assert [fault.path for fault in caught.value.faults] == ["device_id", "topic"]
    push = next(call for call in PUSHES if call.name == "get_push")
    with pytest.raises(NotFound):
        read_path({"id": "7"}, push.names)
    assert read_path({"id": "017F22E2-79B0-7CC3-98C4-DC0C0C07398F"}, push.names) == {
        "id": "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
    }
