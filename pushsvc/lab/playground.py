"""A complete configuration around the simulator, in one folder, on which `demo` and `up --simulator` run. The folder
keeps certificates, credentials, the API key and the secret of connect tokens, so that a second start uses the same
ones."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..errors import StoreOwned
from ..settings.loading import SIMULATED
from .simulator import SimulatorHandle, sections_of, simulator_process

APP = "demo"

CONFIG = (
    f"{SIMULATED}, and rewritten at each start."
    + """
[server]
port = {port}

[store]
data_dir = "{data_dir}"

[logging]
level = "warning"

# Short waits, for a demonstration. The simulator accepts them.
[retry]
base = 0.2
apns_5xx = 0.5
fcm_5xx = 0.5
fcm_429 = 0.5

[apps.{app}]
[[apps.{app}.keys]]
name = "{app}"
sha256 = "{sha256}"
scopes = ["push", "devices", "feedback", "admin"]

{sections}"""
)

LIVE = """
[live]
port = {port}
drain = 1
max_connections = 1000

[apps.{app}.live]
secret = "{secret}"
ack_within = 2
"""


class Playground(Struct, frozen=True):
    """The paths and addresses of a playground."""

    config_file: Path
    api_key: str
    simulator: SimulatorHandle
    port: int
    live_port: int | None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def open_playground(folder: Path, *, port: int, live_port: int | None = None, **simulator: Any) -> Iterator[Playground]:
    """Start a simulator in a process of its own and write the configuration that points at it.

    With a `live_port` the app has the live channel too. `simulator` are fields of its `SimulatorConfig`. Raises
    `StoreOwned` while another process uses the folder, whose configuration would be overwritten.
    """
    folder = folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _own(folder), simulator_process(folder / "simulator", **simulator) as handle:
        api_key = _kept(folder / "api-key", "pk_")
        config_file = folder / "pushsvc.toml"
        text = CONFIG.format(
            port=port,
            data_dir=folder / "store",
            app=APP,
            sha256=hashlib.sha256(api_key.encode()).hexdigest(),
            sections=sections_of(APP, handle.urls, handle.credentials),
        )
        if live_port is not None:
            text += LIVE.format(app=APP, port=live_port, secret=_kept(folder / "live-secret", "ls_"))
        config_file.write_text(text)
        yield Playground(config_file, api_key, handle, port, live_port)


@contextmanager
def _own(folder: Path) -> Iterator[None]:
    """Lock the folder. The lock ends with this process however it ends, and no child inherits it."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode(errors="replace") or "unknown"
            raise StoreOwned(
                f"the playground in {folder} belongs to the running process {pid}: stop that one, "
                "or give this one another folder (store.data_dir)"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _kept(file: Path, prefix: str) -> str:
    """Return the secret in a file, which is made once."""
    if not file.exists():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(f"{prefix}{secrets.token_urlsafe(24)}")
    return file.read_text()
