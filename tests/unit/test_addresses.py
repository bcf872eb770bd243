"""Addresses in documents come from the kinds of the providers: one text, several parts, or none at all."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from openapi_spec_validator import OpenAPIV31SpecValidator

from pushsvc.api import openapi
from pushsvc.api.config import ApiConfig
from pushsvc.api.devices.document import read_device, shown
from pushsvc.api.devices.importing import BadLine, read_device as read_line
from pushsvc.api.pushes.document import Draft, read
from pushsvc.api.rules import Rules
from pushsvc.cli.devices.files import entries
from pushsvc.cli.devices.lines import BadHeader, Format, columns, csv_of, header, ndjson_of
from pushsvc.errors import InvalidRequest
from pushsvc.model.address import NO_ADDRESS, Addresses, AddressKind, Kinds
from pushsvc.model.push import Target
from pushsvc.providers import apns, fcm

from ..fakes import threepart

NOW = 1_796_115_600_000
KINDS: dict[str, Kinds] = {
    "apns": apns.ADDRESSES,
    "fcm": fcm.ADDRESSES,
    "threepart": threepart.ADDRESSES,
    "bare": {"device": NO_ADDRESS},
}
ADDRESSES = Addresses(KINDS)
RULES = Rules("shop", frozenset(KINDS), ADDRESSES)
PADDED = {"endpoint": "https://push.example/1", "keys": {"p256dh": "QQ==", "auth": "Qg=="}}
PLAIN = {"endpoint": "https://push.example/1", "keys": {"p256dh": "QQ", "auth": "Qg"}}
TEXT = '{"endpoint":"https://push.example/1","keys":{"p256dh":"QQ","auth":"Qg"}}'


def take(*tokens: dict[str, Any]) -> Draft:
    document = {"to": {"tokens": tokens}, "notification": {"title": "x"}}
    return read(msgspec.json.encode(document), RULES, NOW)


def faults_of(*tokens: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequest) as refused:
        take(*tokens)
    return [(fault.path, fault.message) for fault in refused.value.faults]


# --- the push document ------------------------------------------------------------------------------


def test_targets_of_every_kind_in_one_push() -> None:
    draft = take(
        {"platform": "fcm", "fid": "F"},
        {"platform": "threepart", "subscription": PADDED},
        {"platform": "apns", "activity": "AB12"},
        {"platform": "fcm", "token": "G:APA91bX"},
        {"platform": "apns", "token": "AB12"},
        {"platform": "fcm", "topic": "F"},
    )
    assert draft.targets == {
        "fcm": (Target(0, "F", None, "fid"), Target(3, "G:APA91bX"), Target(5, "F", None, "topic")),
        "threepart": (Target(1, TEXT, None, "subscription"),),
        "apns": (Target(2, "ab12", None, "activity"), Target(4, "ab12")),
    }


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"platform": "threepart", "subscription": PADDED}, {"platform": "threepart", "subscription": PLAIN}),
        ({"platform": "fcm", "token": "F:APA91bX"}, {"platform": "fcm", "fid": "F"}),
        ({"platform": "apns", "channel": "QQ=="}, {"platform": "apns", "channel": "QQ=="}),
    ],
)
def test_two_addresses_of_one_target_are_one_delivery(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert take(first, second, first).total == take(second, first).total == 1


@pytest.mark.parametrize(
    ("token", "path", "message"),
    [
        ({"platform": "threepart"}, "subscription", "is missing"),
        ({"platform": "nobody", "token": "ab"}, "platform", "unknown platform"),
        ({"platform": "threepart", "token": "ab"}, "token", "threepart takes `subscription`, not `token`"),
        ({"platform": "apns", "subscription": PLAIN}, "subscription", "apns takes `token` or `channel` or"),
        ({"platform": "threepart", "subscription": TEXT}, "subscription", "expected an object, found a string"),
        (
            {"platform": "threepart", "subscription": PLAIN | {"endpoint": "http://push.example"}},
            "subscription",
            "must have an endpoint https://HOST/PATH",
        ),
        (
            {"platform": "threepart", "subscription": PLAIN | {"keys": {"p256dh": "QQ"}}},
            "subscription.keys.auth",
            "is missing",
        ),
        (
            {"platform": "threepart", "subscription": PLAIN | {"keys": {"p256dh": 0x5EC2E7, "auth": "Qg"}}},
            "subscription.keys.p256dh",
            "expected a string, found a number",
        ),
        (
            {"platform": "threepart", "subscription": PLAIN | {"keys": {"p256dh": "QQ", "auth": "a secret!"}}},
            "subscription.keys.auth",
            "must be base64url",
        ),
        ({"platform": "threepart", "subscription": PLAIN | {"expires": 1}}, "subscription.expires", "unknown field"),
        ({"platform": "bare"}, "", "bare has no addresses: name its devices in `to.devices`"),
        ({"platform": "bare", "token": "ab"}, "token", "leave it out: bare has no addresses"),
    ],
)
def test_a_fault_names_its_place_in_the_address(token: dict[str, Any], path: str, message: str) -> None:
    good = {"platform": "apns", "token": "ab"}
    ((place, said), *more) = faults_of(good, token)
    assert place == f"to.tokens[1].{path}".rstrip(".")
    assert said.startswith(message)
    assert "secret" not in said
    assert not more


def test_an_address_beside_another_is_a_fault() -> None:
    ((place, said),) = faults_of({"platform": "threepart", "subscription": PLAIN, "token": None, "fid": "F"})[:1]
    assert (place, said) == ("to.tokens[0]", "may have either `fid` or `subscription`, not both")


def test_an_address_of_unknown_kind_is_brought_to_its_form() -> None:
    for given, platform, form in (
        ("AB12", "apns", "ab12"),
        ("dHN0LXNyY2gtY2hubA==", "apns", "dHN0LXNyY2gtY2hubA=="),
        ("Ab:c", "fcm", "Ab:c"),
        (msgspec.json.encode(PADDED).decode(), "threepart", TEXT),
        ("no address at all", "threepart", "no address at all"),
        ("AB", "elsewhere", "AB"),
    ):
        assert ADDRESSES.recognised(platform, given) == form


def test_a_name_has_one_type() -> None:
    class Parts(Struct):
        a: str

    one, other = AddressKind(bool, ""), AddressKind(bool, "", parts=Parts)
    with pytest.raises(ValueError, match="`token`"):
        Addresses({"one": {"token": one}, "other": {"token": other}})


# --- devices ----------------------------------------------------------------------------------------

DEVICES: list[tuple[dict[str, Any], tuple[str, str], dict[str, Any]]] = [
    ({"platform": "threepart", "subscription": PADDED}, ("subscription", TEXT), {"subscription": PLAIN}),
    ({"platform": "bare"}, ("device", "d"), {}),
    ({"platform": "fcm", "fid": "F"}, ("fid", "F"), {"fid": "F"}),
]


@pytest.mark.parametrize(("document", "address", "fields"), DEVICES)
def test_a_device_is_registered_by_its_address(
    document: dict[str, Any], address: tuple[str, str], fields: dict[str, Any]
) -> None:
    device = read_device(msgspec.json.encode(document), "d", RULES, NOW)
    assert (device.kind, device.token) == address
    again = msgspec.to_builtins(shown(device, ADDRESSES))
    assert {name: again[name] for name in ADDRESSES.devices.names if name in again} == fields


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"platform": "threepart"}, "subscription"),
        ({"platform": "threepart", "subscription": PLAIN | {"keys": {}}}, "subscription.keys.p256dh"),
        ({"platform": "bare", "token": "ab"}, "token"),
        ({"platform": "apns", "channel": "ab"}, "channel"),
    ],
)
def test_a_fault_of_a_device_names_its_place(document: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_device(msgspec.json.encode(document), "d", RULES, NOW)
    assert refused.value.faults[0].path == path


def test_a_device_that_needs_no_address_is_refused_for_its_platform_alone() -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_device(b'{"platform": "bare"}', "d", Rules("shop", {"apns"}, ADDRESSES), NOW)
    message = "bare is not configured for the app shop: add [apps.shop.bare] to the configuration"
    assert [(fault.path, fault.message) for fault in refused.value.faults] == [("platform", message)]


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_what_is_written_to_a_file_is_read_again(form: Format) -> None:
    devices = [read_line({"id": "d", **document}, RULES, NOW) for document, _, _ in DEVICES]
    blob = ndjson_of(devices, ADDRESSES)
    if form == "csv":
        blob = header(ADDRESSES, tombstones=False) + csv_of(devices, ADDRESSES, tombstones=False)
    records = list(entries(io.BytesIO(blob), form, ADDRESSES))
    assert [read_line(record.value, RULES, NOW) for record in records] == devices


def test_a_cell_of_several_parts_is_json() -> None:
    ((good, bad), _) = (
        list(entries(io.BytesIO(b"id,platform,subscription\na,threepart,%b\n" % cell), "csv", ADDRESSES))
        for cell in (b'"{""endpoint"":1}"\nb,threepart,{', b"")
    )
    assert good.value == {"id": "a", "platform": "threepart", "subscription": {"endpoint": 1}}
    with pytest.raises(BadLine) as refused:
        read_line(bad.value, RULES, NOW)
    assert [fault.path for fault in refused.value.faults] == ["subscription"]


def test_a_header_needs_an_address_where_every_platform_does() -> None:
    assert [record.value for record in entries(io.BytesIO(b"id,platform\nd,bare\n"), "csv", ADDRESSES)] == [
        {"id": "d", "platform": "bare"}
    ]
    with pytest.raises(BadHeader, match="lacks token"):
        list(entries(io.BytesIO(b"id,platform\n"), "csv", Addresses({"fcm": fcm.ADDRESSES})))


# --- the names --------------------------------------------------------------------------------------


def test_the_names_of_today_stay() -> None:
    today = Addresses({"apns": apns.ADDRESSES, "fcm": fcm.ADDRESSES})
    assert set(today.targets.names) == {"token", "fid", "topic", "condition", "channel", "activity", "push_to_start"}
    assert columns(today, tombstones=False)[:5] == ("id", "platform", "token", "fid", "user")


def test_the_openapi_document_has_the_fields_of_every_provider() -> None:
    document = openapi.build(addresses=ADDRESSES, config=ApiConfig())
    OpenAPIV31SpecValidator(document).validate()
    schemas = document["components"]["schemas"]
    for name in ("TokenTarget", "DeviceDocument", "RegisteredDevice"):
        properties = schemas[name]["properties"]
        assert "#/components/schemas/Subscription" in str(properties["subscription"])
        assert {"token", "fid"} <= properties.keys()
        assert "device" not in properties
    assert "channel" in schemas["TokenTarget"]["properties"]
    assert "channel" not in schemas["DeviceDocument"]["properties"]
    enums = [schemas[name]["properties"]["platform"]["enum"] for name in ("TokenTarget", "DeviceDocument")]
    assert ["bare" in enum for enum in enums] == [False, True]
    assert "RegisteredDevice" in str(schemas["DeviceList"])
    assert schemas["Keys"]["properties"].keys() == {"p256dh", "auth"}
