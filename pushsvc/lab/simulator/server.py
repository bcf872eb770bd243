"""The simulator: a listening port for each platform and one for control, opened and closed together."""

from __future__ import annotations

import asyncio
import errno
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from ...errors import ConfigError
from .apns_provider import SimulatedApns
from .broadcast import Channels
from .certificates import Credentials, Keys, open_keys, write_credentials
from .config import SimulatorConfig
from .control import ControlApi
from .controls import Controls
from .halves import HALVES
from .http2 import Connection
from .inflow import Limits
from .provider import Clock, Setup, SimulatedProvider
from .record import Record


class Simulator(Controls):
    """The simulated platforms on loopback, in the caller's event loop. An async context manager::

        async with Simulator() as simulator:
            credentials = simulator.write_credentials(folder)
            ...  # push to simulator.apns_url and simulator.fcm_url
            assert simulator.record.apns.duplicates == 0

    The commands of `Controls` are its methods. `keys` may be shared by several simulators, so that a test session
    makes them once; `clock` gives Unix seconds and decides about ages of tokens. Raises `ConfigError` when a port is
    taken or the keys in the folder cannot be read.
    """

    control_url: str

    def __init__(
        self, config: SimulatorConfig | None = None, *, keys: Keys | None = None, clock: Clock = time.time
    ) -> None:
        config = SimulatorConfig() if config is None else config
        self.config = config
        if keys is None:
            keys = Keys() if config.folder is None else open_keys(Path(config.folder), config.key_id)
        self._keys = keys
        record = Record(config.keep, HALVES, enabled=config.record)
        providers = {
            name: half.make(Setup(config, keys, record.platforms[name], clock, lambda: self.control_url))
            for name, half in HALVES.items()
        }
        super().__init__(providers, record, clock)
        self._control = ControlApi(self)
        self.urls: dict[str, str] = {}
        """The URLs of the listening ports, by platform."""
        self._servers: list[asyncio.Server] = []
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        config = self.config
        try:
            for name, provider in self.providers.items():
                self.urls[name] = await self._listen(provider, getattr(config, f"{name}_port", 0), f"{name}_port")
            self.control_url = await self._listen_control(config.control_port)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _listen(self, provider: SimulatedProvider, port: int, name: str) -> str:
        config = self.config
        limits = Limits(config.connection_window, config.stream_window)
        context = self._keys.server_context(config.host, ["h2"])
        loop = asyncio.get_running_loop()

        def connect() -> Connection:
            return Connection(provider, limits, provider.record.traffic, provider.connections)

        try:
            server = await loop.create_server(connect, config.host, port, ssl=context, backlog=1024)
        except OSError as error:
            raise _cannot_listen(name, config.host, port, error) from error
        self._servers.append(server)
        return _url(config.host, server.sockets[0].getsockname()[1])

    async def _listen_control(self, port: int) -> str:
        config = self.config
        context = self._keys.server_context(config.host, ["http/1.1"])
        self._runner = web.AppRunner(self._control.application(), access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, config.host, port, ssl_context=context)
        try:
            await site.start()
        except OSError as error:
            raise _cannot_listen("control_port", config.host, port, error) from error
        return _url(config.host, self._runner.addresses[0][1])

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for provider in self.providers.values():
            for connection in list(provider.connections):
                connection.go_away(debug=provider.farewell)
                connection.close()
        await asyncio.sleep(0)  # the last bytes are sent before the sockets are closed
        for provider in self.providers.values():
            provider.drop_connections()
        if self._runner is not None:
            await _close_control(self._runner)
        for server in self._servers:
            await server.wait_closed()
        while any(provider.connections for provider in self.providers.values()):  # noqa: ASYNC110  # closed at the loop's next iteration
            await asyncio.sleep(0)
        self._servers.clear()

    @property
    def apns_url(self) -> str:
        return self.urls["apns"]

    @property
    def fcm_url(self) -> str:
        return self.urls["fcm"]

    @property
    def channels(self) -> Channels:
        """The broadcast channels of APNs."""
        apns = self.providers["apns"]
        assert isinstance(apns, SimulatedApns)
        return apns.channels

    def write_credentials(self, folder: Path) -> Credentials:
        """Write the files that an app is configured with: CA, p8 key, client certificate, service account (RSA: takes a
        moment). The service account's `token_uri` is this simulator's `/token`, so the simulator must be listening."""
        return write_credentials(self._keys, folder.absolute(), self.config, token_uri=f"{self.control_url}/token")


async def _close_control(runner: web.AppRunner) -> None:
    """Close the control port. A TLS connection would wait half a minute for its peer, which is not needed here."""
    handlers = [] if runner.server is None else runner.server.connections
    transports = [handler.transport for handler in handlers if handler.transport is not None]
    await runner.cleanup()
    for transport in transports:
        transport.abort()
    await asyncio.sleep(0)


def _url(host: str, port: int) -> str:
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _cannot_listen(name: str, host: str, port: int, error: OSError) -> ConfigError:
    why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be listened on: {error.strerror or error}"
    return ConfigError(f"simulator.{name}", f"{host}:{port} {why}", "choose another port, or 0 for any that is free")
