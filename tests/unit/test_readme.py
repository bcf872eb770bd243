"""The README and the guide say what the code says: tables, names and commands are held against the code, one by one."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest
from msgspec import NODEFAULT, Struct, structs
from prometheus_client.metrics import MetricWrapperBase

import pushsvc.live.sockets.server  # noqa: F401  # its refusals stand in the table of errors
from pushsvc import cli, telemetry
from pushsvc.api import guide, openapi
from pushsvc.api.answers import Status
from pushsvc.api.config import ApiConfig
from pushsvc.api.devices.document import read_device
from pushsvc.api.http.instants import DAYS_AHEAD
from pushsvc.api.pushes.document import read
from pushsvc.api.routes import CALLS
from pushsvc.api.rules import Rules
from pushsvc.cli.devices import lines as device_lines
from pushsvc.cli.lazy import LazyCommand
from pushsvc.decoding import is_struct
from pushsvc.errors import RequestError
from pushsvc.model.delivery import Ended, Outcome, Retry, Unavailable
from pushsvc.model.devices import Device
from pushsvc.model.live import Order
from pushsvc.model.push import Chunk, Message
from pushsvc.model.rates import Rate, parse_rate
from pushsvc.ports import cleanup
from pushsvc.ports.conditions import SEVERITIES
from pushsvc.problems import TYPE_BASE
from pushsvc.providers import REGISTRY
from pushsvc.rules import policy
from pushsvc.rules.where import WhereError, compile_where
from pushsvc.rules.where.fields import fields_at
from pushsvc.runtime.configuration import configured_type, load_settings
from pushsvc.runtime.plans import retry_policy
from pushsvc.runtime.providers import addresses
from pushsvc.settings.environment import sections_of
from pushsvc.settings.schema import AppSettings, CleanupSettings, RetrySettings
from pushsvc.stages.dispatch.evidence import Cause

from ..pages import EVERYTHING, PAGES, README, ROOT, TEXTS, blocks, code_in, prose, section_of, tables
from ..sources import MODULES, PACKAGE, nodes_of
from .provider_fakes import golden

SECTIONS = {kind.platform: kind.config for kind in reversed(REGISTRY.values())}
"""A further account of a provider has the keys of the first."""
OPENAPI = openapi.build(addresses=addresses(), config=ApiConfig())
SCHEMAS: dict[str, Any] = OPENAPI["components"]["schemas"]

NO_EFFECT = "No effect yet"


# --- reading the pages --------------------------------------------------------------------------


TABLES = tables()


def _names(table: str) -> list[str]:
    """The first column of a table: one name in back-ticks a row."""
    names = []
    for row in TABLES[table]:
        (name,) = code_in(row[0])
        assert row[0] == f"`{name}`"
        names.append(name)
    assert len(set(names)) == len(names), f"a name stands twice in {table}"
    return names


def test_every_code_block_is_closed() -> None:
    for place, text in TEXTS.items():
        assert text.count("```") % 2 == 0, place


def test_the_readme_is_short_and_no_line_of_prose_is_wide() -> None:
    assert README.count("\n") <= 150
    wide = [
        f"{place}: {line}"
        for place, text in TEXTS.items()
        for line in text.splitlines()
        if len(line) > 120 and not line.startswith("|")
    ]
    assert wide == []


def test_the_readme_shows_what_the_guide_shows_too() -> None:
    """The tests that do what the pages say hold these lines true here as well."""
    shown, _ = blocks("text", README)
    (whole,) = blocks("text", PAGES["tutorial/try.md"])
    assert set(shown.splitlines()) <= set(whole.splitlines())
    assert set(blocks("sh", PAGES["guides/install.md"])) <= set(blocks("sh", README))


def test_no_code_within_a_line_is_broken() -> None:
    """What a reader copies from the text of a page is on one line of it."""
    broken = [
        (place, code)
        for place, text in TEXTS.items()
        for paragraph in prose(text).split("\n\n")
        for code in code_in(paragraph)
        if "\n" in code and not paragraph.startswith("|")
    ]
    assert broken == []


LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_links_between_the_pages_lead_somewhere() -> None:
    for place, text in TEXTS.items():
        for link in LINK.findall(prose(text)):
            path, _, anchor = link.partition("#")
            if "://" in link:
                continue
            target = (ROOT / place).parent / path if path else ROOT / place
            assert target.exists(), f"{place}: {link}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {guide.anchor(head) for head in heads}, link


def test_every_page_is_in_the_index() -> None:
    linked = {link for link in LINK.findall(PAGES["index.md"]) if not link.startswith("..")}
    assert linked == set(PAGES) - {"index.md"}


def test_links_to_files_lead_somewhere() -> None:
    named = {
        name
        for name in code_in(prose())
        if re.fullmatch(r"(?:pushsvc|tests|config|\.ci)/[\w./-]*|LICENSE|Dockerfile|requirements\.txt", name)
    }
    assert named >= {"config/example.toml", "pushsvc/rules/policy.py", "LICENSE", ".ci/run"}
    for name in named - {"pushsvc/providers/NAME"}:
        assert (ROOT / name).exists(), name


# --- configuration ------------------------------------------------------------------------------


def _keys() -> Iterator[tuple[str, Any]]:
    """Every key that may be written, dotted, with its default; the parts of an app under `apps.NAME`."""
    for section, kind in sections_of(configured_type(), SECTIONS).items():
        if section != "apps":
            yield from _of_section(section, kind)
    for section, kind in sections_of(AppSettings, SECTIONS).items():
        yield from _of_key(f"apps.NAME.{section}", kind)


def _of_key(path: str, kind: Any, default: Any = None) -> Iterator[tuple[str, Any]]:
    if is_struct(kind):
        yield from _of_section(path, kind)
    elif get_origin(kind) is tuple and is_struct(get_args(kind)[0]):
        yield from _of_section(f"{path}[]", get_args(kind)[0])
    else:
        yield path, default


def _of_section(path: str, kind: type[Struct]) -> Iterator[tuple[str, Any]]:
    for field in structs.fields(kind):
        default = field.default_factory() if field.default_factory is not NODEFAULT else field.default
        yield from _of_key(f"{path}.{field.name}", field.type, default)


def _written(value: Any) -> Any:
    """A default as TOML would give it to the loader."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def test_every_key_of_the_configuration_with_its_default() -> None:
    want = dict(_keys())
    assert set(_names("key")) == set(want)
    for name, (_, cell, meaning) in zip(_names("key"), TABLES["key"], strict=True):
        default = want[name]
        if default is NODEFAULT:
            assert cell == "required", name
            continue
        (text,) = code_in(cell)
        reported = tomllib.loads(f"value = {text}")["value"]
        if default is None or isinstance(default, Rate):
            reported = parse_rate(reported)
        assert reported == _written(default), name
        assert type(reported) is type(_written(default)), name
        assert meaning, name


def test_the_live_channel_of_the_page_loads(tmp_path: Path) -> None:
    (text,) = blocks("toml", section_of("Configuration"))
    account = "\n[apps.shop.apns]\ntopic = 't'\nkey_file = 'k.p8'\nkey_id = 'KEY1234567'\nteam_id = 'TEAM123456'\n"
    (tmp_path / "pushsvc.toml").write_text(text + account)
    (tmp_path / "secret").write_text("x" * 32)
    environ = {"PUSHSVC__APPS__SHOP__LIVE__SECRET_FILE": str(tmp_path / "secret")}
    loaded = load_settings(tmp_path / "pushsvc.toml", environ).apps["shop"].live
    assert loaded is not None
    assert loaded.secret == "x" * 32
    assert {loaded.order, loaded.rules[0].order} < set(_names("order")) == set(get_args(Order))


def test_the_example_has_the_keys_of_the_table() -> None:
    text = (ROOT / "config" / "example.toml").read_text(encoding="utf-8")
    found, section = set(), ""
    for line in text.splitlines():
        if header := re.match(r"(?:# )?(\[\[?)([\w.]+)\]", line):
            section = header[2].replace("apps.shop", "apps.NAME") + ("[]" if header[1] == "[[" else "")
        elif key := re.match(r"(?:# )?(\w+) = ", line):
            found.add(f"{section}.{key[1]}")
    assert found == set(_names("key"))


def test_keys_without_effect_are_those_that_nothing_reads() -> None:
    """A change that gives one an effect takes the words away here."""
    used: set[str] = set()
    for file in MODULES:
        if "settings" not in file.parts:
            used |= {node.attr for node in nodes_of(file) if isinstance(node, ast.Attribute)}
    # Read by the name of their provider; `test_runtime` has their effect.
    for section in (RetrySettings, CleanupSettings):
        whole = next(kind for kind in structs.fields(configured_type()) if kind.type.__name__ == section.__name__)
        used |= set(whole.type.__struct_fields__) - set(section.__struct_fields__)
    for name, (_, _, meaning) in zip(_names("key"), TABLES["key"], strict=True):
        parts = name.split(".")
        # The sections of an app that nobody opens: what is in them has names that others have too.
        reader = parts[2] if parts[0] == "apps" and parts[2] == "limits" else parts[-1]
        if name != "logging.format":  # read within the settings, by `LoggingSettings.json`
            assert (reader in used) == (NO_EFFECT not in meaning), name


# --- the push document and the status -------------------------------------------------------------


def test_every_field_of_the_push_document() -> None:
    assert set(_names("field")) == set(SCHEMAS["PushDocument"]["properties"])
    meanings = dict(zip(_names("field"), (row[1] for row in TABLES["field"]), strict=True))
    assert f"{DAYS_AHEAD} days" in meanings["send_at"]
    to = SCHEMAS["To"]["properties"]
    assert set(to) <= set(code_in(meanings["to"]))
    assert f"{to['users']['anyOf'][0]['maxItems']:,}" in meanings["to"]


SIGNS = ("==", "!=", "in", "not in", "<", "<=", ">", ">=")
VALUES = {"environment": "'sandbox'", "app_version": "'3.2'", "registered": "'30d'", "last_seen": "'2026-12-01'"}


def _is_taken(field: str, sign: str) -> bool:
    value = VALUES.get(field, "'x'")
    try:
        compile_where(f"{field} {sign} {f'({value})' if 'in' in sign else value}", now=0)
    except WhereError:
        return False
    return True


def test_each_field_of_an_expression_takes_the_operators_that_are_named() -> None:
    named = {field: code_in(row[1]) for row in TABLES["in `where`"] for field in code_in(row[0])}
    assert named.keys() == {*fields_at(0, ()), "tags.NAME", "tags['any name']"}
    assert named == {field: [sign for sign in SIGNS if _is_taken(field, sign)] for field in named}


def test_the_example_expressions_mean_something() -> None:
    whole = re.findall(r'"where": "([^"]*)"', section_of("Audiences"))
    parts = [code for row in TABLES["in `where`"] for code in code_in(row[2]) if " " in code]
    assert (len(whole), len(parts)) == (1, 2)
    for example in whole + parts:
        assert compile_where(example, now=0)(Device(id="d", platform="apns", token="t")) is False


def test_the_example_push_is_taken_and_rendered() -> None:
    (text,) = blocks("json", section_of("The push document"))
    document = msgspec.json.decode(text)
    assert set(document["notification"]) == set(SCHEMAS["Notification"]["properties"])
    assert set(document) <= set(SCHEMAS["PushDocument"]["properties"])
    draft = read(text.encode(), Rules("shop", frozenset(REGISTRY), addresses()), now=0)
    assert draft.total == len(document["to"]["tokens"])
    for platform in draft.targets:
        message = REGISTRY[platform].renderer.render(draft.content, push_id="p", starts_at=0)
        assert msgspec.json.decode(message.body)


def test_the_example_device_is_taken() -> None:
    (text,) = blocks("json", section_of("The device document"))
    document = msgspec.json.decode(text)
    assert set(document) == set(SCHEMAS["DeviceDocument"]["properties"]) - {"fid"}
    device = read_device(text.encode(), "d", Rules("shop", frozenset(REGISTRY), addresses()), 0)
    assert device.tags["beta"] is True
    reported = set(code_in(section_of("The device document")))
    assert reported >= set(SCHEMAS["RegisteredDevice"]["properties"]) - set(document)


def test_every_count_and_the_status_document() -> None:
    (text,) = blocks("json", section_of("The status document"))
    status = msgspec.json.decode(text, type=Status)
    # `warnings` is only in the answer to a POST that waits, as that call says.
    assert {*msgspec.json.decode(text), "warnings"} == set(SCHEMAS["Status"]["properties"])
    counts: dict[str, int] = structs.asdict(status.counts)
    assert counts["total"] == sum(count for name, count in counts.items() if name != "total")
    assert list(msgspec.json.decode(text)["counts"]) == _names("count") == list(counts)


def test_every_column_of_a_file_of_devices() -> None:
    reported = [name for row in TABLES["column"] for name in code_in(row[0])]
    document = set(SCHEMAS["DeviceDocument"]["properties"])
    columns = set(device_lines.columns(addresses(), tombstones=True))
    assert set(reported) == columns - document | {"tags"}
    assert document <= columns


def test_all_that_a_cleanup_counts() -> None:
    reported = [name for row in TABLES["what"] for name in code_in(row[0])]
    assert sorted(reported) == sorted(cleanup.WHAT)


# --- HTTP ---------------------------------------------------------------------------------------


def test_every_call() -> None:
    want = {
        f"{verb.upper()} {path}": [status for status in operation["responses"] if status.startswith("2")]
        for path, verbs in OPENAPI["paths"].items()
        for verb, operation in verbs.items()
    }
    assert set(_names("call")) == set(want)
    by_name = {f"{call.method} {call.path}": call for call in CALLS}
    for name, (_, answer, scopes, does) in zip(_names("call"), TABLES["call"], strict=True):
        assert answer.split(", ") == want[name], name
        assert tuple(code_in(scopes)) == (by_name[name].scopes if by_name[name].keyed else ()), name
        for param in by_name[name].params:
            assert param.name in code_in(does), f"{name} does not mention {param.name}"


def _below(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _below(below)


def test_every_error() -> None:
    # A subclass that names nothing of its own is the same error with more to say.
    want = {(str(kind.status), kind.type) for kind in _below(RequestError) if "type" in vars(kind)}
    assert {(row[0], *code_in(row[1])) for row in TABLES["status"]} == want
    assert len(TABLES["status"]) == len(want)
    assert f"`{TYPE_BASE}`" in section_of("Errors")
    # The type of a problem leads to its place on the page.
    place, _, anchor = TYPE_BASE.removeprefix("/docs/guide/").partition("#")
    page, places = guide.pages()[place].decode(), {guide.anchor(name) for _, name in want}
    assert anchor == ""
    assert set(re.findall(r'<h3 id="([^"]+)"', page)) == places == {name for _, name in want}


# --- what an answer does ------------------------------------------------------------------------


RETRY = retry_policy(RetrySettings())


def _chunk(platform: str) -> Chunk:
    message = Message(platform, b"{}")
    return Chunk("p", "shop", platform, "normal", 1, 0, 1 << 50, message, ())


def test_every_outcome_and_what_follows() -> None:
    kinds = {kind.__name__: kind for kind in get_args(Outcome)}
    assert set(_names("outcome")) == set(kinds)
    for name, row in zip(_names("outcome"), TABLES["outcome"], strict=True):
        # 503 is an answer, so the request has left us; to other outcomes the status says nothing.
        outcome = kinds[name](status=503)
        # Refused credentials are the route's; of other troubles the table says first what a delivery's own costs.
        blame: policy.Blame = "route" if name == "Misconfigured" else "delivery"
        verdict = policy.decide(_chunk("fcm"), outcome, now=0, jitter=0.5, policy=RETRY, blame=blame)
        does, attempt = row[3], row[4]
        match verdict:
            case Ended(end=end, dead_letter=dead_letter):
                assert code_in(does)[0] == end, name
                assert ("dead letter" in does) == dead_letter, name
                assert attempt == "", name
            case Retry(attempt=next_attempt):
                assert does.startswith("waits"), name
                assert attempt.startswith("yes" if next_attempt > 1 else "no"), name


def test_an_attempt_that_never_left_is_not_used_up() -> None:
    verdict = policy.decide(_chunk("fcm"), Unavailable(reason="unreachable"), now=0, jitter=0.5, policy=RETRY)
    assert isinstance(verdict, Retry)
    assert verdict.attempt == 1


@pytest.mark.parametrize(("column", "platform"), [(1, "apns"), (2, "fcm")])
def test_the_answers_that_it_names_are_in_the_golden_tables(column: int, platform: str) -> None:
    rows = {(row["status"], row.get("reason", ""), row["outcome"]) for row in golden(f"{platform}_classify.toml")}
    for name, row in zip(_names("outcome"), TABLES["outcome"], strict=True):
        for example in code_in(row[column]):
            status, _, reason = example.partition(" ")
            assert (int(status), reason, name) in rows, f"{example} is not {name}"


# --- metrics, commands, layout --------------------------------------------------------------------


def test_every_metric() -> None:
    want = {}
    for metric in vars(telemetry).values():
        if isinstance(metric, MetricWrapperBase | telemetry.Figure):
            (family,) = metric.describe()
            labels = metric.labels if isinstance(metric, telemetry.Figure) else metric._labelnames
            want[family.name + "_total" * (family.type == "counter")] = (family.type, tuple(labels))
    reported = {
        name: (row[1], tuple(code_in(row[2]))) for name, row in zip(_names("metric"), TABLES["metric"], strict=True)
    }
    assert reported == want


def test_every_kind_of_condition_with_its_severity() -> None:
    (meaning,) = (row[3] for row in TABLES["metric"] if row[0] == "`pushsvc_conditions`")
    critical, warnings = meaning.partition("Critical kinds: ")[2].split("; warnings: ")
    named = dict.fromkeys(code_in(critical), "critical") | dict.fromkeys(code_in(warnings), "warning")
    assert named == SEVERITIES


def test_every_cause_of_a_held_route_is_explained() -> None:
    causes = set(get_args(Cause)) - {"credentials"}  # these have the provider's word
    assert causes <= {code for row in TABLES["reason"] for code in code_in(row[0])}
    (meaning,) = (row[3] for row in TABLES["metric"] if row[0] == "`pushsvc_route_held`")
    assert causes <= set(code_in(meaning))


def test_metrics_that_the_runbook_names_exist() -> None:
    metrics = set(_names("metric"))
    assert set(re.findall(r"\bpushsvc_\w+", EVERYTHING)) <= metrics


def test_every_command() -> None:
    assert set(_names("command")) == set(cli.COMMANDS)


def test_every_part_of_the_package_with_its_layer() -> None:
    parts = {
        path.stem
        for path in PACKAGE.iterdir()
        if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    names = _names("part of `pushsvc/`")
    assert set(names) == parts
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (each for each in project["tool"]["importlinter"]["contracts"] if each["name"] == "the layers")
    levels = [re.findall(r"\w+", layer) for layer in contract["layers"]]
    depth = {name: level for level, members in enumerate(levels) for name in members}
    assert [depth[name] for name in names] == sorted(depth[name] for name in names)


# --- commands that stand in the text ---------------------------------------------------------------


def _commands() -> list[str]:
    """Every `pushsvc ..` of the code blocks and of the text."""
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    found = [line[line.index("pushsvc ") :] for line in lines if re.match(r"(?:\S*/)?pushsvc ", line)]
    return found + [each for each in code_in(prose(EVERYTHING)) if each.startswith("pushsvc ")]


@pytest.mark.parametrize("command", sorted(set(_commands())))
def test_each_command_of_the_text_exists_with_its_options(command: str) -> None:
    _, name, *words = shlex.split(command)
    assert name in cli.COMMANDS
    target, reported = cli.COMMANDS[name]
    loaded: Any = LazyCommand(name, target, reported, cli.__name__).load()
    if words and not words[0].startswith("-") and hasattr(loaded, "commands"):
        loaded = loaded.commands[words[0]]
    options = {option for param in loaded.params for option in param.opts}
    for word in words:
        assert not word.startswith("-") or word in options, f"{command}: no {word}"


def test_each_make_target_of_the_text_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    named = set(re.findall(r"\bmake\s+(\w+)`", EVERYTHING)) | {
        line.removeprefix("make ") for block in blocks("sh") for line in block.splitlines() if line.startswith("make ")
    }
    assert named >= {"demo", "test", "lint", "bench"}
    assert named <= targets
