"""Intake's pure parts: ids, query parameters, rendering all platforms, the OpenAPI document and its page."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Collection, Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given, strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from pushsvc import errors
from pushsvc.api import docs
from pushsvc.api.config import ApiConfig
from pushsvc.api.docs import curl, render as render_page
from pushsvc.api.http.params import JSON, QueryParam, read_query
from pushsvc.api.http.response import Response
from pushsvc.api.http.table import Table
from pushsvc.api.openapi import EXAMPLES, SHOWN, build
from pushsvc.api.pushes.audiences import platforms_of
from pushsvc.api.pushes.batch import MOST, documents
from pushsvc.api.pushes.document import Draft, read
from pushsvc.api.pushes.ids import UUID, new_push_id
from pushsvc.api.pushes.preparing import lifetime, render
from pushsvc.api.routes import CALLS
from pushsvc.api.rules import Rules
from pushsvc.errors import ContentTooLarge, Fault, InvalidRequest
from pushsvc.model.instants import instant
from pushsvc.model.push import Content, Message, Target
from pushsvc.ports.provider import Renderer, RenderError
from pushsvc.runtime.providers import addresses

from ..sources import MODULES, PACKAGE, nodes_of

# --- calls and answers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "methods", "names"),
    [
        ("/v1/push", {"POST"}, {}),
        ("/v1/push/batch", {"POST"}, {}),
        ("/v1/push/7", {"GET", "HEAD", "DELETE"}, {"id": "7"}),
        ("/v1/push/a%2Fb%25/deliveries", {"GET", "HEAD"}, {"id": "a/b%"}),
        ("/v1/push/", set(), {}),
        ("/v1/push/7/", set(), {}),
        ("/v1/push/7/others", set(), {}),
        ("", set(), {}),
    ],
)
def test_a_path_without_names_comes_first_and_a_name_is_anything_but_a_slash(
    path: str, methods: set[str], names: dict[str, str]
) -> None:
    found, values = Table((call.method, call.path, call) for call in CALLS).find(path)
    assert (set(found), dict(values)) == (methods, names)


@pytest.mark.parametrize("value", ["1\r\nX-Other: 2", "1\n", "1\r"])
def test_a_header_of_an_answer_cannot_begin_another(value: str) -> None:
    async def send() -> None:
        response = Response(200, b"", {"X-One": value})
        request: Any = make_mocked_request("GET", "/")
        await response.prepare(request)
        await response.write_eof()

    with pytest.raises(ValueError, match="end of a line"):
        asyncio.run(send())


def _details() -> Iterator[tuple[str, str]]:
    """Yield every detail of a refusal that the servers raise with a text of its own, and its place."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    refusals = {kind.__name__ for kind in kinds if issubclass(kind, errors.RequestError)}
    for path in MODULES:
        if path.relative_to(PACKAGE).parts[0] not in ("api", "live", "problems.py", "runtime", "store"):
            continue
        for node in nodes_of(path):
            match node:
                case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(begin)), *_]):
                    pass
                case ast.Call(
                    func=ast.Name(id=name), args=[ast.JoinedStr(values=[ast.Constant(value=str(begin)), *_]), *_]
                ):
                    pass
                case _:
                    continue
            if name in refusals - {"Unreadable"}:  # whose text is made of what it is given
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", begin


def test_the_detail_of_a_refusal_is_a_sentence() -> None:
    found = dict(_details())
    assert len(found) > 20
    assert [place for place, begin in found.items() if begin[0].islower()] == []


# --- ids --------------------------------------------------------------------------------------------


def made_with(random: bytes, unix_ms: int) -> str:
    """Return a new id that is made with these 10 random bytes."""
    with mock.patch.object(os, "urandom", lambda size: random * (size // 10)):
        new_push_id.forget()
        made = new_push_id(unix_ms)
    new_push_id.forget()
    return made


def test_an_id_is_the_example_of_the_rfc() -> None:
    """Its count begins at half of what the first three digits say, which are `cc3` in
    https://www.rfc-editor.org/rfc/rfc9562#name-example-of-a-uuidv7-value"""
    random = (0xCC3 << 68 | 0x18C4DC0C0C07398F).to_bytes(10, "big")
    assert made_with(random, 0x017F22E279B0) == "017f22e2-79b0-7661-98c4-dc0c0c07398f"


@given(unix_ms=st.integers(0, 2**48 - 1), random=st.binary(min_size=10, max_size=10))
def test_an_id_is_what_the_library_calls_a_uuid7(unix_ms: int, random: bytes) -> None:
    text = made_with(random, unix_ms)
    parsed = uuid.UUID(text)
    assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, text)
    assert parsed.int >> 80 == unix_ms
    assert UUID.fullmatch(text)


@given(st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=5, unique=True))
def test_ids_are_in_the_order_of_their_time(instants: list[int]) -> None:
    ids = [new_push_id(at) for at in sorted(instants)]
    assert ids == sorted(ids)


def test_ids_of_one_instant_differ_and_are_in_their_order() -> None:
    ids = [new_push_id(1) for _ in range(2000)]
    assert ids == sorted(set(ids))
    assert len({new_push_id(1) for _ in range(5000)}) == 5000
    assert new_push_id(2)[14:18] < "7800" <= "7fff"


def test_a_forked_process_makes_other_ids() -> None:
    """Random digits are drawn for many ids at once, and a fork has those in memory too."""
    forks = (
        "import os; from pushsvc.api.pushes.ids import new_push_id as new; new(1); child = os.fork(); "
        "os.write(1, (new(1) + ' ').encode()); child and os.wait()"
    )
    said = subprocess.run([sys.executable, "-c", forks], check=True, capture_output=True, text=True).stdout.split()
    # The count is of the process; the digits behind it must differ.
    assert len({push_id[19:] for push_id in said}) == 2


def test_instants_are_rfc_3339_in_utc() -> None:
    assert instant(0) == "1970-01-01T00:00:00.000Z"
    assert instant(1_796_115_600_123) == "2026-12-01T09:00:00.123Z"
    # What no calendar has becomes the nearest that it has.
    assert instant(-(10**15)) == "0001-01-01T00:00:00.000Z"
    assert instant(10**15) == "9999-12-31T23:59:59.000Z"


def test_a_push_without_a_time_to_live_still_has_time_to_leave() -> None:
    assert [lifetime(ttl) for ttl in (None, 0, 1, 3600)] == [2_419_200, 30, 1, 3600]


# --- query parameters -------------------------------------------------------------------------------

PARAMS = (
    QueryParam("outcome", "", options=("sent", "failed")),
    QueryParam("cursor", ""),
    QueryParam("limit", "", least=1, most=1000, default=100),
)


def test_query_values_and_defaults() -> None:
    assert read_query([], PARAMS) == {"outcome": None, "cursor": None, "limit": 100}
    pairs = [("limit", "7"), ("cursor", "12-0"), ("outcome", "failed")]
    assert read_query(pairs, PARAMS) == {"outcome": "failed", "cursor": "12-0", "limit": 7}
    empty = [(param.name, "") for param in PARAMS]
    assert read_query(empty, PARAMS) == {"outcome": None, "cursor": None, "limit": 100}


def test_every_fault_of_a_query_is_named() -> None:
    pairs = [
        ("outcome", "gone"),
        ("limit", "0"),
        ("limit", "5"),
        ("cursor", "\n"),
        ("cursor", ""),
        ("outcom", "sent"),
        ("\0" * 9, ""),
    ]
    with pytest.raises(InvalidRequest) as caught:
        read_query(pairs, PARAMS)
    assert [(fault.path, fault.message) for fault in caught.value.faults] == [
        ("outcome", "must be one of sent, failed"),
        ("limit", "must be a whole number from 1 to 1,000"),
        ("limit", "is given more than once"),
        ("cursor", "must be at most 128 printable characters"),
        ("cursor", "is given more than once"),
        ("outcom", "unknown query parameter; known here: outcome, cursor, limit"),
        ("?", "unknown query parameter; known here: outcome, cursor, limit"),
    ]


@pytest.mark.parametrize("text", [" ", " 5", "+5", "5.0", "1e2", "0x5", "1001", "-1", "٣", "9" * 5000])
def test_numbers_in_queries_are_plain_digits(text: str) -> None:
    with pytest.raises(InvalidRequest):
        read_query([("limit", text)], PARAMS)


# --- rendering --------------------------------------------------------------------------------------


class Says:
    """A renderer with given answers."""

    def __init__(self, platform: str, error: RenderError | None = None) -> None:
        self.platform = platform
        self.error = error
        self.kinds: Collection[str] = ()

    def render(self, content: Content, *, push_id: str, starts_at: int, kinds: Collection[str] = ("token",)) -> Message:
        self.kinds = kinds
        if self.error is not None:
            raise self.error
        return Message(self.platform, f"{push_id} {starts_at}".encode())

    def warnings(self, content: Content, message: Message, kinds: Collection[str] = ("token",)) -> list[Fault]:
        return []


BIG = Fault("notification", "4,200 bytes, at most 4,096")
BAD = Fault("collapse", "longer than 64 bytes")


def rendered(**errors: RenderError | None) -> dict[str, Message]:
    renderers: dict[str, Renderer] = {name: Says(name, error) for name, error in errors.items()}
    return render(renderers, Content(), dict.fromkeys(errors, ()), push_id="p", starts_at=7)


def test_each_platform_among_the_targets_is_rendered() -> None:
    assert rendered(apns=None, fcm=None) == {"apns": Message("apns", b"p 7"), "fcm": Message("fcm", b"p 7")}


def test_each_gets_the_kinds_of_its_targets() -> None:
    apns, fcm = Says("apns"), Says("fcm")
    targets: dict[str, tuple[Target, ...]] = {
        "apns": (Target(0, "aa", None, "activity"), Target(2, "bb", None, "activity")),
        "fcm": (Target(1, "cc"), Target(3, "dd", None, "fid")),
    }
    platforms = platforms_of(Draft(Content(), "normal", targets, 4), Rules("shop", (), addresses()))
    render({"apns": apns, "fcm": fcm}, Content(), platforms, push_id="p", starts_at=7)
    assert (set(apns.kinds), set(fcm.kinds)) == ({"activity"}, {"token", "fid"})


def test_size_alone_is_413() -> None:
    with pytest.raises(ContentTooLarge, match="at most 4,096") as caught:
        rendered(apns=RenderError([BIG], too_large=True), fcm=None)
    assert caught.value.faults == (BIG,)


def test_faults_of_all_platforms_are_named_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        rendered(apns=RenderError([BIG], too_large=True), fcm=RenderError([BAD, BIG]))
    assert caught.value.faults == (BIG, BAD)


# --- a batch ----------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([b"", b" ", b"\t\r", b"{}", b" 1 \r", b"\r2", b"\x0b"])).map(b"\n".join))
def test_each_line_that_is_not_blank_is_a_push(body: bytes) -> None:
    lines = [line for line in body.split(b"\n") if line.strip(b" \t\r")]
    if lines:
        assert documents(body, lines=True) == lines
    else:
        with pytest.raises(InvalidRequest) as caught:
            documents(body, lines=True)
        assert caught.value.faults == (Fault("$", "has no pushes; one call may have 1 to 1,000"),)


@pytest.mark.parametrize(("body", "lines"), [(b"[" + b"1," * MOST + b"1]", False), (b"1\n" * (MOST + 1), True)])
def test_a_batch_has_an_end(body: bytes, lines: bool) -> None:
    with pytest.raises(InvalidRequest) as caught:
        documents(body, lines=lines)
    assert caught.value.faults == (Fault("$", "has more than 1,000 pushes; one call may have 1 to 1,000"),)
    fewer = body.replace(b"1,", b"", 1) if body[:1] == b"[" else body[2:]
    assert documents(fewer, lines=lines) == [b"1"] * MOST


# --- the OpenAPI document ---------------------------------------------------------------------------

DOCUMENT = build(addresses=addresses(), config=ApiConfig(max_targets=123))


def test_the_document_is_openapi_3_1() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_the_document_has_the_calls_of_the_table_and_no_other() -> None:
    calls = {(verb.upper(), path) for path, verbs in DOCUMENT["paths"].items() for verb in verbs}
    assert calls == {(call.method, call.path) for call in CALLS if call.in_document}


def test_bounds_of_the_configuration_are_in_the_document() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for name in ("tokens", "devices", "users"):
        assert schemas["To"]["properties"][name]["anyOf"][0]["maxItems"] == 123
    assert schemas["TokenTarget"]["properties"]["platform"]["enum"] == ["apns", "fcm"]


def nodes(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the document, with its place."""
    if isinstance(value, dict):
        yield path, value
    for name, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from nodes(item, f"{path}/{name}")


def test_generators_understand_every_schema() -> None:
    """What openapi-generator, openapi-python-client and openapi-typescript make wrong clients of is not there."""
    seen = 0
    for path, node in nodes({name: DOCUMENT[name] for name in ("components", "paths")}):
        if "/examples/" in path or path.endswith("/properties"):
            continue
        seen += 1
        assert not {"anyOf", "oneOf"} & node.keys() or "properties" not in node, path
        assert not isinstance(node.get("enum"), list) or node.get("type") == "string", path
        assert node.get("default", 0) is not None, path
    assert seen > 500


def test_every_body_is_of_a_type_that_generators_know() -> None:
    """openapi-python-client leaves out a call that may have another one."""
    for path, verbs in DOCUMENT["paths"].items():
        for operation in verbs.values():
            assert list(operation.get("requestBody", {"content": {JSON: 0}})["content"]) == [JSON], path


def test_a_parameter_of_several_calls_stands_once() -> None:
    shared = DOCUMENT["components"]["parameters"]
    used = [
        each for verbs in DOCUMENT["paths"].values() for call in verbs.values() for each in call.get("parameters", ())
    ]
    assert {each["$ref"].rpartition("/")[2] for each in used if "$ref" in each} == set(shared)
    assert not [each for each in used if each in shared.values()]


def test_optional_fields_of_requests_are_optional() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["PushDocument"]["required"] == ["to"]
    assert not schemas["To"].get("required")
    assert schemas["To"]["properties"]["all"]["type"] == "boolean"
    assert schemas["DeviceDocument"]["required"] == ["platform"]


def test_every_call_has_a_tag_that_is_described() -> None:
    reported = {tag["name"] for tag in DOCUMENT["tags"]}
    calls = [operation for verbs in DOCUMENT["paths"].values() for operation in verbs.values()]
    assert {tag for operation in calls for tag in operation["tags"]} == reported
    assert all(len(operation["tags"]) == 1 for operation in calls)


def test_every_refusal_has_its_problem_document() -> None:
    for path, verbs in DOCUMENT["paths"].items():
        for operation in verbs.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    response = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
                    assert list(response["content"]) == ["application/problem+json"], (path, status)


def test_the_examples_are_taken() -> None:
    rules = Rules("shop", {"apns", "fcm"}, addresses())
    now = 1_796_000_000_000  # a day before the time that one of them names
    drafts = [read(msgspec.json.encode(example["value"]), rules, now) for example in EXAMPLES.values()]
    named = [name for name, example in EXAMPLES.items() if "tokens" in example["value"]["to"]]
    assert [name for name, draft in zip(EXAMPLES, drafts, strict=True) if draft.total] == named
    assert [name for name, draft in zip(EXAMPLES, drafts, strict=True) if draft.send_at is not None] == ["scheduled"]


def test_the_page_shows_every_call_and_loads_nothing() -> None:
    page = render_page(DOCUMENT)
    for call in SHOWN:
        assert f'id="{call.name}"' in page
        assert call.path in page
    assert "{{" not in page
    assert re.findall(r"<(?:script|link)[^>]*>|<img|https?://", page) == [
        '<link rel="stylesheet" href="/docs/page.css">',
        '<script type="module" src="/docs/page.js">',
    ]
    style = Path(docs.__file__).with_name("docs.css").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(", style)
    assert "prefers-color-scheme: dark" in style


def test_the_page_groups_the_calls_and_shows_each_with_curl() -> None:
    page = render_page(DOCUMENT)
    headings = re.findall(r"<h2>(\w+)</h2><p class=soft>", page)
    assert headings == [tag["name"].capitalize() for tag in DOCUMENT["tags"]]
    assert page.count("<pre>curl -X ") == len(SHOWN)
    body = re.search(r"-d '(.+?)'\Z", unescape(curl("/v1/push", "post", DOCUMENT["paths"]["/v1/push"]["post"])))
    assert body is not None
    assert json.loads(body[1]) == EXAMPLES["alert"]["value"]


def test_the_page_links_to_what_it_has() -> None:
    page = render_page(DOCUMENT)
    anchors = set(re.findall(r'id="?([\w.]+)"?', page))
    links = set(re.findall(r'href="#([\w.]+)"', page))
    assert links
    assert links <= anchors


class Balance(HTMLParser):
    """Checks that what is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen += 1
        if tag not in ("meta", "br", "link", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_closes_what_it_opens() -> None:
    parser = Balance()
    parser.feed(render_page(DOCUMENT))
    parser.close()
    assert parser.seen > 100
    assert parser.open == []


def test_the_page_escapes_what_it_shows() -> None:
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(DOCUMENT))
    document["info"]["description"] = "<b>`<i>`"
    assert "<p>&lt;b&gt;<code>&lt;i&gt;</code></p>" in render_page(document)
