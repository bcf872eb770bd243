"""A process imports what it uses: the modules of commands and parts, each in a new interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from aioapns.common import PRIORITY_HIGH, PRIORITY_NORMAL, PushType

from pushsvc.providers.apns import vocabulary

SDKS = ("firebase_admin", "grpc", "google.auth", "aioapns", "h2", "jwt", "requests", "pushsvc.telemetry.otel")
"""What only a process that sends, looks into a credential or records traces needs."""
WEB = ("aiohttp.web", "pushsvc.api.app", "pushsvc.api.routes", "pushsvc.live.gateway")
KEYS = ("cryptography.x509", "pushsvc.live.protocol.tokens")
"""What only a process that looks into a certificate or a connect token needs."""
METRICS = ("prometheus_client", "pushsvc.telemetry")
STORE = (*SDKS, *WEB, *KEYS, "aiohttp", "rich", "rq", "pushsvc.client", "pushsvc.cli.operator.api")
"""What no command needs that works in the store and has no key for the API."""
CONFIG = '[store]\ndata_dir = "store"\n\n[apps.shop.fcm]\nservice_account_file = "key.json"\n'


def modules_of(statement: str, folder: Path) -> set[str]:
    """Return the modules that a new interpreter has after the statement, run in the folder with a configuration."""
    (folder / "pushsvc.toml").write_text(CONFIG)
    end = "import sys; sys.stderr.write('\\nMODULES ' + ' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{end}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    text, _, names = done.stderr.rpartition("\nMODULES ")
    assert names, text or done.stderr
    return set(names.split())


@pytest.mark.parametrize(
    ("commands", "absent"),
    [
        (["--help"], (*SDKS, *WEB, "aiohttp", "redis", "rich.console", "pushsvc.providers", "pushsvc.runtime")),
        (["send --help", "status --help"], (*SDKS, *WEB, "redis", "pushsvc.providers", "pushsvc.store")),
        (
            [
                f"{command} -c pushsvc.toml"
                for command in (
                    *("keys list", "stats", "failed", "pushes list", "webhooks list", "devices show x"),
                    "cleanup --dry-run",
                )
            ],
            STORE,
        ),
    ],
    ids=["nothing", "the API", "the store"],
)
def test_commands_import_what_they_use(
    commands: list[str], absent: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that do without the same are run in one process: it has what any of them imports."""
    for name in [name for name in os.environ if name.startswith("PUSHSVC")]:
        monkeypatch.delenv(name)
    loaded = modules_of(f"from pushsvc import cli\nfor each in {commands!r}: cli.main(each.split())", tmp_path)
    assert "pushsvc.cli.root" in loaded
    assert sorted(loaded.intersection(absent)) == []


@pytest.mark.parametrize(
    ("part", "absent"),
    [
        ("from pushsvc.runtime.configuration import load_settings", (*SDKS, *WEB, *KEYS, *METRICS, "aiohttp", "redis")),
        # What supervises processes decides where metrics are kept before anything counts them.
        ("from pushsvc.cli.service import jobs, parts, up", (*SDKS, *WEB, *KEYS, *METRICS, "aiohttp", "redis", "rich")),
        ("from pushsvc.runtime.store import open_running_store", (*SDKS, *WEB, *KEYS, "aiohttp", "opentelemetry")),
        (
            "from pushsvc.runtime.parts import run_parts; import pushsvc.runtime.state.conditions",
            ("firebase_admin", "grpc", "aioapns", "pushsvc.telemetry.otel"),
        ),
        ("from pushsvc.runtime.live import run_live", ("firebase_admin", "grpc", "aioapns", "pushsvc.telemetry.otel")),
    ],
    ids=lambda value: value.rpartition(" ")[2] if isinstance(value, str) else "",
)
def test_a_part_imports_what_it_uses(part: str, absent: Sequence[str], tmp_path: Path) -> None:
    assert sorted(modules_of(part, tmp_path).intersection(absent)) == []


def test_what_up_forks_has_neither_the_sdks_of_providers_nor_what_only_commands_show(tmp_path: Path) -> None:
    start = (
        "from pathlib import Path\nfrom pushsvc.cli import state\nfrom pushsvc.cli.service import children, up\n"
        "own = state.State(Path('pushsvc.toml')); settings = own.read()\n"
        "with children.forked_parts(own, settings, children.children_of(settings, live=False)):\n"
        "  from pushsvc.cli.service import whole"
    )
    loaded = modules_of(start, tmp_path)
    assert {"pushsvc.api.app", "pushsvc.jobs", "pushsvc.stages.feedback"} <= loaded
    unwanted = (*SDKS, *KEYS, "rich", "opentelemetry", "pushsvc.live.gateway", "pushsvc.cli.operator.calls")
    assert sorted(loaded.intersection(unwanted)) == []


def test_the_words_of_apns_are_those_of_aioapns() -> None:
    assert {each.value for each in PushType} <= set(vocabulary.TOPIC_SUFFIX)
    assert (vocabulary.HIGH, vocabulary.NORMAL) == (PRIORITY_HIGH, PRIORITY_NORMAL)
