"""The codes of the client protocol: errors of a reply, and ends of a connection.

Source: https://centrifugal.dev/docs/server/codes
"""

from __future__ import annotations

from typing import Final, TypeAlias

from msgspec import Struct


class ReplyError(Struct, frozen=True, gc=False):
    """An error as the answer to one command. A client repeats a connect after a temporary one."""

    code: int
    message: str
    temporary: bool = False


class Disconnect(Struct, frozen=True, gc=False):
    """An end of a connection."""

    code: int
    reason: str

    @property
    def reconnect(self) -> bool:
        """Whether the client comes back by itself."""
        return not (3500 <= self.code < 4000 or 4500 <= self.code < 5000)


Refusal: TypeAlias = ReplyError | Disconnect
"""The answer to a connect or a refresh that is refused."""

INTERNAL: Final = ReplyError(100, "internal server error", temporary=True)
PERMISSION_DENIED: Final = ReplyError(103, "permission denied")
METHOD_NOT_FOUND: Final = ReplyError(104, "method not found")
ALREADY_SUBSCRIBED: Final = ReplyError(105, "already subscribed")
BAD_REQUEST: Final = ReplyError(107, "bad request")
NOT_AVAILABLE: Final = ReplyError(108, "not available")
TOKEN_EXPIRED: Final = ReplyError(109, "token expired")
TOO_MANY_REQUESTS: Final = ReplyError(111, "too many requests", temporary=True)
UNRECOVERABLE_POSITION: Final = ReplyError(112, "unrecoverable position")
NOT_FOUND: Final = ReplyError(404, "not found")
"""Ours: errors of an application have codes from 400 to 1999."""

INTERNAL_ERROR: Final = Disconnect(1011, "internal error")
"""Of WebSocket: the session of the connection has failed."""
SHUTDOWN: Final = Disconnect(3001, "shutdown")
EXPIRED: Final = Disconnect(3005, "connection expired")
SLOW: Final = Disconnect(3008, "slow")
INSUFFICIENT_STATE: Final = Disconnect(3010, "insufficient state")
FORCE_RECONNECT: Final = Disconnect(3011, "force reconnect")
NO_PONG: Final = Disconnect(3012, "no pong")
INVALID_TOKEN: Final = Disconnect(3500, "invalid token")
MALFORMED: Final = Disconnect(3501, "bad request")
STALE: Final = Disconnect(3502, "stale")
REVOKED: Final = Disconnect(3503, "force disconnect")
REPLACED: Final = Disconnect(4501, "replaced")
