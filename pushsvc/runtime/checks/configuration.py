"""What a check finds in the configuration on disk, which is not that in use where it is refused."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import ConfigError
from ...ports.admin import CheckFinding
from ...settings.schema import Settings
from ..configuration import load_settings, misspelt_variables


def in_use(settings: Settings) -> CheckFinding:
    where = str(settings.file) if settings.file else "no file: defaults and environment"
    return CheckFinding("configuration", "ok", where)


def check_environment() -> Iterator[CheckFinding]:
    """Yield a finding for each variable that is ignored, and would set a key if its underscores were right."""
    for variable, right in misspelt_variables().items():
        yield CheckFinding(variable, "warning", "is ignored: this name sets nothing", f"did you mean {right}?")


def check_on_disk(settings: Settings) -> list[CheckFinding]:
    """Return the findings about the file that these settings were read from: that it can be used, or its faults."""
    if settings.file is None:
        return [in_use(settings)]
    try:
        load_settings(settings.file).require_apps()
    except ConfigError as error:
        what = f"{settings.file} cannot be used as it is now: an earlier version is in use, and a restart would fail"
        refused = CheckFinding("configuration", "error", what, "correct it; it is then read again automatically")
        return [refused, *(row for row in faults_of(error) if row.part != refused.part)]
    return [in_use(settings)]


def faults_of(error: ConfigError) -> Iterator[CheckFinding]:
    """Yield a finding for each fault of a configuration that cannot be used."""
    first, *faults = error.message.split("\n")
    if not faults:
        yield CheckFinding(error.path, "error", *_what_and_fix(first, error.remedy))
        return
    yield CheckFinding("configuration", "error", f"{error.path}: {first}", "correct them; then the rest is checked")
    for fault in faults:
        part, _, what = fault.strip().partition(": ")
        yield CheckFinding(part, "error", *_what_and_fix(what, ""))


def _what_and_fix(message: str, remedy: str) -> tuple[str, str]:
    """Return what is wrong and what to do, from the message of a fault."""
    expected, found, value = message.removeprefix("expected ").partition(", found ")
    if found and message.startswith("expected "):
        return f"found {value}", f"give {expected}"
    what, _, fix = message.partition("; ")
    if fix:
        return what, fix
    if remedy and not remedy.startswith("in "):
        return what, remedy
    return what, "add it" if what.startswith("is missing") else "give it another value"
