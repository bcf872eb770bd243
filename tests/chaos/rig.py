"""A whole service as its processes, a store that can be killed, and a load whose every delivery is accounted for.

The store is a server of the test's own, with an append-only file, so that it can die and come back without anybody
who owns it. The providers are the simulator, in a process of its own, whose record says what really arrived.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from pushsvc import telemetry
from pushsvc.cli.service.whole import open_service
from pushsvc.lab.playground import Playground, open_playground
from pushsvc.lab.simulator import apns_token, fcm_token
from pushsvc.runtime.configuration import load_settings

from ..integration.ports import free_ports
from ..integration.servers import ask, find_binary, wait_for_answer

DELIVERIES = int(os.environ.get("PUSHSVC_CHAOS_DELIVERIES", "4000"))
"""Deliveries of one fault's load."""
SEED = int(os.environ.get("PUSHSVC_CHAOS_SEED", "1"))
LONG = DELIVERIES >= 100_000


def cases(*every: Any) -> tuple[Any, ...]:
    """Return every case in the long form (`make chaos`), and the first alone where the suite must stay quick."""
    return every if LONG else every[:1]


PATIENCE = 600.0 if DELIVERIES > 20_000 else 120.0

LATENCY = 0.05
"""Seconds that the providers take to answer, so that there is always something in flight."""
SIZES = (1, 1, 1, 2, 10, 100, 300)
CALLERS = 8
DEAD_SHARE = 0.02
SCHEDULED_SHARE = 0.2
SCHEDULED_AHEAD = 2.0
"""Seconds until a scheduled push is to be sent, at most."""
WINDOW = {"apns": 2 * 1000, "fcm": 2 * 100}
"""Requests in flight at most: connections by the streams that the simulator allows on each."""
UNRECORDED = 2000
"""Answers that a dispatcher holds unrecorded at most in these loads: a few batches. Its hard bound is 20,000."""


class StoreServer:
    """A Valkey with an append-only file, on a socket that stays where it is."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "socket"
        self.url = f"unix://{self.socket}"
        self._folder = folder
        self._fsync = "everysec"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it has read its file."""
        self.socket.unlink(missing_ok=True)
        words = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self._folder), "--save", ""]
        words += ["--appendonly", "yes", "--appendfsync", self._fsync]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([find_binary("valkey"), *words], stdout=log, stderr=log)
        wait_for_answer(self.socket, self._process, 60)

    def sync(self, fsync: str) -> None:
        """Write to the disk so from now on."""
        self._fsync = fsync
        assert ask(self.socket, f"CONFIG SET appendfsync {fsync}") == b"+OK\r\n"

    def stop(self, number: int = signal.SIGKILL) -> None:
        """Send the signal and wait until the process is gone."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)


@dataclass
class Ledger:
    """What the clients know: what was accepted, and what may have been."""

    pushes: list[str] = field(default_factory=list)
    accepted: int = 0
    dead: set[str] = field(default_factory=set)
    """Dead tokens among the accepted."""
    doubtful_dead: int = 0
    """Dead tokens among the doubtful."""
    doubtful: int = 0
    """Deliveries of calls that broke before an answer or were answered 503: accepted or not, nobody can say."""
    refused: int = 0
    accepted_at: float = 0.0
    silence: float = 0.0
    """Seconds, the longest between two pushes that were accepted."""
    done: bool = False
    more: bool = False
    """The load goes on when it is complete: a fault is not over yet."""


@dataclass
class Rig:
    """A running service under load."""

    playground: Playground
    store: StoreServer
    session: aiohttp.ClientSession
    rng: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    live_url: str = ""
    """Where devices connect."""
    loads: int = 0
    keyed: bool = False
    """Each push has an Idempotency-Key of its own, and is posted until it is accepted."""

    # --- the processes ----------------------------------------------------------------------------

    def pids(self, part: str) -> list[int]:
        """The processes of one part: `serve`, `dispatch`, `jobs` (with feedback) or `live`."""
        return child_pids(os.getpid(), part)

    async def kill(self, part: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one process of the part, and wait until another runs in its place."""
        before = self.pids(part)
        victim = self.rng.choice(before)
        os.kill(victim, number)
        await self.until(
            f"another {part} runs", lambda: victim not in self.pids(part) and len(self.pids(part)) >= len(before)
        )

    # --- the simulator ----------------------------------------------------------------------------

    async def control(self, command: str, **fields: Any) -> None:
        await asyncio.to_thread(self.playground.simulator.control, command, **fields)

    async def record(self) -> dict[str, Any]:
        return await asyncio.to_thread(self.playground.simulator.record)

    async def arrived(self, share: float) -> None:
        """Wait until the simulator has accepted this share of the load."""

        async def enough() -> bool:
            accepted: int = (await self.record())["accepted"]
            return accepted >= share * DELIVERIES * (1 - DEAD_SHARE)

        await self.until(f"{share:.0%} of the load has arrived", enough)

    async def until(self, what: str, reached: Callable[[], bool | Awaitable[bool]], patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while True:
            value = reached()
            if value if isinstance(value, bool) else await value:
                return
            assert time.monotonic() < deadline, f"still not so: {what}"
            await asyncio.sleep(0.02)

    # --- the load ---------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Open a new account, when nothing of the last one is under way any more."""
        self.ledger = Ledger()
        self.loads += 1
        await asyncio.to_thread(self.playground.simulator.clear)

    async def load(self, callers: int = CALLERS) -> None:
        """Post pushes of all sizes until `DELIVERIES` have been accepted, and `more` is false; each token is used
        once."""
        await asyncio.gather(*(self._caller(number) for number in range(callers)))
        self.ledger.done = True

    async def _caller(self, caller: int) -> None:
        rng = random.Random(f"{self.rng.random()} {caller}")
        ledger, call = self.ledger, 0
        while ledger.accepted < DELIVERIES or ledger.more:
            call += 1
            tokens, dead = _targets(rng, f"{self.loads}-{caller}-{call}")
            document: dict[str, Any] = {
                "to": {"tokens": tokens},
                "lane": rng.choice(("urgent", "normal", "bulk")),
                "notification": {"title": "chaos"},
            }
            if rng.random() < SCHEDULED_SHARE:
                at = datetime.fromtimestamp(time.time() + rng.uniform(0.0, SCHEDULED_AHEAD), UTC)
                document["send_at"] = at.isoformat()
            body = msgspec.json.encode(document)
            if self.keyed:
                push = await self.insist(body, f"{self.loads}-{caller}-{call}")
                self._note(push, tokens, dead)
                continue
            try:
                async with self.session.post("/v1/push", data=body) as answer:
                    reported = await answer.read()
                    status = answer.status
            except aiohttp.ClientConnectorError:
                ledger.refused += len(tokens)
                await asyncio.sleep(0.05)
                continue
            except (aiohttp.ClientError, ConnectionError, TimeoutError):
                ledger.doubtful += len(tokens)
                ledger.doubtful_dead += len(dead)
                continue
            if status == 202:
                self._note(msgspec.json.decode(reported)["id"], tokens, dead)
            elif status == 503:
                # Redis may have taken it, and the answer been lost.
                ledger.doubtful += len(tokens)
                ledger.doubtful_dead += len(dead)
                await asyncio.sleep(0.05)
            else:
                assert status == 429, reported
                ledger.refused += len(tokens)
                await asyncio.sleep(0.05)

    async def insist(self, body: bytes, key: str) -> str:
        """Post it until it is accepted; returns the id of the push."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                async with self.session.post("/v1/push", data=body, headers={"Idempotency-Key": key}) as answer:
                    reported = await answer.read()
                    if answer.status == 202:
                        return str(msgspec.json.decode(reported)["id"])
                    assert answer.status in (429, 503), reported
            except (aiohttp.ClientError, ConnectionError, TimeoutError):
                pass
            assert time.monotonic() < deadline, f"not accepted within {PATIENCE:g} s"
            await asyncio.sleep(0.05)

    def _note(self, push: str, tokens: list[dict[str, str]], dead: set[str]) -> None:
        ledger, now = self.ledger, time.monotonic()
        ledger.silence = max(ledger.silence, now - (ledger.accepted_at or now))
        ledger.accepted_at = now
        ledger.pushes.append(push)
        ledger.accepted += len(tokens)
        ledger.dead.update(dead)

    # --- the account ------------------------------------------------------------------------------

    async def balance(self) -> Counter[str]:
        """The sum of all status documents, once everything has ended; each adds up by itself."""
        ended: Counter[str] = Counter()
        waiting = list(self.ledger.pushes)
        deadline = time.monotonic() + PATIENCE
        while waiting:
            still: list[str] = []
            for start in range(0, len(waiting), 32):
                documents = await asyncio.gather(*(self.status(push) for push in waiting[start : start + 32]))
                for push, document in zip(waiting[start : start + 32], documents, strict=True):
                    if document is None or document["state"] != "done":
                        still.append(push)
                        continue
                    counts = document["counts"]
                    assert counts["total"] == sum(n for name, n in counts.items() if name != "total"), counts
                    ended.update(counts)
            waiting = still
            assert time.monotonic() < deadline, (
                f"{len(waiting)} pushes have not ended, among them {await self.status(waiting[0])}"
            )
            if waiting:
                await asyncio.sleep(0.2)
        return +ended

    async def status(self, push: str) -> dict[str, Any] | None:
        try:
            async with self.session.get(f"/v1/push/{push}") as answer:
                assert answer.status in (200, 503), f"{push}: {answer.status}"
                document: dict[str, Any] = await answer.json()
                return document if answer.status == 200 else None
        except aiohttp.ClientError:
            return None

    async def drained(self) -> None:
        """Wait until nothing is pending any more, so that the simulator's record is whole, doubtful calls too."""

        async def empty() -> bool:
            try:
                async with self.session.get("/metrics") as answer:
                    text = await answer.text()
            except aiohttp.ClientError:
                return False
            waiting = ("pushsvc_queue_pending{", "pushsvc_scheduled{")
            pending = [line for line in text.splitlines() if line.startswith(waiting)]
            return bool(pending) and all(float(line.split()[-1]) == 0 for line in pending)

        await self.until("the queue is empty", empty)

    async def feedback_tokens(self) -> Counter[str]:
        """The tokens of all feedback events, by how often."""
        found: Counter[str] = Counter()
        cursor = ""
        while True:
            params = {"limit": "1000", **({"after": cursor} if cursor else {})}
            async with self.session.get("/v1/feedback", params=params) as answer:
                assert answer.status == 200
                page = await answer.json()
            if not page["items"]:
                return found
            found.update(item["token"] for item in page["items"])
            cursor = page["cursor"]


def _targets(rng: random.Random, unique: str) -> tuple[list[dict[str, str]], set[str]]:
    tokens: list[dict[str, str]] = []
    dead: set[str] = set()
    for number in range(rng.choice(SIZES)):
        is_dead = rng.random() < DEAD_SHARE
        if rng.random() < 0.5:
            token = apns_token("Unregistered" if is_dead else "ok", f"{unique}-{number}")
            tokens.append({"platform": "apns", "token": token})
        else:
            token = fcm_token("UNREGISTERED" if is_dead else "ok", f"{unique}-{number}")
            tokens.append({"platform": "fcm", "token": token})
        if is_dead:
            dead.add(token)
    return tokens, dead


def child_pids(parent: int, part: str) -> list[int]:
    """The children of a process that run `pushsvc <part>`."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True)
    found = []
    for line in listing.stdout.splitlines():
        pid, ppid, state, args = line.split(None, 3)
        if int(ppid) == parent and not state.startswith("Z") and f" -m pushsvc {part}" in args:
            found.append(int(pid))
    return found


@contextmanager
def logs_of_failure(file: Path) -> Iterator[None]:
    """Keep in a file what this process and those that it starts write to stderr, and show it where the block fails,
    less what is said of each dead token."""
    stderr, failed = os.dup(2), True
    with file.open("a+") as log:
        os.dup2(log.fileno(), 2)
        telemetry.configure_logging("info", log, json=False)
        try:
            yield
            failed = False
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if failed:
                log.seek(0)
                sys.stderr.writelines(line for line in log if "token_judged" not in line)


@asynccontextmanager
async def open_rig(
    *,
    seed: str,
    serve: int = 1,
    dispatch: int = 1,
    url: str = "",
    keep: int = 1000,
    configure: Callable[[Playground], None] | None = None,
    live: bool = False,
    **environ: str,
) -> AsyncIterator[Rig]:
    """Start it all. `environ` overrides configuration: `RETRY__ATTEMPTS="9"`. With the `url` of another store the
    rig's own holds the jobs alone. `keep` requests of each platform stay whole in the simulator's record.
    `configure` may write to the configuration file before anything reads it. `live`: the app has the live channel.
    """
    # Not pytest's tmp_path: a socket's path has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ps-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(logs_of_failure(folder / "log"))
        store_folder = folder / "redis"
        store_folder.mkdir()
        store = StoreServer(store_folder)
        store.start()
        stack.callback(store.stop)
        port = free_ports(2)
        playground = stack.enter_context(
            open_playground(
                folder / "play", port=port, live_port=port + 1 if live else None, latency=LATENCY, keep=keep
            )
        )
        if configure is not None:
            configure(playground)
        reported = {
            "REDIS__URL": url or store.url,
            "JOBS__URL": store.url if url else "",
            "SERVER__PROCESSES": str(serve),
            "DISPATCH__PROCESSES": str(dispatch),
            "DISPATCH__TAKEOVER": "3",
            "RETRY__ATTEMPTS": "50",
            "RETRY__CAP": "2",
            "RETRY__REQUEST_TIMEOUT": "3",
            "LOGGING__LEVEL": "info",
            **environ,
        }
        variables = {**os.environ, **{f"PUSHSVC__{name}": text for name, text in reported.items()}}
        settings = load_settings(playground.config_file, variables)
        async with open_service(settings, playground.config_file, variables) as service:
            headers = {"Authorization": f"Bearer {playground.api_key}", "Content-Type": "application/json"}
            timeout = aiohttp.ClientTimeout(total=30)
            async with aiohttp.ClientSession(service.url, headers=headers, timeout=timeout) as session:
                yield Rig(playground, store, session, random.Random(f"{SEED} {seed}"), live_url=service.live_url)
