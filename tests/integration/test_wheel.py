"""What is published: the sdist has all that is needed to build the wheel, and the wheel all that the service needs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

from .ports import free_ports
from .processes import Command, own_processes

ROOT = Path(__file__).parents[2]
SOURCES = ("pushsvc", "config", "pyproject.toml", "README.md", "LICENSE", "Dockerfile", "requirements.txt", ".github")
PUBLISHED = (*SOURCES[:-1], ".github/CHANGELOG.md")
"""What the sdist has of them."""


def build(kind: str, folder: Path, out: Path) -> Path:
    """Build the `sdist` or the `wheel` of a folder as a frontend does, with the backend of this environment."""
    code = f"from flit_core import buildapi; import sys; print(buildapi.build_{kind}(sys.argv[1]))"
    command = [sys.executable, "-W", "ignore", "-c", code, str(out)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


def test_the_published_files_are_whole_and_run(tmp_path: Path) -> None:
    sources, out = tmp_path / "sources", tmp_path / "out"
    sources.mkdir()
    out.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, sources / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, sources / name)
    with tarfile.open(build("sdist", sources, out)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    missing = [
        path.relative_to(sources)
        for name in PUBLISHED
        for path in ((sources / name), *(sources / name).rglob("*"))
        if path.is_file() and not (unpacked / path.relative_to(sources)).is_file()
    ]
    assert missing == []

    wheel = build("wheel", unpacked, out)
    with zipfile.ZipFile(wheel) as zipped:
        names = set(zipped.namelist())
        (metadata,) = [zipped.read(name).decode() for name in names if name.endswith("/METADATA")]
    package = {path for path in (ROOT / "pushsvc").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path.relative_to(ROOT).as_posix() for path in package} - names == set()
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert "License-Expression: MIT\n" in metadata
    assert "Classifier: Typing :: Typed\n" in metadata

    # A fresh environment, but for the dependencies, which are those of this one.
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    installing = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    bare = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*installing, str(wheel)], env=bare, check=True, timeout=300, capture_output=True)
    (site,) = (tmp_path / "venv" / "lib").glob("*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    with own_processes(tmp_path) as processes:
        port = free_ports(2)
        environ = processes.environ(PUSHSVC__SERVER__PORT=str(port), PUSHSVC__LIVE__PORT=str(port + 1))
        environ.pop("PYTHONPATH", None)
        program = str(tmp_path / "venv" / "bin" / "pushsvc")

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            command = [program, *words]
            return subprocess.run(
                command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=120
            )

        done = run("init")
        assert (done.returncode, done.stdout) == (0, "pushsvc.toml\n"), done.stderr
        environ["PUSHSVC_CONFIG"] = str(tmp_path / "pushsvc.toml")
        done = run("check")
        # The accounts are still to be filled in; all else is well.
        faults = [line.split("\t")[1] for line in done.stdout.splitlines() if line.startswith("error")]
        assert faults, done.stdout + done.stderr
        assert all(part.startswith("apps.shop.") for part in faults), done.stdout
        log, err = tmp_path / "up.out", tmp_path / "up.err"
        with log.open("wb") as stdout, err.open("wb") as stderr:
            started = subprocess.Popen([program, "up"], cwd=tmp_path, env=environ, stdout=stdout, stderr=stderr)
        up = Command(("up",), started, log, err)
        up.until(r"pushsvc listens on (\S+)")
        assert up.end(signal.SIGTERM) == 0
