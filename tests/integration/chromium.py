"""A real browser for tests of pages: Debian's `chromium`, spoken to over the DevTools protocol
(https://chromedevtools.github.io/devtools-protocol/), so that no driver and no browser of a package registry is needed.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = shutil.which("chromium")
PATIENCE = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--disable-background-timer-throttling",
    "--remote-debugging-port=0",
)

needs_browser = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="no chromium on PATH (Debian: apt-get install chromium)"
)
"""At a desk without a browser these tests are skipped; in CI they fail."""


class Page:
    """A tab, and everything that it asked for or complained of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._socket = socket
        self._numbers = iter(range(1, 1_000_000))
        self._loaded = asyncio.Event()
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            reported = message.json()
            if "id" in reported:
                self._answers.pop(reported["id"]).set_result(reported)
                continue
            match reported["method"], reported["params"]:
                case "Network.requestWillBeSent", params:
                    self.requests.append(params["request"]["url"])
                case "Page.loadEventFired", _:
                    self._loaded.set()
                case "Log.entryAdded", {"entry": entry}:
                    self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
                case "Runtime.exceptionThrown", params:
                    self.complaints.append(str(params))

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol; its result."""
        reported = await asyncio.wait_for(await self._ask(method, parameters), PATIENCE)
        assert "error" not in reported, (method, reported)
        result: dict[str, Any] = reported["result"]
        return result

    async def _ask(self, method: str, parameters: dict[str, Any]) -> asyncio.Future[dict[str, Any]]:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        return self._answers[number]

    async def open(self, url: str) -> None:
        """Go there and wait until all of it is loaded."""
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        await asyncio.wait_for(self._loaded.wait(), PATIENCE)

    async def look(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        reported = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reported, reported
        return reported["result"].get("value")

    async def size(self, width: int, height: int) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def scheme(self, name: str) -> None:
        """`light` or `dark`, as the user's system would ask for it."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    async def picture(self, file: Path) -> None:
        reported = await self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(reported["data"]))

    async def close(self) -> None:
        """Let the browser end, which may be gone before it has answered."""
        await self._ask("Browser.close", {})
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """A browser with a profile of its own, and its one tab."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="ps-chromium-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={profile}",
            "about:blank",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
            start_new_session=True,
        )
        try:
            async with aiohttp.ClientSession() as session:
                port = await _port(Path(profile), process)
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    (tab,) = [each for each in await answer.json() if each["type"] == "page"]
                async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    page = Page(socket)
                    for domain in ("Network", "Page", "Log", "Runtime"):
                        await page.call(f"{domain}.enable")
                    yield page
                    await page.close()
            await asyncio.wait_for(process.wait(), PATIENCE)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, 9)  # a session of its own: the browser and what it started, nothing else
                await process.wait()


async def _port(profile: Path, process: asyncio.subprocess.Process) -> int:
    """Where it listens: the browser writes that down once it does."""
    file = profile / "DevToolsActivePort"
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not (file.exists() and (lines := file.read_text().splitlines()) and lines[0]):
        assert process.returncode is None, "the browser ended"
        assert asyncio.get_running_loop().time() < deadline, "the browser does not listen"
        await asyncio.sleep(0.05)
    return int(lines[0])
