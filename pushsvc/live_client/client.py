"""Joins a client of the official SDK with the app: what the sequencer decides is done here, and tried again."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from .sequencer import (
    Ack,
    Handle,
    History,
    Message,
    Missing,
    Position,
    Publication,
    Retry,
    Sequencer,
    Show,
    State,
    Step,
)

CHANNEL = "device"
PAGE = 100
_UNRECOVERABLE_POSITION, _BAD_REQUEST, _NOT_FOUND = 112, 107, 404

_T = TypeVar("_T")


class Storage(Protocol):
    """Keeps the state between two runs of an app."""

    async def load(self) -> State | None:
        """Return what was saved last, or None."""

    async def save(self, state: State) -> None:
        """Replace what was saved."""


class FileStorage:
    """Keeps the state in a file, which is replaced as a whole."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    async def load(self) -> State | None:
        try:
            text = await asyncio.to_thread(self._path.read_text, encoding="utf-8")
        except FileNotFoundError:
            return None
        state: State = json.loads(text)
        return state

    async def save(self, state: State) -> None:
        """Replace the file."""
        await asyncio.to_thread(self._replace, json.dumps(state))

    def _replace(self, text: str) -> None:
        beside = self._path.with_name(self._path.name + ".new")
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)


def connect_data(
    *,
    heartbeat: float | None = None,
    foreground: bool | None = None,
    app_version: str | None = None,
    protobuf: bool = False,
) -> Any:
    """Return `data` for the SDK's client: the requested seconds between pings, whether the app is seen, its version."""
    fields = {"heartbeat": heartbeat, "foreground": foreground, "app_version": app_version}
    data = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(data).encode() if protobuf else data


class LiveClient:
    """Joins a client of the SDK with a `Sequencer`.

    `on_message` shows or stores one message, and is called for one at a time. Where it raises, it is called again,
    after 1 s at first and 60 s at most, and nothing behind the message is handled meanwhile; to give a message up,
    return. `on_missing` gets how many messages at most are lost (None: that is not known), `on_unread` the
    number of the user's unread messages, `on_error` what failed and is tried again. Without `storage` only the
    server's own position keeps a restarted app from showing a message again.
    """

    def __init__(
        self,
        client: Any,
        on_message: Callable[[Message], Awaitable[None]],
        *,
        on_missing: Callable[[int | None], None] | None = None,
        on_unread: Callable[[int], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
        storage: Storage | None = None,
        memory: int = 500,
        protobuf: bool = False,
    ) -> None:
        """Take a `centrifuge.Client` that is not connected yet. Its own event handler goes on being called."""
        if not all(hasattr(client, name) for name in ("rpc", "history", "connect", "events")):
            raise TypeError(
                "`client` is not a client of the official SDK: `pip install centrifuge-python`, and give "
                f"a `centrifuge.Client`, not {type(client).__name__}"
            )
        self._client = client
        self._on_message = on_message
        self._on_missing = on_missing
        self._on_unread = on_unread
        self._on_error = on_error
        self._storage = storage
        self._memory = memory
        self._protobuf = protobuf
        self._sequencer: Sequencer | None = None
        self._loading = asyncio.Lock()
        self._saving = asyncio.Lock()
        self._reply: Mapping[str, Any] = {}
        self._generation = 0
        """Of the connection, so that late answers of an earlier one are dropped."""
        self._acking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        client.events = _Events(self, client.events)

    async def connect(self) -> None:
        """Load what was stored, and connect."""
        await self._load()
        await self._client.connect()

    async def disconnect(self) -> None:
        """Wait for the acknowledgement that is on its way, and disconnect. The handler is cancelled, unless it is the
        caller; the next connection begins with its message."""
        if self._acking is not None:
            await asyncio.wait([self._acking])
        self._generation += 1
        await self._client.disconnect()
        caller = asyncio.current_task()
        while tasks := self._tasks - {caller}:  # A handler that ignores it has another one follow.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._sequencer is not None and caller not in self._tasks:
            self._run(self._sequencer.stopped())

    async def settled(self) -> None:
        """Wait until everything that has come was handled and acknowledged."""
        sequencer = await self._load()
        while not sequencer.settled:
            self._changed.clear()
            await self._changed.wait()

    async def received(self, push_id: str) -> bool:
        """Return whether the app is to show a copy that a provider brought: each message is shown once."""
        steps = (await self._load()).received(push_id)
        self._run(steps)
        show = isinstance(steps[0], Show)
        if show:
            await self._save()
        return show

    async def read(self, message: Message | None = None) -> int:
        """Note that the user has read everything up to a message, by default all that was shown. Return what is
        unread."""
        position = (await self._load()).position if message is None else message
        unread: int = (await self._call("read", {"offset": position.offset, "epoch": position.epoch}))["unread"]
        self._notify_unread({"unread": unread})
        return unread

    async def event(
        self, push_id: str, event: Literal["arrived", "shown", "opened", "dismissed"], at: datetime | None = None
    ) -> bool:
        """Report what has become of a push, whichever channel it came by. Return whether it was counted."""
        when = (at or datetime.now(UTC)).isoformat()
        counted: bool = (await self._call("event", {"id": push_id, "event": event, "at": when}))["counted"]
        return counted

    async def heartbeat(self, seconds: float | None = None, *, foreground: bool | None = None) -> float:
        """Request another interval between pings, or report whether the app is seen. Return the seconds in force."""
        fields = {"seconds": seconds, "foreground": foreground}
        data = {name: value for name, value in fields.items() if value is not None}
        agreed: float = (await self._call("heartbeat", data))["heartbeat"]
        return agreed

    async def history(self, *, before: int | None = None, since: int | None = None, limit: int = PAGE) -> list[Message]:
        """Return a page of the stream: of older messages, newest first, or of those since an offset."""
        epoch = (await self._load()).position.epoch
        start = before if since is None else since
        page = await self._client.history(
            CHANNEL,
            limit=limit,
            since=None if start is None else Position(epoch, start),
            reverse=since is None,
        )
        found = (self._publication(each) for each in page.publications)
        return [Message(each.data["id"], each.offset, epoch, each.data) for each in found]

    async def fetch(self, push_id: str) -> Mapping[str, Any]:
        """Return the whole content of a message that came as a notice."""
        content: Mapping[str, Any] = await self._call("fetch", {"id": push_id})
        return content

    # --- What the SDK reports ----------------------------------------------------------------------------------------

    def _connected(self, data: Any) -> None:
        if self._sequencer is None:
            raise RuntimeError("call `connect` of the LiveClient, not of the SDK's client")
        self._protobuf = self._protobuf or isinstance(data, bytes)
        self._reply = _decode(data) or {}
        self._notify_unread(self._reply)

    def _subscribed(self, epoch: str, offset: int, recovered: bool) -> None:
        assert self._sequencer is not None
        self._generation += 1
        acked, missing = self._reply.get("acked"), self._reply.get("missing", 0)
        self._run(self._sequencer.subscribed(epoch, offset, recovered=recovered, acked=acked, missing=missing))

    def _published(self, publication: Any) -> None:
        assert self._sequencer is not None
        found = self._publication(publication)
        self._notify_unread(found.data)
        self._run(self._sequencer.publication(found))

    # --- What is to be done ------------------------------------------------------------------------------------------

    def _run(self, steps: Sequence[Step]) -> None:
        assert self._sequencer is not None
        for step in steps:
            match step:
                case Handle(message):
                    self._spawn(self._handle(message))
                case Retry(push_id, attempt):
                    self._spawn(self._retry(push_id, attempt))
                case Ack():
                    self._acking = self._spawn(self._ack(step, self._generation))
                case History():
                    self._spawn(self._fill(step, self._generation))
                case Missing(count):
                    _notify(self._on_missing, count)
                case _:
                    pass
        if self._sequencer.settled:
            self._changed.set()

    async def _handle(self, message: Message) -> None:
        assert self._sequencer is not None
        succeeded = True
        notice = bool(message.data.get("notice"))
        try:
            if notice:
                content = {**message.data, **await self.fetch(message.id), "notice": False}
                message = Message(message.id, message.offset, message.epoch, content)
            await self._on_message(message)
        except Exception as error:
            if notice and getattr(error, "code", None) == _NOT_FOUND:
                _notify(self._on_missing, 1)
            else:
                succeeded = False
                _notify(self._on_error, error)
        self._run(self._sequencer.handled(succeeded=succeeded))

    async def _retry(self, push_id: str, attempt: int) -> None:
        assert self._sequencer is not None
        await _pause(attempt)
        self._run(self._sequencer.retried(push_id))

    async def _ack(self, ack: Ack, generation: int, attempt: int = 0) -> None:
        assert self._sequencer is not None
        await _pause(attempt)
        if generation != self._generation:
            return
        await self._save()
        try:
            await self._call("ack", {"ack": {"offset": ack.offset, "epoch": ack.epoch}})
        except Exception as error:
            self._refused(error)
            code = getattr(error, "code", None)
            if code != _BAD_REQUEST:  # With that the stream does not reach so far: Redis has lost its end.
                if code != _UNRECOVERABLE_POSITION:
                    self._spawn(self._ack(ack, generation, attempt + 1))
                return
        if generation == self._generation:
            self._run(self._sequencer.acknowledged(ack.offset, succeeded=True))

    async def _fill(self, asked: History, generation: int, attempt: int = 0) -> None:
        assert self._sequencer is not None
        await _pause(attempt)
        if generation != self._generation:
            return
        try:
            page = await self._client.history(CHANNEL, limit=PAGE, since=Position(asked.epoch, asked.since))
        except Exception as error:
            self._refused(error)
            if getattr(error, "code", None) != _UNRECOVERABLE_POSITION:
                self._spawn(self._fill(asked, generation, attempt + 1))
            return  # With another epoch the gateway ends the connection, and the next one reports it.
        if generation == self._generation:
            self._run(self._sequencer.history([self._publication(each) for each in page.publications]))

    # --- Parts -------------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _load(self) -> Sequencer:
        async with self._loading:
            if self._sequencer is None:
                state = None if self._storage is None else await self._storage.load()
                self._sequencer = Sequencer(state, memory=self._memory)
        return self._sequencer

    async def _save(self) -> None:
        assert self._sequencer is not None
        if self._storage is not None:
            async with self._saving:
                try:
                    await self._storage.save(self._sequencer.state)
                except Exception as error:
                    _notify(self._on_error, error)

    async def _call(self, method: str, data: Any) -> Any:
        sent = json.dumps(data).encode() if self._protobuf else data
        return _decode((await self._client.rpc(method, sent)).data)

    def _publication(self, publication: Any) -> Publication:
        data = _decode(publication.data)
        shown = data.get("notification")
        if shown and shown.get("badge") == "unread" and "unread" in data:
            shown["badge"] = data["unread"]
        return Publication(int(publication.offset), data)

    def _notify_unread(self, data: Mapping[str, Any]) -> None:
        if "unread" in data:
            _notify(self._on_unread, data["unread"])

    def _refused(self, error: Exception) -> None:
        """Report an error to the app, unless it ended with its connection: the next connection does it again."""
        if self._client.state.value == "connected":
            _notify(self._on_error, error)


class _Events:
    """Passes the SDK's events to the live client first, then to the handler that the app had set."""

    def __init__(self, live: LiveClient, others: Any) -> None:
        self._live = live
        self._others = others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._others, name)

    async def on_connected(self, context: Any) -> None:
        self._live._connected(context.data)
        await self._others.on_connected(context)

    async def on_subscribed(self, context: Any) -> None:
        if context.channel == CHANNEL:
            position = context.stream_position
            self._live._subscribed(position.epoch, position.offset, context.recovered)
        await self._others.on_subscribed(context)

    async def on_publication(self, context: Any) -> None:
        if context.channel == CHANNEL:
            self._live._published(context.pub)
        await self._others.on_publication(context)


def _decode(data: Any) -> Any:
    return json.loads(data) if isinstance(data, (bytes, str)) else data


async def _pause(attempt: int) -> None:
    """Wait before another attempt; 0 is the first one."""
    if attempt:
        await asyncio.sleep(min(2 ** (attempt - 1), 60))


def _notify(listener: Callable[[_T], None] | None, value: _T) -> None:
    """Call a listener of the app, whose own errors do not disturb the order of steps."""
    if listener is not None:
        asyncio.get_running_loop().call_soon(listener, value)
