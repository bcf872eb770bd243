"""The Lua scripts of the store, by name. Each runs as one atomic step on the server.

A script stands in the folder of the module that calls it.

A line `-- include: <name>` stands for the text of another file, since Redis has no modules for scripts. A line
`-- layout: <NAME> <NAME> ..` stands for locals with the values that `layout.py` gives these names.

EVALSHA sends the digest only; a server that does not know it (restarted, failed over, flushed) is sent the text once.
`FUNCTION` would need Redis 7 and is not used.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import NamedTuple

from .. import layout

_FILES = {file.stem: file for file in Path(__file__).parents[1].glob("*/*.lua")}


class Script(NamedTuple):
    text: str
    sha: str


_CALLED = re.compile(r"\bp?call\(\s*'(XGROUP', '[A-Z]+|[A-Z]+)'")
_WITHOUT_LAST = "KEYS[#KEYS] = nil\n"


@cache
def load(name: str, *, whole: bool = False) -> Script:
    """Return the script of `<name>.lua`. `whole`: it is called with one more key, which is for Redis alone; see
    keys.py."""
    text = re.sub(r"^-- include: (\w+)$", lambda found: _read(found[1]), _read(name), flags=re.MULTILINE)
    text = re.sub(r"^-- layout: ([A-Z_ ]+)$", lambda found: _locals(found[1].split()), text, flags=re.MULTILINE)
    if whole:
        text = _WITHOUT_LAST + text
    # SHA-1 is the name that Redis gives a script, not a safeguard.
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


@cache
def commands() -> frozenset[str]:
    """Return the commands that the scripts run; with a subcommand as `XGROUP|CREATE`."""
    found = set()
    for name in _FILES:
        found |= {called.replace("', '", "|") for called in _CALLED.findall(_read(name))}
    return frozenset(found)


def _locals(names: list[str]) -> str:
    values: list[int] = [getattr(layout, name) for name in names]
    return f"local {', '.join(names)} = {', '.join(map(str, values))}"


def _read(name: str) -> str:
    return _FILES[name].read_text(encoding="utf-8")
