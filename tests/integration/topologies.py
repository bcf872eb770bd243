"""Servers that belong together: a primary with replicas and sentinels, or a cluster, of Redis 7.0 or Valkey.

with running_sentinels() as rig:
    ... open_store(rig.url) ...
    rig.failover()
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from .ports import free_ports
from .servers import Kind, find_binary, suspend, wait_until

MASTER = "mymaster"


@dataclass
class Node:
    """One server process on a port of its own."""

    kind: Kind
    port: int
    folder: Path
    words: list[str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), *self.words]
        with (self.folder / "log").open("ab") as log:
            binary = find_binary(self.kind)
            first = [str(self.folder / "sentinel.conf"), "--sentinel"] if "--sentinel" in self.words else []
            words = [word for word in words if word != "--sentinel"]
            self.process = subprocess.Popen([binary, *first, *words], stdout=log, stderr=log)

    def send(self, number: int) -> None:
        assert self.process is not None
        if number == signal.SIGSTOP:
            suspend(self.process.pid)
        else:
            self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()

    def ask(self, *command: str | bytes | int) -> object:
        """One command by a connection of its own."""
        with Redis(port=self.port, socket_timeout=10, decode_responses=True) as client:
            return client.execute_command(*command)

    def answers(self) -> bool:
        with suppress(RedisError, OSError):
            return self.ask("PING") in (True, "PONG")
        return False


@dataclass
class SentinelRig:
    """A primary, its replicas and the sentinels that watch them."""

    data: list[Node]
    sentinels: list[Node]
    marks: dict[int, Node] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{node.port}' for node in self.sentinels)}/{MASTER}/0"

    def named(self, sentinel: int = 0) -> Node:
        """The primary that a sentinel names."""
        named: tuple[str, int] = self.sentinels[sentinel].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)  # type: ignore[assignment]
        return next(node for node in self.data if node.port == int(named[1]))

    def failover(self) -> Node:
        """SENTINEL FAILOVER, and wait until every sentinel names another; returns it."""
        before = self.named()
        self.sentinels[0].ask("SENTINEL", "FAILOVER", MASTER)
        wait_until(lambda: all(self.named(at) is not before for at in range(len(self.sentinels))), 30)
        return self.named()


@contextmanager
def _folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="ps-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _running(nodes: Sequence[Node]) -> Iterator[None]:
    try:
        for node in nodes:
            node.start()
        for node in nodes:
            wait_until(node.answers)
        yield
    finally:
        for node in nodes:
            if node.process is not None:
                node.process.send_signal(signal.SIGCONT)
                node.process.kill()
                node.process.wait()


@contextmanager
def running_sentinels(
    kind: Kind = "redis", *, replicas: int = 2, sentinels: int = 3, down_after: int = 1000, options: Sequence[str] = ()
) -> Iterator[SentinelRig]:
    """`down_after` is in milliseconds. Ready when every sentinel knows the others and every replica is in step."""
    with _folder() as place:
        ports = [free_ports() for _ in range(1 + replicas + sentinels)]
        data = [
            Node(
                kind,
                port,
                place / str(port),
                ["--save", "", "--repl-diskless-sync-delay", "0", *options]
                + (["--replicaof", f"127.0.0.1 {ports[0]}"] if at else []),
            )
            for at, port in enumerate(ports[: 1 + replicas])
        ]
        watchers = []
        for port in ports[1 + replicas :]:
            folder = place / str(port)
            folder.mkdir()
            quorum = sentinels // 2 + 1
            (folder / "sentinel.conf").write_text(
                f"sentinel monitor {MASTER} 127.0.0.1 {ports[0]} {quorum}\n"
                f"sentinel down-after-milliseconds {MASTER} {down_after}\n"
                f"sentinel failover-timeout {MASTER} 10000\n"
            )
            watchers.append(Node(kind, port, folder, ["--sentinel"]))
        with _running(data):
            wait_until(lambda: _in_step(data[0], replicas))
            with _running(watchers):
                rig = SentinelRig(data, watchers)
                wait_until(lambda: all(_knows(node, replicas, sentinels) for node in watchers))
                yield rig


def _in_step(primary: Node, replicas: int) -> bool:
    role = primary.ask("ROLE")
    return role[0] == "master" and len(role[2]) == replicas  # type: ignore[index]


def _knows(sentinel: Node, replicas: int, sentinels: int) -> bool:
    with suppress(RedisError):
        flat = sentinel.ask("SENTINEL", "MASTER", MASTER)
        fields = dict(zip(flat[::2], flat[1::2], strict=True)) if isinstance(flat, list) else flat
        return int(fields["num-slaves"]) == replicas and int(fields["num-other-sentinels"]) == sentinels - 1  # type: ignore[index]
    return False


@dataclass
class ClusterRig:
    """Primaries, each with its replicas."""

    nodes: list[Node]

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}"

    def primaries(self) -> list[Node]:
        found = []
        for node in self.nodes:
            with suppress(RedisError, OSError):
                if node.ask("ROLE")[0] == "master":  # type: ignore[index]
                    found.append(node)
        return found

    def holder(self, key: str) -> Node:
        """The primary that has the key's slot."""
        slot = int(self.nodes[-1].ask("CLUSTER", "KEYSLOT", key))  # type: ignore[call-overload]
        living = next(node for node in self.nodes if node.answers())
        for first, last, (_, port, *_), *_ in living.ask("CLUSTER", "SLOTS"):  # type: ignore[attr-defined]
            if int(first) <= slot <= int(last):
                return next(node for node in self.nodes if node.port == int(port))
        raise LookupError(key)

    def replica_of(self, primary: Node) -> Node:
        for node in self.nodes:
            if node is not primary and f"'master_port': {primary.port}" in str(node.ask("INFO", "replication")):
                return node
        raise LookupError(primary.port)


class SlotMove:
    """A slot on its way from one primary to another, step by step as `redis-cli --cluster reshard` does it."""

    def __init__(self, slot: int, source: int, target: int) -> None:
        """By the ports of the two."""
        self._slot = slot
        self._port = target
        self._both: list[Any] = [Redis(port=port, socket_timeout=10) for port in (source, target)]
        self._source, self._target = self._both
        self._here, self._there = (node.execute_command("CLUSTER", "MYID").decode() for node in self._both)

    def begin(self) -> None:
        self._target.execute_command("CLUSTER", "SETSLOT", self._slot, "IMPORTING", self._here)
        self._source.execute_command("CLUSTER", "SETSLOT", self._slot, "MIGRATING", self._there)

    def keys(self, count: int = 1_000_000) -> list[bytes]:
        """Those that are still at the source."""
        found: list[bytes] = self._source.execute_command("CLUSTER", "GETKEYSINSLOT", self._slot, count)
        return found

    def carry(self, names: Sequence[bytes]) -> None:
        """MIGRATE these keys. It fails where the target has one of that name."""
        self._source.execute_command("MIGRATE", "127.0.0.1", self._port, "", 0, 10_000, "KEYS", *names)

    def end(self) -> None:
        """The slot is the target's. Everybody else hears of it from the two."""
        for node in reversed(self._both):
            node.execute_command("CLUSTER", "SETSLOT", self._slot, "NODE", self._there)
            node.close()


@contextmanager
def running_cluster(
    kind: Kind = "redis", *, primaries: int = 3, replicas: int = 1, node_timeout: int = 1500
) -> Iterator[ClusterRig]:
    """Ready when every slot is served and every replica is in step. `node_timeout` is in milliseconds."""
    with _folder() as place:
        nodes = []
        for _ in range(primaries * (1 + replicas)):
            port = free_ports()
            words = ["--save", "", "--cluster-enabled", "yes", "--cluster-port", str(free_ports())]
            words += ["--cluster-node-timeout", str(node_timeout), "--repl-diskless-sync-delay", "0"]
            nodes.append(Node(kind, port, place / str(port), words))
        with _running(nodes):
            first = nodes[0]
            step = 16384 // primaries
            for at in range(primaries):
                last = 16383 if at == primaries - 1 else (at + 1) * step - 1
                nodes[at].ask("CLUSTER", "ADDSLOTSRANGE", at * step, last)
                nodes[at].ask("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            for node in nodes[1:]:
                bus = node.words[node.words.index("--cluster-port") + 1]
                first.ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
            wait_until(lambda: all(_peers(node) == len(nodes) for node in nodes))
            for at, node in enumerate(nodes[primaries:]):
                node.ask("CLUSTER", "REPLICATE", str(nodes[at % primaries].ask("CLUSTER", "MYID")))
            wait_until(lambda: all(_in_step(node, replicas) for node in nodes[:primaries]), 30)
            wait_until(lambda: all(is_ok(node) for node in nodes), 30)
            yield ClusterRig(nodes)


def _peers(node: Node) -> int:
    return int(_info(node)["cluster_known_nodes"])


def is_ok(node: Node) -> bool:
    return _info(node)["cluster_state"] == "ok"


def _info(node: Node) -> dict[str, str]:
    lines = str(node.ask("CLUSTER", "INFO")).split()
    return {name: value for name, _, value in (line.partition(":") for line in lines)}
