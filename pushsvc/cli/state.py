"""The state that the root command passes to its commands: the configuration's location, and how to read it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..imports import import_without

if TYPE_CHECKING:
    from ..settings.schema import Settings


PLAYGROUND: Final = Path("var/playground/pushsvc.toml")
"""The configuration that `pushsvc up --simulator` writes for its playground, in the working directory."""


@dataclass
class State:
    """The `obj` of every command's context."""

    config: Path | None = None
    seeks: bool = True
    """Whether the playground is used where no configuration is named; not by a part of the service."""
    alone: bool = False
    """Whether the process runs this command and nothing else, so that what it changes in itself ends with it."""

    def find_playground(self) -> None:
        """Use the configuration of the playground in the working directory where none is named, neither as a file nor
        by a key in the environment, and report that."""
        named = any(name.upper().startswith("PUSHSVC__") for name in os.environ)
        if self.seeks and self.config is None and not named and PLAYGROUND.is_file():
            self.config = PLAYGROUND
            print(f"using the playground: --config {PLAYGROUND}", file=sys.stderr)

    def settings(self) -> Settings:
        """Return the whole configuration, and configure logging by it. Raises `ConfigError`."""
        settings = self.read()
        self.log(settings)
        return settings

    def read(self) -> Settings:
        """Return the whole configuration. Raises `ConfigError`."""
        self.find_playground()
        # rich would make tracebacks of its own, which the logs do not have: 6 MB in each process.
        import_without("structlog", "rich")
        from ..runtime.configuration import load_settings

        return load_settings(self.config)

    def log(self, settings: Settings) -> None:
        """Configure logging. Raises `ConfigError`."""
        from ..telemetry import configure_logging

        configure_logging(settings.logging.level, json=settings.logging.json)

    def step_back(self, nice: int) -> None:
        """Leave the CPU to other processes of this machine that want it, by at least this nice value. A process that
        does other work besides keeps its priority, which it may not raise again."""
        if self.alone:
            os.setpriority(os.PRIO_PROCESS, 0, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))

    def server_url(self) -> str:
        """Return the URL by which this machine reaches the configured server. Raises `ConfigError`."""
        from ..settings.loading import load_server

        self.find_playground()
        server = load_server(self.config, os.environ)
        return local_url(server.host, server.port)


def local_url(host: str, port: int, scheme: str = "http") -> str:
    """Return the URL by which this machine reaches a server that is bound to this address."""
    # What is bound to every address answers on loopback too.
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
