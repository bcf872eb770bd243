"""The handlers for dead letters and replays."""

from __future__ import annotations

from ...errors import NotFound
from ...ports.letters import DeadFilter, ReplaySpec, ReplayStatus
from ..http.exchange import Reply, Request
from ..ports import ApiPorts
from .document import DeadLetterPage, ReplayAccepted, read_filter, shown, shown_replay


async def get_failed(ports: ApiPorts, request: Request) -> Reply:
    """Return a page of dead letters."""
    query = request.params
    which = read_filter(query)
    rows, cursor = await ports.dead.page(request.app.name, which, cursor=query["cursor"] or "", limit=query["limit"])
    return Reply(DeadLetterPage([shown(row) for row in rows], cursor))


async def post_replay(ports: ApiPorts, request: Request, asked: tuple[DeadFilter, int, float, bool]) -> Reply:
    """Request a replay: 202 once it is in Redis, where a worker takes it up. A dry run only counts."""
    which, limit, rate, dry_run = asked
    if dry_run:
        matched = await ports.dead.count(request.app.name, which)
        return Reply(ReplayAccepted.of(None, min(matched, limit) if limit else matched, which), 202)
    status = await ports.dead.request(ReplaySpec(request.app.name, which, limit, rate))
    matched = min(status.matched, limit) if limit else status.matched
    return Reply(ReplayAccepted.of(status.job, matched, which), 202, {"Location": f"/v1/failed/replay/{status.job}"})


async def get_replay(ports: ApiPorts, request: Request) -> Reply:
    """Return the progress of a replay."""
    return _shown(await ports.dead.replay(request.app.name, request.params["job"]))


async def delete_replay(ports: ApiPorts, request: Request) -> Reply:
    """Stop a replay; the remaining dead letters stay."""
    return _shown(await ports.dead.stop(request.app.name, request.params["job"]))


def _shown(status: ReplayStatus | None) -> Reply:
    if status is None:
        raise no_replay()
    return Reply(shown_replay(status))


def no_replay() -> NotFound:
    """Return the refusal for an unknown replay."""
    return NotFound("No replay has this id; replays are kept for a week.")
