"""Whatever lies in Redis: bytes are a value of the model, or refused by name, and nothing else is ever raised."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pushsvc.model.codec import (
    VERSION,
    CodecError,
    decode_audience,
    decode_chunk,
    decode_event,
    decode_push,
    decode_receipt,
    decode_row,
    decode_rows,
)
from pushsvc.store.queue.letter import decode_dead

DECODERS = (
    decode_chunk,
    decode_row,
    decode_rows,
    decode_receipt,
    decode_event,
    decode_push,
    decode_audience,
    decode_dead,
)


@pytest.mark.parametrize("decode", DECODERS)
@example(b"\x91\xa1\xff")  # text that is no UTF-8
@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_refused(decode: Callable[[bytes], object], blob: bytes) -> None:
    try:
        value = decode(VERSION + blob)
    except CodecError:
        return
    assert value is not None


@pytest.mark.parametrize("decode", DECODERS)
def test_another_version_is_refused(decode: Callable[[bytes], object]) -> None:
    with pytest.raises(CodecError, match="newer pushsvc"):
        decode(b"\x02\x90")
