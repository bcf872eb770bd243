"""The held routes that a push waits for."""

from __future__ import annotations

from collections.abc import Mapping

from ...model.status import PushStatus
from ...ports.pushes import PushLists


async def holds_of(status: PushStatus, held: Mapping[str, str], pushes: PushLists) -> dict[str, str]:
    """Return which of the `held` routes a push waits for, with the reason.

    These are the ones that its content is for, or all of its app if nothing is left that says which these are.
    """
    own = {name: why for name, why in held.items() if name.startswith(f"{status.app}/")}
    kept = await pushes.kept(status.app, status.id) if own else None
    if kept is None or not kept.messages:
        return own
    return {name: why for name, why in own.items() if name.split("/")[1] in kept.messages}
