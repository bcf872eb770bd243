"""The page for contributors says what is there: its files, commands, steps and terms are compared with the code."""

from __future__ import annotations

import importlib
import re

from pushsvc import __version__, cli, providers
from pushsvc.model.routing import CARRIERS

from ..fakes import threepart
from ..pages import ROOT, tables

PAGE = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / ".github" / "CHANGELOG.md").read_text(encoding="utf-8")

FILE = re.compile(r"(?:pushsvc|tests|config)/[\w./-]+|\.ci/run|README\.md|pyproject\.toml")


def _section(title: str) -> str:
    """Return the text of a section of the page."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def _code(text: str) -> list[str]:
    """Return what stands between back-ticks."""
    return re.findall(r"`([^`\n]+)`", text)


def test_each_file_of_the_page_exists() -> None:
    named = {name for code in _code(PAGE) for name in code.split() if FILE.fullmatch(name) and "NAME" not in name}
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_each_make_target_of_the_page_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name, value in re.findall(r"^(\w+) *:?= *(\S+)$", makefile, re.MULTILINE):
        makefile = makefile.replace(f"$({name})", value)
    targets = set(re.findall(r"^([\w./-]+):", makefile, re.MULTILINE))
    named = {code.removeprefix("make ") for code in _code(PAGE) if code.startswith("make ")}
    assert {"demo", "test", "lint"} <= named <= targets


def test_a_provider_has_the_names_of_the_page() -> None:
    first = _section("Add a provider").partition("1. ")[2].partition("\n2. ")[0]
    names = [name for name in _code(first) if "/" not in name]
    assert names == ["PLATFORM", "ADDRESSES", "Config", "RENDERER", "classify", "open_provider", "check"]
    assert [name for name in names if not hasattr(threepart, name)] == []
    packages = {path.parent.name for path in (ROOT / "pushsvc" / "providers").glob("*/__init__.py")}
    packages -= {*CARRIERS}  # whose account is the app's own
    assert packages == {kind.platform for kind in providers.REGISTRY.values()}
    for package in packages:
        module = importlib.import_module(f"pushsvc.providers.{package}")
        assert [name for name in names if not hasattr(module, name)] == []


def test_a_field_of_a_notification_is_in_the_files_of_the_page() -> None:
    named = {name for name in _code(_section("Add a field of a notification")) if FILE.fullmatch(name)}
    carrying = (path for kind in ("*.py", "*.md") for path in (ROOT / "pushsvc").rglob(kind))
    field = re.compile(r'category: (?:Annotated|str)|notification\.category|"category": "ORDER"')
    having = {path for path in carrying if field.search(path.read_text(encoding="utf-8"))}
    assert {path.relative_to(ROOT).as_posix() for path in having} == named


def test_each_command_is_a_module_of_its_name_or_one_that_the_table_names() -> None:
    for target, _ in cli.COMMANDS.values():
        module, _, function = target.partition(":")
        assert hasattr(importlib.import_module(f"pushsvc.cli.{module}"), function), target


def test_the_glossary_is_short_and_each_term_is_in_the_code() -> None:
    rows = tables()["term"]
    terms = [term for term, _, _ in rows]
    assert len(terms) == len(set(terms)) <= 40
    for term, _, code in rows:
        (name,) = _code(code)
        module, _, attribute = name.rpartition(".")
        if attribute[0].isupper() or attribute == "prune":
            assert hasattr(importlib.import_module(module), attribute), term
        else:
            importlib.import_module(name)


def test_the_changelog_has_this_version() -> None:
    assert f"## {__version__}" in CHANGELOG
