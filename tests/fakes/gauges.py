"""Figures of the store in memory, counted at each call."""

from __future__ import annotations

from collections.abc import Sequence

from pushsvc.model.push import LANES, Lane, Platform, Route
from pushsvc.ports.figures import AppGauges

from .state import State


def figures(state: State, app: str, platforms: Sequence[Platform]) -> AppGauges:
    """Where one app stands."""
    pending: dict[Platform, dict[Lane, int]] = {platform: dict.fromkeys(LANES, 0) for platform in platforms}
    records = [record for (owner, _), record in state.pushes.items() if owner == app]
    for record in records:
        for index, channel in record.places.items():
            if channel in pending and index not in record.ended:
                pending[channel][record.push.lane] += 1
    waiting = {platform: _marks_of(state, Route(app, platform)) for platform in platforms}
    return AppGauges(
        pending=pending,
        retry_pending={platform: marks.count("") for platform, marks in waiting.items()},
        ack_pending={platform: marks.count("w") for platform, marks in waiting.items()},
        scheduled=sum(record.left for record in records if record.state == "scheduled"),
        suppressed={
            platform: sum(1 for entry in state.suppressed if entry[:2] == (app, platform)) for platform in platforms
        },
        dead_letters=len(state.dead[app]),
        receipts=len(state.receipts[app].entries),
        events=len(state.events[app]),
        quarantined=0,
        by_shard=[sum(record.left for record in records)],
    )


def _marks_of(state: State, route: Route) -> list[str]:
    """For each open delivery in the retry set of a route, `w` where it waits for its device, else nothing."""
    found = []
    for _, chunk in state.retries[route]:
        record = state.pushes[chunk.app, chunk.push_id]
        open_ones = [target.index for target in chunk.targets if record.open(target.index, chunk.turn)]
        found += [record.marks.get(index, "").strip("f") for index in open_ones]
    return found
