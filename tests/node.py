"""Node, for tests of what runs in JavaScript: skipped at a desk without it, and failed in CI."""

from __future__ import annotations

import os
import shutil
from typing import Final

import pytest

NODE: Final = shutil.which("node") or "node"

needs_node: Final = pytest.mark.skipif(
    shutil.which("node") is None and not os.environ.get("CI"), reason="needs Node: install `nodejs`"
)
