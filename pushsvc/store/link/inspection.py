"""Inspects a server for `pushsvc check`: its version and settings, the permissions of the user, and its clock."""

from __future__ import annotations

import time
from typing import Any, Final

from redis.exceptions import ResponseError

from ...ports.store import Inspection
from .. import keys
from .link import Link
from .permissions import forbidden

NEEDED: Final = ["XAUTOCLAIM", "XADD", "XREADGROUP", "XPENDING", "XCLAIM", "BITFIELD", "ZADD", "HSET", "EVALSHA"]
"""The newest of them is XAUTOCLAIM: Redis 6.2, and every Valkey."""

_MISSING_COMMANDS: Final = """
local missing = {}
for _, name in ipairs(ARGV) do
  if not redis.call('COMMAND', 'INFO', name)[1] then missing[#missing + 1] = name end
end
return missing
"""
# Asked in a script because redis-py 8.1 fails on the answer for a command that there is not.


async def inspect(link: Link) -> Inspection:
    """Return the server's version, settings, permissions and clock."""
    info = await _permitted(link, "INFO")
    missing = await _permitted(link, "EVAL", _MISSING_COMMANDS, 0, *NEEDED)
    return Inspection(
        info=info,
        missing=None if missing is None else [name.decode() for name in missing],
        forbidden=[] if missing is None else await forbidden(link),
        ahead=await clock_ahead(link),
        unidentified=await link.unidentified(),
    )


async def _permitted(link: Link, *command: Any) -> Any:
    """Return the answer to a command, or None if this user of Redis may not run it. The service works without these."""
    answer = await link.call(*command, errors=True)
    if isinstance(answer, ResponseError):
        message = str(answer).lower()
        if "permission" in message or "can't run this command" in message:  # the latter within a script
            return None
    return link.raised([answer])[0]


async def clock_ahead(link: Link) -> float:
    """Return the seconds by which Redis' clock is ahead of this machine's."""
    before = time.time()
    at: int = await link.script("now", [keys.PROBE], [])
    return at / 1000 - (before + time.time()) / 2
