"""Each import contract of pyproject.toml is tried: a copy of the package gets imports that break it, and says so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

VIOLATIONS = {
    "the layers": [
        ("pushsvc.telemetry.states", "pushsvc.ports.work"),
        ("pushsvc.rules.gcra", "pushsvc.settings.schema"),
        ("pushsvc.live.sockets.server", "pushsvc.store.keys"),
    ],
    "stages do not know one another": [
        ("pushsvc.stages.webhooks.verdict", "pushsvc.stages.dispatch.congestion"),
        ("pushsvc.stages.outage", "pushsvc.stages.expand.fair_queue"),
    ],
    "providers do not know one another": [("pushsvc.providers.apns.targets", "pushsvc.providers.fcm.spans")],
    "the layers of the store": [("pushsvc.store.hashing", "pushsvc.store.work.liveness")],
    "the session and the sockets of the live gateway do not know one another": [
        ("pushsvc.live.wheel", "pushsvc.live.sockets.server"),
        ("pushsvc.live.peer", "pushsvc.live.wheel"),
    ],
    "WebSocket is pure": [("pushsvc.net.websocket.frames", "asyncio")],
    "nouns and rules are pure": [
        ("pushsvc.model.rates", "time"),
        ("pushsvc.model.routing", "redis"),
        ("pushsvc.rules.freeze", "random"),
        ("pushsvc.rules.where.words", "asyncio"),
        ("pushsvc.live.protocol.session", "time"),
    ],
    "only runtime knows providers and store": [
        ("pushsvc.api.meta", "pushsvc.store.keys"),
        ("pushsvc.cli.keys", "pushsvc.store.keyring"),
        ("pushsvc.cli.pushes.send", "pushsvc.providers.aps"),
        ("pushsvc.jobs.worker", "pushsvc.store.link.connect"),
        ("pushsvc.lab.simulator.fcm", "pushsvc.providers.fcm.render"),
        ("pushsvc.settings.schema", "pushsvc.store.config"),
        ("pushsvc.stages.cleanup.run", "pushsvc.store.cleanup.leftovers"),
    ],
}
"""By contract: who imports what."""


def test_every_contract_notices_its_violation(tmp_path: Path) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {contract["name"] for contract in contracts} == set(VIOLATIONS)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "pushsvc", tmp_path / "pushsvc", ignore=shutil.ignore_patterns("__pycache__"))
    assert _broken(tmp_path) == {}
    for importer, imported in (pair for pairs in VIOLATIONS.values() for pair in pairs):
        file = tmp_path.joinpath(*importer.split(".")).with_suffix(".py")
        file.write_text(f"{file.read_text()}\nimport {imported}\n")
    broken = _broken(tmp_path)
    assert broken.keys() == VIOLATIONS.keys()
    for name, pairs in VIOLATIONS.items():
        for importer, imported in pairs:
            assert f"{importer} -> {imported} (l." in broken[name]


def _broken(folder: Path) -> dict[str, str]:
    """Return the contracts that the package in `folder` breaks, with what import-linter says of each."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    environ = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    reported = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)
    _, _, details = reported.stdout.partition("Broken contracts\n")
    parts = re.split(r"^(.+)\n-+$", details, flags=re.MULTILINE)
    assert reported.returncode == bool(details), reported.stdout
    return dict(zip(parts[1::2], parts[2::2], strict=True))
