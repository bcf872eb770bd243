"""The id of a request, which its answer and its lines in the log carry."""

from __future__ import annotations

import itertools
import os
import re
from typing import Final

HEADER: Final = "X-Request-Id"
_OWN: Final = re.compile(r"[!-~]{1,128}")

_process = ""
_numbers = itertools.count()


def _name_process() -> None:
    global _process  # of the process, as its id
    _process = os.urandom(8).hex()


_name_process()
os.register_at_fork(after_in_child=_name_process)


def request_id(given: str | None) -> str:
    """Return the caller's `X-Request-Id` if it has up to 128 visible ASCII characters. Otherwise return a new id: that
    of this process with a counter, which costs next to nothing."""
    if given is not None and _OWN.fullmatch(given):
        return given
    return f"{_process}{next(_numbers) & 0xFFFF_FFFF:08x}"
