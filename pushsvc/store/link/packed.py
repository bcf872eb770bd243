"""Commands are written by hiredis, as replies are read by it.

redis-py's asyncio connections encode each argument and join the pieces in Python, which made up a tenth of what the
dispatcher spends on a delivery of its own push; hiredis does it in one call. Connections to a cluster are made by
redis-py itself and keep its way.
"""

from __future__ import annotations

from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection


class Packed:
    """To be mixed in before one of redis-py's kinds of connection."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """One command as bytes. A name of two words, as in `SCRIPT LOAD`, is sent as two arguments."""
        name = args[0]
        if type(name) is str and " " in name:
            args = (*name.split(), *args[1:])
        return [hiredis.pack_command(args)]


def packed(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """The same kind of connection, which packs so."""
    return type(kind.__name__, (Packed, kind), {})
