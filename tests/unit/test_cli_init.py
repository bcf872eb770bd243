"""`pushsvc init` writes the example, never over a file, and what it names next are commands that there are."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from pushsvc import cli
from pushsvc.errors import ConfigError
from pushsvc.runtime.configuration import load_settings

EXAMPLE = Path(__file__).parents[2] / "config" / "example.toml"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PUSHSVC_CONFIG", raising=False)


def test_it_writes_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init"]) == 0
    out, err = capsys.readouterr()
    assert out == "pushsvc.toml\n"
    assert Path("pushsvc.toml").read_bytes() == EXAMPLE.read_bytes()
    assert stat.S_IMODE(Path("pushsvc.toml").stat().st_mode) == 0o600
    assert f"export PUSHSVC_CONFIG={tmp_path}/pushsvc.toml" in err
    assert {*re.findall(r"^  pushsvc (\w+)", err, re.MULTILINE)} == {"check", "keys", "up"}
    assert set(load_settings(Path("pushsvc.toml")).apps) == {"shop"}
    assert "--app shop" in err


@pytest.mark.parametrize("there", ["a file", "a link to nothing", "a folder"])
def test_it_keeps_what_is_there(there: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("mine.toml")
    if there == "a file":
        path.write_text("# mine")
    elif there == "a folder":
        path.mkdir()
    else:
        path.symlink_to("elsewhere")
    assert cli.main(["init", "mine.toml"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "pushsvc: mine.toml exists already: name another file, or replace it with --force\n")
    if there == "a file":
        assert path.read_text() == "# mine"
        assert cli.main(["init", "--force", "--config", "mine.toml"]) == 0
        assert path.read_bytes() == EXAMPLE.read_bytes()
    assert not Path("elsewhere").exists()


def test_a_folder_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "etc/pushsvc.toml"]) == 1
    assert capsys.readouterr().err == "pushsvc: etc/pushsvc.toml cannot be written: there is no folder etc\n"


def test_a_file_that_is_not_named_is_not_read_and_that_is_printed() -> None:
    with pytest.raises(ConfigError, match=r"names no app \(`pushsvc init` writes .*name it with --config or PUSHSVC_C"):
        load_settings(None, {}).require_apps()
    assert cli.main(["init"]) == 0
    with pytest.raises(ConfigError, match=r"names no app \(pushsvc\.toml in this folder is read where --config or PUS"):
        load_settings(None, {}).require_apps()
