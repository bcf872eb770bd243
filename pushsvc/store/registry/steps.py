"""One step of a change of the registry: devices are read, a decision is made, and its changes are written.

What was read is the fence (`registry_apply.lua`): if another process was faster, the step starts again. So the form of
a document is known in one place, and the rules (`changes.py`) are Python that needs no server.

A change of a device that pushes may wait for is marked before it is made: see presence.py. The step that makes it also
appends the revocation that dispatchers follow, so that they learn of each change whose answer was lost, of one that
replicas did not confirm in time, and of one whose process has died.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeAlias, TypeVar

from ... import telemetry
from ...errors import StoreError, StoreUnavailable
from ...ports.live import InboxItem
from ...ports.registry import MOST_OF_USER, UserFull
from .. import keys
from ..link.commit import GroupCommit
from ..part import StoreContext, StorePart
from ..revoke.presence import Marks
from ..revoke.revocations import LIFETIME, marks_text
from .changes import ChangeSet, DeviceChange, joining_of, spare, successors_of, tokens_to_recheck
from .wire import Departed, DeviceQuery, Digests, Reading, cuts_of, read_found, waiting_of

T = TypeVar("T")
Poke: TypeAlias = Callable[[Mapping[str, Sequence[InboxItem]]], Awaitable[None]]
EndMoved: TypeAlias = Callable[[str, Sequence[Departed]], Awaitable[None]]

_TRIES = 200
"""How often a step may find that another writer was faster: one of those that compete always succeeds."""
_AT_ONCE = 3
"""Tries that follow each other at once; before each further one a writer waits for a random time."""
_LONGEST = 0.25
"""The maximum duration of such a wait in seconds."""
_FINDS = 64
"""Look-ups of one step: those of pushes to a device each come one by one."""
_ARGUMENTS = 500
"""Arguments with which a step takes no further look-up: it keeps others from Redis for a millisecond or two."""
_LEFT = telemetry.StateLog("store", "departed_left_waiting", "departed_still_left_waiting", "departed_ended")
"""Deliveries to devices that have changed could not be ended."""


class Steps(StorePart):
    """Reads and changes the devices of apps, each in one step."""

    def __init__(self, context: StoreContext, marks: Marks, *, poke: Poke, end_moved: EndMoved) -> None:
        """Work on the registries of this Redis. `poke` puts items into the inboxes of gateways of the live channel, and
        `end_moved` ends what has waited in the streams of devices that have changed."""
        super().__init__(context)
        self._marks = marks
        self._poke = poke
        self._end_moved = end_moved
        self._addresses = context.config.addresses
        self._digests = Digests(context.hash_key, self._addresses)
        self._finds: dict[str, GroupCommit[list[Any], list[Any]]] = {}

    async def find(self, app: str, question: DeviceQuery) -> Reading:
        """Return the devices that a question is about. Questions that come at once share a call of Redis."""
        if app not in self._finds:
            self._finds[app] = GroupCommit(partial(self._find_all, app), most=_FINDS, most_bytes=_ARGUMENTS)
        asked = self._digests.ask(question)
        return read_found(question, await self._finds[app].add(asked, len(asked)), self._addresses, app)

    async def change(
        self,
        app: str,
        about: DeviceQuery,
        decide: Callable[[ChangeSet], T],
        check: Callable[[Reading], None] = lambda _: None,
        *,
        erases: bool = False,
    ) -> T:
        """Read the devices, decide, and write the changes. `check` may reject what was read. What waits in the streams
        of devices that change ends, unless the caller `erases` them.

        Raises `UserFull`, and `StoreUnavailable` also if too many writers change the same devices.
        """
        for number in range(_TRIES):
            if number >= _AT_ONCE:
                await asyncio.sleep(random.random() * min(_LONGEST, 0.002 * 2 ** min(number, 10)))  # noqa: S311 - no secret
            found = await self.find(app, about)
            check(found)
            result = decide(found.change_set)
            changes = found.change_set.changes()
            try:
                if not changes or await self._carry_out(app, found, changes, erases=erases):
                    return result
            except UserFull:
                if not await self._make_room(app, changes):
                    raise
        raise StoreUnavailable("too many change the same devices at once")

    async def _make_room(self, app: str, changes: Sequence[DeviceChange]) -> bool:
        """Remove the oldest tombstones of users who would have too many devices. Returns whether that can help. A
        tombstone exists to be restored; it must not exclude a phone that is in use."""
        made = False
        for user, joining in joining_of(changes).items():
            own = (await self.find(app, DeviceQuery(users=[user]))).change_set.of_user(user)
            if ids := spare(own, joining):
                await self.change(app, DeviceQuery(ids=ids), partial(_remove_tombstones, ids))
                made = True
        return made

    async def _carry_out(self, app: str, found: Reading, changes: Sequence[DeviceChange], *, erases: bool) -> bool:
        """Mark what changes, apply it in one step, and wait until dispatchers and gateways hold nothing of it. Returns
        False if something has changed meanwhile. Raises `UserFull` if a user would have too many devices."""
        concerned = tokens_to_recheck(changes)
        if concerned:
            await self._marks.make(app, concerned, successors_of(changes))
        revoked = marks_text(token for _, token in concerned)
        args = [keys.devices(app), MOST_OF_USER, self._clock(), revoked, LIFETIME]
        args += self._digests.arguments(found, changes)
        done, *more = await self._link.script("registry_apply", [keys.device_counts(app)], args)
        if done < 0:
            raise UserFull([device.id for place in more if (device := changes[place].after)])
        if done:
            cuts, waiting, place = more
            if cuts:
                await self._poke(cuts_of(app, cuts))
            if place:
                await self._marks.applied(app, place.decode())
            if waiting and not erases:
                await self._end_waiting(app, waiting_of(changes, waiting))
        return bool(done)

    async def _end_waiting(self, app: str, waiting: Sequence[Departed]) -> None:
        """Try to end what has waited for the devices. The change is made; what remains ends when it is taken."""
        try:
            await self._end_moved(app, waiting)
        except StoreError as error:
            _LEFT.begin(app, app=app, error=str(error))
        else:
            _LEFT.end(app)

    async def _find_all(self, app: str, asked: Sequence[list[Any]]) -> list[Any]:
        """Return the answers to these questions, in one step unless they are of many devices."""
        answers: list[Any] = []
        while len(answers) < len(asked):
            args = [keys.devices(app), *chain.from_iterable(asked[len(answers) :])]
            answers += await self._link.script("registry_find", [keys.device_counts(app)], args)
        return answers


def _remove_tombstones(ids: Sequence[str], change_set: ChangeSet) -> None:
    change_set.revise(ids, lambda device: None if device.state == "pruned" else device)
