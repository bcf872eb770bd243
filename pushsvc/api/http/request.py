"""A request as it was read from its connection, with its id, and its caller once that is known."""

from __future__ import annotations

import itertools
import os
import re
from typing import Final

from aiohttp import web
from multidict import istr

from .exchange import Caller

REQUEST_ID: Final = istr("X-Request-Id")
_OWN_ID: Final = re.compile(r"[!-~]{1,128}")

_process = ""
_numbers = itertools.count()


def _name_process() -> None:
    global _process  # of the process, as its id
    _process = os.urandom(8).hex()


_name_process()
os.register_at_fork(after_in_child=_name_process)


def new_request_id() -> str:
    """Return an id for a request without one: the id of this process with a counter, which costs next to nothing."""
    return f"{_process}{next(_numbers) & 0xFFFF_FFFF:08x}"


class ApiRequest(web.BaseRequest):
    """A request to the API. To look at aiohttp's own store for what belongs to a request costs several times more."""

    caller: Caller | None = None
    """Set by authentication, for the log and the metric."""
    _id = ""

    @property
    def id(self) -> str:
        """The caller's `X-Request-Id` if it has up to 128 visible ASCII characters, otherwise a new id."""
        if not self._id:
            given = self.headers.get(REQUEST_ID)
            self._id = given if given is not None and _OWN_ID.fullmatch(given) else new_request_id()
        return self._id

    @property
    def app(self) -> str:
        """The name of the caller's app, empty without one."""
        return "" if self.caller is None else self.caller.app.name
