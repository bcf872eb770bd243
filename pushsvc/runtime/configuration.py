"""The configuration, with the providers' own sections."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..providers import REGISTRY
from ..settings.loading import load
from ..settings.schema import Settings, settings_type


def load_settings(path: Path | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Load the configuration of a file and the environment. Raises `ConfigError`."""
    sections = {route: kind.config for route, kind in REGISTRY.items()}
    return load(path, environ, providers=sections, kind=configured_type())


def configured_type() -> type[Settings]:
    """Return the type of the whole configuration: `Settings` with the keys that the providers add."""
    return settings_type({kind.platform: kind.defaults for kind in REGISTRY.values()})
