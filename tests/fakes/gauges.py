"""Figures of the store in memory, counted at each call."""

from __future__ import annotations

from collections.abc import Sequence

from pushsvc.model.push import LANES, Lane, Platform, Route
from pushsvc.ports.figures import AppGauges

from .state import State

_Counted = dict[Platform, dict[Lane, int]]


def figures(state: State, app: str, platforms: Sequence[Platform]) -> AppGauges:
    """Where one app stands."""
    pending: _Counted = {platform: dict.fromkeys(LANES, 0) for platform in platforms}
    entries: _Counted = {platform: dict.fromkeys(LANES, 0) for platform in platforms}
    in_flight: _Counted = {platform: dict.fromkeys(LANES, 0) for platform in platforms}
    consumers: _Counted = {platform: dict.fromkeys(LANES, 0) for platform in platforms}
    records = [record for (owner, _), record in state.pushes.items() if owner == app]
    for record in records:
        for index, channel in record.places.items():
            if channel in pending and index not in record.ended:
                pending[channel][record.push.lane] += 1
    for platform in platforms:
        for lane in LANES:
            stream = state.lanes[app, platform, lane]
            owners = [owner for owner in stream.owner.values() if owner is not None]
            entries[platform][lane] = len(stream.entries)
            in_flight[platform][lane] = len(owners)
            consumers[platform][lane] = len(set(owners))
    return AppGauges(
        pending=pending,
        retry_pending={
            platform: sum(len(chunk.targets) for _, chunk in state.retries[Route(app, platform)])
            for platform in platforms
        },
        scheduled=sum(record.left for record in records if record.state == "scheduled"),
        entries=entries,
        in_flight=in_flight,
        consumers=consumers,
        suppressed={
            platform: sum(1 for entry in state.suppressed if entry[:2] == (app, platform)) for platform in platforms
        },
        dead_letters=len(state.dead[app]),
        receipts=len(state.receipts[app].entries),
        events=len(state.events[app]),
        quarantined=0,
        by_shard=[sum(record.left for record in records)],
    )
