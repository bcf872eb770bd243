"""The client for programs without an event loop: the calls of `AsyncClient`, each of which waits for its answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from .asynchronous import AsyncClient
from .retries import Retries

P = ParamSpec("P")
R = TypeVar("R")


def _waiting(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Client, P], R]:
    """Return the method that waits for a coroutine of `AsyncClient`."""

    @wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._run(method(self._client, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[AsyncClient, P], AsyncIterator[R]],
) -> Callable[Concatenate[Client, P], Iterator[R]]:
    """Return the method that iterates over an iterator of `AsyncClient`."""

    @wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        found = method(self._client, *args, **kwargs)

        async def following() -> list[R]:
            async for each in found:
                return [each]
            return []

        while item := self._run(following()):
            yield item[0]

    return call


class Client:
    """Calls the API with the key of one app. A context manager, or ended by `close`.

    Threads may share it: the calls run in an event loop of its own thread. After a fork, make a new one.
    """

    def __init__(
        self, url: str, *, key: str, retries: Retries | None = None, timeout: float = 60.0, ca_file: str = ""
    ) -> None:
        self._client = AsyncClient(url, key=key, retries=retries, timeout=timeout, ca_file=ca_file)
        self._loop = asyncio.new_event_loop()
        self._closing, self._closed = threading.Lock(), False
        self._thread = threading.Thread(target=self._loop.run_forever, name="pushsvc-client", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return repr(self._client).replace("AsyncClient", type(self).__name__)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the calls of other threads, close the connections and end the thread."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._client.close()

    def _run(self, work: Coroutine[Any, Any, R]) -> R:
        with self._closing:
            if self._closed:
                work.close()
                raise RuntimeError("the client is closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError("the client was closed during the call") from None
        except BaseException:
            future.cancel()  # Ctrl-C ends the call too.
            raise

    send = _waiting(AsyncClient.send)
    send_and_wait = _waiting(AsyncClient.send_and_wait)
    send_batch = _waiting(AsyncClient.send_batch)
    status = _waiting(AsyncClient.status)
    wait = _waiting(AsyncClient.wait)
    cancel = _waiting(AsyncClient.cancel)
    deliveries = _iterating(AsyncClient.deliveries)
    feedback = _iterating(AsyncClient.feedback)
    put_device = _waiting(AsyncClient.put_device)
    device = _waiting(AsyncClient.device)
    devices = _iterating(AsyncClient.devices)
    delete_device = _waiting(AsyncClient.delete_device)
    user_devices = _waiting(AsyncClient.user_devices)
    erase_user = _waiting(AsyncClient.erase_user)
    subscribe = _waiting(AsyncClient.subscribe)
    unsubscribe = _waiting(AsyncClient.unsubscribe)
    topic = _waiting(AsyncClient.topic)
    request = _waiting(AsyncClient.request)
