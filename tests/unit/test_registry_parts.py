"""The registry's pure parts: documents there and back, and what a change asks of the script."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from pushsvc.model.address import NO_ADDRESSES
from pushsvc.model.codec import CodecError
from pushsvc.model.devices import Device
from pushsvc.ports.registry import Prune, PrunedFilter
from pushsvc.store.registry.changes import ChangeSet, Kept
from pushsvc.store.registry.documents import VERSION, decode_device, encode_device
from pushsvc.store.registry.wire import DeviceQuery, Digests, is_meant, read_found

HEX = st.binary(min_size=1, max_size=40).map(bytes.hex)
UUIDS = st.uuids().map(str)
TEXTS = st.text(max_size=40) | HEX | HEX.map(str.upper) | UUIDS | UUIDS.map(str.upper) | st.just("-" * 36)
TAGS = st.dictionaries(
    st.text(max_size=9),
    st.text(max_size=9)
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.lists(st.text(max_size=5), max_size=3).map(tuple),
    max_size=4,
)
DEVICES = st.builds(
    Device,
    id=TEXTS,
    platform=st.sampled_from(["apns", "fcm", "web"]),
    token=TEXTS,
    kind=st.sampled_from(["token", "fid", "other"]),
    user=st.none() | TEXTS,
    tags=TAGS,
    locale=st.none() | st.text(max_size=9),
    timezone=st.none() | st.text(max_size=9),
    app_version=st.none() | st.text(max_size=9),
    environment=st.sampled_from(["production", "sandbox"]),
    registered_at=st.integers(0, 2**50),
    last_seen_at=st.integers(0, 2**50),
    topics=st.lists(st.text(max_size=9), max_size=3).map(tuple),
    state=st.sampled_from(["active", "pruned"]),
    pruned_at=st.integers(0, 2**50),
    pruned_for=st.sampled_from(["", "Unregistered"]),
    strikes=st.integers(0, 3),
    struck_at=st.integers(0, 2**50),
    struck_for=st.sampled_from(["", "BadDeviceToken"]),
    judged_by=st.sampled_from(["", "019adf3c-7a10-7cc3-98c4-dc0c0c07398f", "p1"]),
)


@given(DEVICES)
def test_a_document_says_the_device_to_the_letter(device: Device) -> None:
    found = decode_device(encode_device(device))
    assert found == device
    assert [(name, type(tag)) for name, tag in found.tags.items()] == [
        (name, type(tag)) for name, tag in device.tags.items()
    ]


@pytest.mark.parametrize(
    ("text", "size"),
    [("8f3c" * 16, 34), (str(uuid.UUID(int=2**127)), 18), ("8F3C" * 16, 66), ("dQw4w9WgXcQ", 12), ("ab" * 16, 34)],
)
def test_what_a_token_takes(text: str, size: int) -> None:
    """Hexadecimal digits and UUIDs half as much as their letters, where that gives the same letters back."""
    empty = len(encode_device(Device(id="d", platform="apns", token="")))
    assert len(encode_device(Device(id="d", platform="apns", token=text))) - empty + 1 == size


@pytest.mark.parametrize(
    "blob",
    [b"", b"\x02", VERSION, VERSION + b"\x90", b"\x01\xc0", encode_device(Device(id="d", platform="a", token=""))[:-1]],
)
def test_other_bytes_are_refused(blob: bytes) -> None:
    with pytest.raises(CodecError):
        decode_device(blob)


@pytest.mark.parametrize("push_id", ["", "p2"])
def test_a_tombstone_names_the_push_of_its_own_answer_alone(push_id: str) -> None:
    struck = Device(id="d", platform="apns", token="t", strikes=1, struck_at=5, struck_for="Bad", judged_by="p1")
    change_set = ChangeSet([Kept(1, encode_device(struck), struck)], NO_ADDRESSES)
    assert change_set.prune(Prune("d", "t", 0, "Unregistered", 9, push_id))
    assert change_set.devices["d"] == replace(
        struck, state="pruned", pruned_at=9, pruned_for="Unregistered", judged_by=push_id
    )


@pytest.mark.parametrize("platform", ["live", "threepart", "a" * 40])
def test_a_platform_without_a_code_stands_by_its_name(platform: str) -> None:
    device = Device(id="d", platform=platform, token="t")
    blob = encode_device(device)
    assert platform.encode() in blob
    assert decode_device(blob) == device


def test_the_code_of_a_platform_that_is_not_known_is_refused() -> None:
    apns = encode_device(Device(id="d", platform="apns", token="t"))
    named = encode_device(Device(id="d", platform="x", token="t"))
    place = named.index(b"\xa1x")
    assert apns[place] == 1
    with pytest.raises(CodecError):
        decode_device(apns[:place] + b"\x7f" + apns[place + 1 :])


@given(st.binary(max_size=60))
def test_any_bytes_are_a_device_or_refused(blob: bytes) -> None:
    try:
        device = decode_device(VERSION + blob)
    except CodecError:
        return
    assert decode_device(encode_device(device)) == device


def test_a_digest_is_keyed_and_knows_platforms_apart() -> None:
    digests = Digests(bytes(32), NO_ADDRESSES)
    assert digests.of("x") != Digests(b"k" * 32, NO_ADDRESSES).of("x")
    assert len({digests.of("x"), digests.of_address(("apns", "x")), digests.of_address(("fcm", "x"))}) == 3
    assert len(digests.of("x")) == 12


def test_what_is_not_asked_for_by_its_own_name_is_not_found() -> None:
    """Two texts with one digest: the document decides whose it is."""
    other = encode_device(Device(id="other", platform="apns", token="t"))
    question = DeviceQuery(ids=["d"], tokens=[("apns", "u")])
    found = read_found(question, [[b"5", b"5"], 0, 6, 5, other], NO_ADDRESSES)
    assert found.change_set.devices.get("d") is None
    assert found.change_set.owner("apns", "u") is None
    new, _ = found.change_set.register(Device(id="d", platform="apns", token="u"))
    (change,) = found.change_set.changes()
    args = Digests(bytes(32), NO_ADDRESSES).arguments(found, [change])
    # New, under the digest that has another's ordinal: the entry is expected to be what it was, and is taken over.
    assert (args[0], args[5], args[8]) == (b"", b"5", b"5")
    assert new.id == "d"


def args_of(before: Device | None, after: Device | None) -> list[Any]:
    """The arguments of one change."""
    change_set = ChangeSet([] if before is None else [Kept(7, encode_device(before), before)], NO_ADDRESSES)
    if before is not None:
        change_set.remove(before.id)
    if after is not None:
        change_set.put(after)
    found = read_found(DeviceQuery(), [[], 0, 0], NO_ADDRESSES)
    return Digests(bytes(32), NO_ADDRESSES).arguments(found, change_set.changes())


def test_a_change_says_only_what_changes() -> None:
    device = Device(id="d", platform="apns", token="t", user="u", topics=("a", "b"))
    assert args_of(device, device) == []
    digests = Digests(bytes(32), NO_ADDRESSES)
    empty = b""
    new = [
        *(empty, empty, encode_device(device), empty, digests.of("d"), empty),
        *(empty, digests.of_address(("apns", "t")), empty, empty, digests.of("u")),
        *(1, empty, empty, 0, "", 2),
    ]
    added = args_of(None, device)
    assert added[:17] == new
    assert sorted((added[at], added[at + 1], added[at + 2]) for at in (17, 20)) == [("a", 1, 1), ("b", 1, 1)]
    pruned = Device(
        id="d", platform="apns", token="t", user="u", topics=("b",), state="pruned", pruned_at=9, pruned_for="Gone"
    )
    change = args_of(device, pruned)
    assert change[3:17] == [*[empty] * 8, -1, empty, "apns:Gone", 9, "prune", 2]
    assert sorted((change[at], change[at + 1], change[at + 2]) for at in (17, 20)) == [("a", -1, -1), ("b", 0, -1)]
    assert args_of(device, replace(pruned, last_seen_at=10))[15] == ""  # it lives on
    for other in (replace(device, user="v"), replace(device, platform="fcm")):
        assert args_of(device, other)[15] == "renew"
    gone = args_of(pruned, None)
    assert gone[:17] == [
        *(7, encode_device(pruned), empty, digests.of("d"), empty, empty),
        *(digests.of_address(("apns", "t")), empty, empty, digests.of("u"), empty),
        *(0, "apns:Gone", empty, 0, "", 1),
    ]
    assert gone[17:] == ["b", -1, 0]


@pytest.mark.parametrize(
    ("label", "which", "meant"),
    [
        ("apns:Unregistered", PrunedFilter(), True),
        ("apns:Unregistered", PrunedFilter(platform="apns", reason="Unregistered"), True),
        ("apns:Unregistered", PrunedFilter(platform="fcm"), False),
        ("apns:a:b", PrunedFilter(reason="a:b"), True),
        ("apns:a:b", PrunedFilter(reason="b"), False),
    ],
)
def test_labels_of_tombstones(label: str, which: PrunedFilter, meant: bool) -> None:
    assert is_meant(label, which) is meant
