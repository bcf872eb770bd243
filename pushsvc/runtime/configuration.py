"""The configuration, with the providers' own sections."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from ..providers import REGISTRY
from ..settings.environment import misspelt
from ..settings.loading import load
from ..settings.schema import Settings, settings_type


def load_settings(path: Path | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Load the configuration of a file and the environment. Raises `ConfigError`."""
    return load(path, environ, providers=_sections(), kind=configured_type())


def misspelt_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the right name for each variable that is ignored, and would set a key if its underscores were right."""
    return misspelt(environ, configured_type(), _sections())


def configured_type() -> type[Settings]:
    """Return the type of the whole configuration: `Settings` with the keys that the providers add."""
    return settings_type({kind.platform: kind.defaults for kind in REGISTRY.values()})


def _sections() -> dict[str, type[Struct]]:
    return {route: kind.config for route, kind in REGISTRY.items()}
