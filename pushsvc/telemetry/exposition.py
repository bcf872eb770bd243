"""The exposition of all metrics, and a small HTTP listener for processes without another server.

If the environment names a folder in `PROMETHEUS_MULTIPROC_DIR` before this module is imported, each process stores its
values in files there, and `exposition()` in any of them returns the sum over all: so one scrape of the API shows a
whole `pushsvc up` (https://prometheus.github.io/client_python/multiprocess/). Gauges cover running processes only, so
the parent of the processes must call `SharedFolder.ended` when one of them has ended.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Gauge,
    Metric,
    generate_latest,
    multiprocess,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.mmap_dict import mmap_key
from prometheus_client.registry import Collector

from ..errors import ConfigError
from ..wording import other_port
from . import metrics
from .figures import FIGURES
from .metrics import CHILD_RESTARTS
from .requests import HTTP
from .values import SharedValues

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
"""The `Content-Type` of `exposition()`."""

MULTIPROCESS_ENV: Final = "PROMETHEUS_MULTIPROC_DIR"

_LEAVING: Final = 1.0
"""Seconds that an answer may take when the listener stops, and as many again where its client does not read it."""
_CLAIM: Final = "claim-"
"""How the names of files begin that stand for what was claimed."""

# prometheus_client decides where values live when it is imported, and never again.
_MULTIPROCESS = MULTIPROCESS_ENV in os.environ


def exposition() -> bytes:
    """Return every metric in Prometheus' text format: of this process, or of all that share the multiprocess folder.
    Name and kind of a metric are there before its first series."""
    HTTP.flush()
    if not _MULTIPROCESS:
        return generate_latest(REGISTRY)
    # A registry of its own each time: it holds only what the files say now.
    registry = CollectorRegistry()
    registry.register(_Shared())
    for figure in FIGURES:
        registry.register(figure)
    return generate_latest(registry)


class _Shared(Collector):
    """The metrics of all processes that share the folder: of the files, and those that no process has counted yet."""

    def collect(self) -> Iterable[Metric]:
        files = multiprocess.MultiProcessCollector(None)  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped
        counted: list[Metric] = list(files.collect())  # type: ignore[no-untyped-call]  # as above
        names = {metric.name for metric in counted}
        own = [each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)]
        return [*counted, *(metric for each in own for metric in each.describe() if metric.name not in names)]


def claim(name: str) -> bool:
    """Return whether this process is the first to claim a name, of all that share the multiprocess folder: what all of
    them see is reported by one."""
    folder = os.environ.get(MULTIPROCESS_ENV)
    if not folder:
        return True
    try:
        (Path(folder) / f"{_CLAIM}{name}").touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # two reports are better than none
        return True
    return True


def forget(gauge: Gauge, *labels: str, value: float = 0.0) -> None:
    """Remove a series of something that has ended. If processes share a folder, set it to `value` instead. The files of
    a shared folder cannot lose a series."""
    gauge.labels(*labels).set(value)
    if not _MULTIPROCESS:
        gauge.remove(*labels)


class SharedFolder:
    """The folder of processes that share their metrics, for the parent that runs them. Files of processes that have
    ended stay, because their counters still count. Each process has the descriptors `held` open: the folder is in use
    until all have ended."""

    def __init__(self, path: Path, *held: int) -> None:
        self.path = path
        self.held = held

    def ended(self, pid: int) -> None:
        """Forget the gauges of a process that has ended; its counters stay."""
        multiprocess.mark_process_dead(pid, str(self.path))  # type: ignore[no-untyped-call]  # as above

    def restarted(self, part: str) -> None:
        """Count that a process of a part ended by itself and is started again."""
        # The parent was started without the folder, so it writes the file of its counters itself.
        (family,) = CHILD_RESTARTS.describe()
        key = mmap_key(family.name, f"{family.name}_total", ["part"], [part], family.documentation)
        with closing(SharedValues(str(self.path / f"counter_{os.getpid()}.db"))) as values:
            count, _ = values.read_value(key)
            values.write_value(key, count + 1.0, 0.0)


@asynccontextmanager
async def serve_metrics(host: str, port: int) -> AsyncIterator[int]:
    """Serve `/metrics` and `/healthz` while the block lasts. Yields the port (`port` 0 takes a free one). Raises
    `ConfigError` if the address cannot be bound."""
    # Commands that serve nothing do not pay for this import.
    from aiohttp import web

    async def exposed(_: web.Request) -> web.Response:
        return web.Response(body=exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.add_routes([web.get("/metrics", exposed), web.get("/healthz", healthz)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_LEAVING)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            what = f"cannot listen on {host}:{port}: {error.strerror}"
            raise ConfigError("metrics.port", what, f"{other_port('metrics')}; 0 for none") from None
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
