"""Notes what flows through this process in the store, for the rates of the last hours, and reads them there.

The counters are those of the metrics, so that whatever is counted there needs nothing of its own here. They belong to
the whole process, as does the record of what was noted of them, and the note whose answer was lost: it is made again,
and counted once, before another one.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeAlias

from prometheus_client.metrics import MetricWrapperBase

from ... import telemetry
from ...background import repeated
from ...errors import StoreError
from ...ports.figures import Flow, FlowNote

EVERY: Final = 4.0
"""Seconds between two notes: less than half a slot."""

_Counts: TypeAlias = dict[tuple[str, str], int]
"""By app and name."""
_PROCESS: Final = secrets.token_hex(4)
_noted: _Counts = {}
_unsure: FlowNote | None = None
"""A note that may have been made."""
_one_at_a_time: Final = asyncio.Semaphore(1)


def _counted() -> _Counts:
    """Return what this process has counted so far."""
    telemetry.HTTP.flush()
    found: Counter[tuple[str, str]] = Counter()
    for metric, ending, name_of in _SOURCES:
        for family in metric.collect():
            for sample in family.samples:
                if sample.name.endswith(ending):
                    found[sample.labels["app"], name_of(sample.labels)] += int(sample.value)
    for family in telemetry.PROVIDER_SECONDS.collect():
        low, below = "0", 0
        for sample in family.samples:  # the buckets of a series in their order, each with those below it
            if sample.name.endswith("_bucket"):
                labels, count = sample.labels, int(sample.value)
                found[labels["app"], f"took:{labels['platform']}:{low}:{labels['le']}"] += count - below
                low, below = (labels["le"], count) if labels["le"] != "+Inf" else ("0", 0)
    return dict(found)


_SOURCES: Final[tuple[tuple[MetricWrapperBase, str, Callable[[Mapping[str, str]], str]], ...]] = (
    (telemetry.ACCEPTED, "_total", lambda labels: "accepted"),
    (telemetry.DELIVERIES, "_total", lambda labels: f"ended:{labels['platform']}:{labels['outcome']}"),
    (telemetry.DELIVERY_SECONDS, "_count", lambda labels: f"out:{labels['lane']}"),
)


def _take() -> dict[str, dict[str, int]]:
    """Return what was counted since the last call, by app and name."""
    global _noted  # global for the process, like its metrics
    before, _noted = _noted, _counted()
    found: dict[str, dict[str, int]] = {}
    for (app, name), count in _noted.items():
        if (more := count - before.get((app, name), 0)) > 0:
            found.setdefault(app, {})[name] = more
    return found


@asynccontextmanager
async def noting(flow: Flow, apps: Callable[[], Collection[str]] = tuple) -> AsyncIterator[None]:
    """Note what this process counts while the block lasts, and how much waits of these apps. Without Redis it is noted
    once Redis is back."""
    async with repeated(EVERY, lambda: note(flow, apps()), "flow"):
        yield


async def note(flow: Flow, apps: Collection[str] = ()) -> None:
    """Note once what this process has counted, and how much waits of these apps. Nothing is done while another call
    does it."""
    global _unsure  # as `_noted`
    if _one_at_a_time.locked():
        return
    async with _one_at_a_time:
        with suppress(StoreError):
            if _unsure is not None:
                await flow.note(_unsure)
            _unsure = FlowNote(f"{os.getpid()}-{_PROCESS}", secrets.token_hex(4), flow.slot, _take())
            await flow.note(_unsure)
            _unsure = None
            if apps:
                await flow.note_waiting(apps)


def quantile(counts: Mapping[str, int], platform: str, share: float) -> float | None:
    """Return the seconds within which a share of the provider's answers came, as Prometheus estimates it: linear within
    a bucket, and the last finite bound for what is above it. None without answers. Pure."""
    buckets: list[tuple[float, float, int]] = []
    for name, count in counts.items():
        kind, _, rest = name.partition(f":{platform}:")
        if kind == "took" and rest:
            least, _, most = rest.partition(":")
            buckets.append((float(least), float(most), count))
    passed, wanted = 0, share * sum(count for *_, count in buckets)
    for low, high, count in sorted(buckets):
        if count and passed + count >= wanted:
            return low if high == float("inf") else low + (high - low) * (wanted - passed) / count
        passed += count
    return None


def summed(slots: Iterable[Mapping[str, int]]) -> Counter[str]:
    """Return the sum of several slots by name. Levels (`waiting:`) have no sum and are left out. Pure."""
    found: Counter[str] = Counter()
    for slot in slots:
        for name, count in slot.items():
            if not name.startswith("waiting:"):
                found[name] += count
    return found
