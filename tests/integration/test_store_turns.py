"""The records of turns: what is read of them is what was written, in one field for each delivery or for many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from pushsvc.store import keys, layout
from pushsvc.store.link import scripts
from pushsvc.store.link.link import Link

from .servers import KINDS, Server

KEY = keys.prefix("shop", 0) + "t:p"
DRIVER = """-- include: turns
local large, gone, set, index = unpack(cmsgpack.unpack(ARGV[1]))
write_turns(KEYS[1], large == 1, gone, set)
return read_turns(KEYS[1], large == 1, index)
"""
LAST = layout.TURNS - 1
WAITS, CARRIED = "2 live:normal w", "2 apns:bulk f"
Story = Callable[[Link], Awaitable[None]]


BACKENDS = KINDS


@pytest.fixture(scope="module", autouse=True)
def _driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A script that is made as those of the store are."""
    file = tmp_path_factory.mktemp("scripts") / "turns_driver.lua"
    file.write_text(DRIVER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scripts._FILES, "turns_driver", file)
        yield


@asynccontextmanager
async def empty(server: Server) -> AsyncIterator[Link]:
    link = Link(server.url, name="a", timeout=5.0)
    try:
        await link.call("DEL", KEY)
        yield link
    finally:
        await link.aclose()


@pytest.fixture
async def link(server: Server) -> AsyncIterator[Link]:
    async with empty(server) as link:
        yield link


async def change(
    link: Link, gone: Sequence[int], records: Mapping[Any, str], index: Sequence[int], *, large: bool = True
) -> list[bytes | None] | None:
    """Remove and write records in one step, and return those of `index`."""
    flat = [word for pair in records.items() for word in pair]
    asked = msgspec.msgpack.encode((int(large), gone, flat, index))
    found: list[bytes | None] | None = await link.script("turns_driver", [KEY], [asked])
    return found


async def fields(link: Link) -> dict[str, bytes]:
    found: dict[bytes, bytes] = await link.call("HGETALL", KEY)
    return {name.decode(): value for name, value in found.items()}


def packed(numbers: Mapping[int, int], *records: str) -> bytes:
    """A field of a large push, as every version reads it that reads version 1."""
    return (
        b"\x01"
        + bytes(numbers.get(place, 0) for place in range(128))
        + "".join(f"{each}\n" for each in records).encode()
    )


async def test_the_fields_of_a_large_push(link: Link) -> None:
    await change(link, [], {0: WAITS, LAST: WAITS}, [])
    await change(link, [], {2: CARRIED}, [])
    assert await fields(link) == {"#0": packed({0: 1, 2: 2, LAST: 1}, WAITS, CARRIED)}
    # What no delivery has any more leaves its number to another record.
    await change(link, [0, LAST], {}, [])
    assert await fields(link) == {"#0": packed({2: 2}, WAITS, CARRIED)}
    await change(link, [], {3: "3"}, [])
    assert await fields(link) == {"#0": packed({2: 2, 3: 1}, "3", CARRIED)}
    # The place of a retry stands beside them, as it is.
    await change(link, [], {LAST + 1: "2", "@live 5": "1"}, [])
    assert await fields(link) == {
        "#0": packed({2: 2, 3: 1}, "3", CARRIED),
        "#1": packed({0: 1}, "2"),
        "@live 5": b"1",
    }
    await change(link, [2, 3, LAST + 1, 7 * layout.TURNS], {}, [])
    assert await fields(link) == {"@live 5": b"1"}


async def test_those_of_a_small_one(link: Link) -> None:
    found = await change(link, [], {0: WAITS, 31: "2", "@live 5": "1"}, [31, 5, 0], large=False)
    assert found == [b"2", None, WAITS.encode()]
    assert await fields(link) == {"0": WAITS.encode(), "31": b"2", "@live 5": b"1"}
    assert await change(link, [0, 1], {}, [0, 31], large=False) == [None, b"2"]


async def test_every_delivery_of_a_field_may_have_another_record(link: Link) -> None:
    index = list(range(layout.TURNS))
    for turn in (2, 3):
        records = {i: f"{turn} {i}" for i in index}
        assert await change(link, [], records, index) == [text.encode() for text in records.values()]
    assert await change(link, index, {}, index) == [None] * layout.TURNS
    assert await fields(link) == {}


PLACES = [0, 1, 63, 126, LAST, LAST + 1, LAST + 2, 255, 256, 99_999, layout.INDEXES - 1]
INDEX = st.one_of(st.sampled_from(PLACES), st.integers(0, 400))
RECORD = st.one_of(
    st.sampled_from(["2", "3", WAITS, CARRIED, "250 a.b-c:urgent fr"]), st.text("ab 7é\0", min_size=1, max_size=300)
)
SPAN = st.tuples(INDEX, st.integers(1, 300), RECORD).map(
    lambda span: dict.fromkeys(range(span[0], span[0] + span[1]), span[2])
)
CHANGES = st.lists(
    st.tuples(st.lists(INDEX, unique=True, max_size=40), st.one_of(SPAN, st.dictionaries(INDEX, RECORD, max_size=40)))
)


def test_any_order_of_changes(server: Server) -> None:
    """A model knows the record of each delivery."""

    async def follow(link: Link, changes: list[tuple[list[int], dict[int, str]]]) -> None:
        model: dict[int, str] = {}
        asked = sorted({*PLACES, *(i for gone, records in changes for i in (*gone, *records))}, key=lambda i: i % 7)
        for gone, records in changes:
            only = [i for i in gone if i not in records]
            model = {i: record for i, record in model.items() if i not in only} | records
            expected = [model[i].encode() if i in model else None for i in asked]
            assert await change(link, only, records, asked) == expected
            assert set(await fields(link)) == {f"#{i // layout.TURNS}" for i in model}

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(CHANGES)
    def run(changes: list[tuple[list[int], dict[int, str]]]) -> None:
        async def main() -> None:
            async with empty(server) as link:
                await follow(link, changes)

        asyncio.run(main())

    run()


async def test_what_another_version_has_written_is_not_read(link: Link) -> None:
    await change(link, [], {1: "2", layout.TURNS: "2"}, [])
    await link.call("HSET", KEY, "#0", b"\x02newer")
    assert await change(link, [], {}, [layout.TURNS]) == [b"2"]
    assert await change(link, [], {}, [layout.TURNS, 1]) is None
