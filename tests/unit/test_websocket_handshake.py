"""The handshake of a WebSocket, against the library `websockets` and by RFC 6455, section 4.2."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from websockets.client import ClientProtocol
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from pushsvc.net.websocket.handshake import HandshakeRefused, accept, accept_key, is_open, request

SPOKEN = ("centrifuge-json", "centrifuge-protobuf")
VALID = {
    "host": "push.example",
    "upgrade": "websocket",
    "connection": "keep-alive, Upgrade",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}


def test_the_key_of_the_rfc_has_its_answer() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@given(st.lists(st.sampled_from(["centrifuge-protobuf", "centrifuge-json", "chat", "soap"]), unique=True))
def test_a_client_by_other_hands_takes_the_answer(offered: list[str]) -> None:
    client = ClientProtocol(parse_uri("ws://push.example/connection/websocket"), subprotocols=offered or None)  # type: ignore[arg-type]
    request = client.connect()
    headers = {name.lower(): value for name, value in request.headers.raw_items()}
    answer, chosen = accept("GET", headers, SPOKEN)
    client.send_request(request)
    client.receive_data(answer)
    assert client.handshake_exc is None
    assert client.state.name == "OPEN"
    assert chosen == next((word for word in offered if word in SPOKEN), "")
    assert (client.subprotocol or "") == chosen


@pytest.mark.parametrize(
    ("changes", "status", "header"),
    [
        ({"upgrade": ""}, 426, "Upgrade"),
        ({"upgrade": "h2c"}, 426, "Upgrade"),
        ({"connection": "keep-alive"}, 426, "Upgrade"),
        ({"sec-websocket-version": "8"}, 426, "Sec-WebSocket-Version"),
        ({"sec-websocket-version": ""}, 426, "Sec-WebSocket-Version"),
        ({"sec-websocket-key": ""}, 400, None),
        ({"sec-websocket-key": "c2hvcnQ="}, 400, None),
        ({"sec-websocket-key": "no base64 é"}, 400, None),
        ({"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="}, 400, None),
    ],
)
def test_what_is_no_handshake_is_refused(changes: dict[str, str], status: int, header: str | None) -> None:
    with pytest.raises(HandshakeRefused) as refused:
        accept("GET", {**VALID, **changes})
    assert refused.value.status == status
    assert header is None or header in refused.value.headers


def test_only_get_opens_a_websocket() -> None:
    with pytest.raises(HandshakeRefused) as refused:
        accept("POST", VALID)
    assert (refused.value.status, refused.value.headers) == (405, {"Allow": "GET"})


def test_words_of_the_handshake_know_no_case() -> None:
    assert accept("GET", {**VALID, "upgrade": "WebSocket", "connection": "UPGRADE"})[1] == ""


@pytest.mark.parametrize("subprotocol", ["", "centrifuge-protobuf"])
def test_a_server_by_other_hands_takes_the_request(subprotocol: str) -> None:
    server = ServerProtocol(subprotocols=SPOKEN if subprotocol else None)  # type: ignore[arg-type]  # strings do
    key = VALID["sec-websocket-key"]
    server.receive_data(request("push.example", "/connection/websocket?format=protobuf", key, subprotocol))
    (asked,) = server.events_received()
    assert isinstance(asked, Request)
    server.send_response(server.accept(asked))
    answer = b"".join(server.data_to_send())
    assert is_open(answer, key)
    assert (f"Sec-WebSocket-Protocol: {subprotocol}".encode() in answer) == bool(subprotocol)
    assert not is_open(answer, "AAAAAAAAAAAAAAAAAAAAAA==")
    assert not is_open(answer.replace(b" 101 ", b" 200 "), key)
    assert not is_open(b"", key)
