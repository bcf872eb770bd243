"""Clients that generators make of the OpenAPI document: nothing is left out, and a push is sent with each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pushsvc.api.openapi import SHOWN, build
from pushsvc.runtime.providers import addresses

from ..node import node
from .servers import skip_or_fail
from .test_intake_kit import CONFIG, TOKEN, running_in_thread

GENERATOR = ("openapi-python-client==0.29.1", "typer==0.27.3", "jinja2", "markupsafe", "ruamel.yaml", "shellingham")
"""The generator, and what of its needs is not among the packages of the tests; it wants an older `typer` than ours."""

TYPESCRIPT = Path(__file__).parents[1] / "vendor" / "openapi-typescript"

SEND = """
import sys
from made import AuthenticatedClient
from made.api.push import get_push, post_batch, post_push
from made.models import Accepted, Notification, PushDocument, Status, To, TokenTarget, TokenTargetPlatform

url, token = sys.argv[1:]
target = TokenTarget(platform=TokenTargetPlatform.APNS, token=token)
document = PushDocument(to=To(tokens=[target]), notification=Notification(title="Order 7 shipped"))
with AuthenticatedClient(base_url=url, token="pusher") as client:
    accepted = post_push.sync(client=client, body=document)
    assert isinstance(accepted, Accepted), accepted
    status = get_push.sync(accepted.id, client=client)
    assert isinstance(status, Status), status
    results = post_batch.sync(client=client, body=[document, document]).results
    print(accepted.id, *(result.id for result in results))
"""


@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the generator, or the one that PUSHSVC_TEST_GENERATOR names; installed in CI alone."""
    if found := os.environ.get("PUSHSVC_TEST_GENERATOR"):
        return Path(found)
    if not os.environ.get("CI"):
        skip_or_fail("openapi-python-client is installed in CI, or named by PUSHSVC_TEST_GENERATOR")
    folder = tmp_path_factory.mktemp("generator")
    pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps")
    subprocess.run((*pip, "--target", str(folder), *GENERATOR), check=True, timeout=300)
    return folder


def test_a_client_of_openapi_python_client_sends_a_push(generator: Path, tmp_path: Path) -> None:
    document, config = tmp_path / "openapi.json", tmp_path / "config.json"
    document.write_text(json.dumps(build(addresses=addresses(), config=CONFIG)), encoding="utf-8")
    config.write_text('{"post_hooks": []}', encoding="utf-8")
    made = tmp_path / "made"
    generate = ("-m", "openapi_python_client", "generate", "--path", str(document), "--output-path", str(made))
    run = subprocess.run(
        (sys.executable, *generate, "--meta", "none", "--config", str(config), "--fail-on-warning"),
        env={**os.environ, "PYTHONPATH": str(generator)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    calls = {path.stem for path in (made / "api").rglob("*.py")} - {"__init__"}
    assert calls >= {call.name for call in SHOWN}

    with running_in_thread() as service:
        sent = subprocess.run(
            (sys.executable, "-c", SEND, service.url, TOKEN),
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert sent.returncode == 0, sent.stderr
        assert sent.stdout.split() == list(service.store.pushes)


@pytest.fixture(scope="session")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program of the test and the packages that its lock file names, which are installed in CI alone,
    or taken from the folder that PUSHSVC_TEST_TYPESCRIPT names."""
    folder = tmp_path_factory.mktemp("typescript")
    for file in TYPESCRIPT.iterdir():
        shutil.copy(file, folder)
    if found := os.environ.get("PUSHSVC_TEST_TYPESCRIPT"):
        (folder / "node_modules").symlink_to(Path(found) / "node_modules")
        return folder
    if not os.environ.get("CI"):
        skip_or_fail("openapi-typescript is installed in CI, or named by PUSHSVC_TEST_TYPESCRIPT")
    npm = shutil.which("npm")
    assert npm is not None, "install npm"
    ci = (npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    subprocess.run(ci, cwd=folder, check=True, timeout=300)
    return folder


def test_a_client_of_openapi_typescript_sends_a_push(typescript: Path) -> None:
    """The types that are made of the document fit the calls of the program, by the compiler's strictest rules."""

    def run(*words: str) -> str:
        done = subprocess.run(
            (*node(), *words), cwd=typescript, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    document = build(addresses=addresses(), config=CONFIG)
    (typescript / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
    run("node_modules/openapi-typescript/bin/cli.js", "openapi.json", "--output", "schema.d.ts")
    made = (typescript / "schema.d.ts").read_text(encoding="utf-8")
    assert [call.name for call in SHOWN if f"{call.name}: {{" not in made] == []
    modern = ("--target", "es2022", "--lib", "es2022,dom", "--module", "nodenext")
    run("node_modules/typescript/bin/tsc", "--strict", *modern, "--outDir", "out", "send.ts")
    with running_in_thread() as service:
        sent = run("out/send.js", service.url, TOKEN)
        assert sent.split() == list(service.store.pushes)
