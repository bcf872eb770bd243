"""The configuration, with the providers' own sections."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..providers import REGISTRY
from ..settings import Settings, load


def load_settings(path: Path | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The configuration of a file and the environment. Raises `ConfigError`."""
    return load(path, environ, providers={platform: kind.config for platform, kind in REGISTRY.items()})
