"""Node, for tests of what runs in JavaScript: skipped at a desk without it, and failed in CI."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from typing import Final

import pytest

_NODE: Final = shutil.which("node")

needs_node: Final = pytest.mark.skipif(
    _NODE is None and not os.environ.get("CI"), reason="needs Node (Debian: apt-get install nodejs node-ws)"
)


@functools.cache
def node() -> tuple[str, ...]:
    """The command of Node, with its own WebSocket where that is behind a flag; before, there is the package `ws`."""
    assert _NODE is not None, "install Node"
    version = subprocess.run([_NODE, "--version"], capture_output=True, text=True, check=True).stdout
    return (_NODE, "--experimental-websocket") if version.split(".")[0] in ("v20", "v21") else (_NODE,)
