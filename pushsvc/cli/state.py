"""The state that the root command passes to its commands: the configuration's location, and how to read it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..settings import Settings


@dataclass
class State:
    """The `obj` of every command's context."""

    config: Path | None = None

    def settings(self) -> Settings:
        """Return the whole configuration, and configure logging by it. Raises `ConfigError`."""
        # Reading it needs each provider's section, and so each provider's SDK: about a second.
        from ..runtime import load_settings
        from ..telemetry import configure_logging

        settings = load_settings(self.config)
        configure_logging(settings.logging.level, json=settings.logging.json)
        return settings

    def server_url(self) -> str:
        """Return the URL by which this machine reaches the configured server. Raises `ConfigError`."""
        from ..settings import load_server

        server = load_server(self.config, os.environ)
        return local_url(server.host, server.port)


def local_url(host: str, port: int, scheme: str = "http") -> str:
    """Return the URL by which this machine reaches a server that is bound to this address."""
    # What is bound to every address answers on loopback too.
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
