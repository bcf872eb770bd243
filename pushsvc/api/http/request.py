"""A request as it was read from its connection, with its id, and its caller once that is known."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from multidict import istr

from ...net.request_id import HEADER, request_id
from .exchange import Caller

REQUEST_ID: Final = istr(HEADER)


class ApiRequest(web.BaseRequest):
    """A request to the API. To look at aiohttp's own store for what belongs to a request costs several times more."""

    caller: Caller | None = None
    """Set by authentication, for the log and the metric."""
    _id = ""

    @property
    def id(self) -> str:
        """The id of the request, the same each time."""
        if not self._id:
            self._id = request_id(self.headers.get(REQUEST_ID))
        return self._id

    @property
    def app(self) -> str:
        """The name of the caller's app, empty without one."""
        return "" if self.caller is None else self.caller.app.name
