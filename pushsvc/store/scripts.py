"""The Lua scripts beside this file, by name. Each runs as one atomic step on the server.

A line `-- include: <name>` stands for the text of another file, since Redis has no modules for scripts.

EVALSHA sends the digest only; a server that does not know it (restarted, failed over, flushed) is told the text once.
`FUNCTION` would need Redis 7 and is not used.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha1
from importlib import resources
from typing import NamedTuple


class Script(NamedTuple):
    text: str
    sha: str


_CALLED = re.compile(r"redis\.p?call\(\s*'(XGROUP', '[A-Z]+|[A-Z]+)'")
_WITHOUT_LAST = "KEYS[#KEYS] = nil\n"


@cache
def load(name: str, *, whole: bool = False) -> Script:
    """The script of `<name>.lua`. `whole`: it is called with one more key, which is for Redis alone; see keys.py."""
    text = re.sub(r"^-- include: (\w+)$", lambda found: _read(found[1]), _read(name), flags=re.MULTILINE)
    if whole:
        text = _WITHOUT_LAST + text
    # SHA-1 is the name that Redis gives a script, not a safeguard.
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


@cache
def commands() -> frozenset[str]:
    """The commands that the scripts run; with a subcommand as `XGROUP|CREATE`."""
    found = set()
    for file in resources.files(__package__).iterdir():
        if file.name.endswith(".lua"):
            text = file.read_text(encoding="utf-8")
            found |= {name.replace("', '", "|") for name in _CALLED.findall(text)}
    return frozenset(found)


def _read(name: str) -> str:
    return (resources.files(__package__) / f"{name}.lua").read_text(encoding="utf-8")
