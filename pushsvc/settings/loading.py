"""Loads the configuration from a file and the environment into `Settings`, or raises one `ConfigError` with all
faults.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, structs

from ..decoding import WRONG, Faults, decode
from ..errors import ConfigError
from ..model.routing import CARRIERS, platform_of
from ..rules.where import WhereError, compile_where
from ..wording import TOML, did_you_mean, join, show
from .environment import PREFIX, names_of, overlay, sections_of
from .live import LiveSettings
from .schema import (
    AppSettings,
    QueueSettings,
    RedisSettings,
    ServerSettings,
    Settings,
    StoreSettings,
)
from .values import Name

SIMULATED: Final = "# Written by pushsvc for its simulator"
"""The beginning of the configuration of a playground, which `pushsvc up --simulator` writes."""


def is_simulated(path: Path | None) -> bool:
    """Return whether a configuration is that of a playground: only `pushsvc up --simulator` starts its providers."""
    if path is None:
        return False
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().startswith(SIMULATED)
    except (OSError, UnicodeDecodeError):
        return False


def load(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    providers: Mapping[str, type[Struct]],
    kind: type[Settings] = Settings,
) -> Settings:
    """Return the configuration of the file at `path` (None: defaults only), overridden by `PUSHSVC__..` of `environ`.

    `providers` maps a platform to the struct of its section `[apps.NAME.PLATFORM]`; `kind` is `Settings`, or a subclass
    with the providers' keys (see `settings_type`). Relative paths are relative to the file's folder or, without a file,
    to the working directory. Raises `ConfigError` with every fault at once.
    """
    return _load_tree(_read(path) if path else {}, path, environ, kind, providers)


def load_server(path: Path | None, environ: Mapping[str, str]) -> ServerSettings:
    """Load only the section `[server]`, by which a client finds the server. Raises `ConfigError`. The other sections
    are not validated, so that no provider has to be imported."""
    tree = _read(path) if path else {}
    server = {"server": tree["server"]} if "server" in tree else {}
    ours = {variable: text for variable, text in environ.items() if names_of(variable)[:1] == ["server"]}
    return _load_tree(server, path, ours, Settings, {}).server


def _load_tree(
    tree: dict[str, Any],
    path: Path | None,
    environ: Mapping[str, str],
    kind: type[Settings],
    providers: Mapping[str, type[Struct]],
) -> Settings:
    faults = Faults(TOML)
    try:
        origins, files = overlay(tree, environ, kind, providers, faults)
        _check_characters(tree, "", faults)
        settings = _settings(tree, path, kind, providers, faults)
    except RecursionError:
        raise ConfigError(_name(path), *_DEEP) from None
    if faults:
        raise _error(path, faults, origins)
    assert settings is not None, "no settings without a fault"
    return structs.replace(settings, value_files=files)


def check_name(name: str) -> str:
    """Return what is wrong with the name of an app or a key, or the empty string."""
    faults = Faults(TOML)
    decode(name, Name, "name", faults)
    return faults[0].message if faults else ""


def _read(path: Path) -> dict[str, Any]:
    text = ""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(
            str(path), "no such file", "name one with --config or PUSHSVC_CONFIG; `pushsvc init` writes one"
        ) from None
    except IsADirectoryError:
        raise ConfigError(str(path), "is a folder", "name the file in it: --config FILE") from None
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", "check its permissions") from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), f"not UTF-8 at byte {error.start}", "save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), f"not valid TOML: {error}", _toml_remedy(text, str(error))) from None
    except RecursionError:
        raise ConfigError(str(path), *_DEEP) from None
    except ValueError:  # Python reads no number of more than some thousand digits.
        raise ConfigError(str(path), "not valid TOML: a number is too long", "write a smaller one") from None


_DEEP: Final = ("values are nested too deeply", "look for brackets, or dots in a name, that are repeated")


_PLACE: Final = re.compile(r"\(at line (\d+), column (\d+)\)")
_SWITCH: Final = re.compile(r"(?:true|false|yes|no|on|off)\b", re.IGNORECASE)
_BARE: Final = re.compile(r"[^\s\"'#,\]}]")


def _toml_remedy(text: str, error: str) -> str:
    """Return what to do about what `tomllib` reports. No value is repeated: it may be a secret."""
    if error.startswith("Cannot declare"):
        return "this section is there twice: join the two"
    if error.startswith(("Cannot overwrite a value", "Duplicate inline table key")):
        return "this key is there twice: leave one of them out"
    lines = text.replace("\r\n", "\n").split("\n")
    place = _PLACE.search(error)
    line = lines[int(place[1]) - 1] if place else lines[-1]
    rest = line[int(place[2]) - 1 :] if place else ""
    if error.startswith("Invalid value"):
        if _SWITCH.match(rest):
            return "write true or false, in small letters; texts need quotes"
        return 'texts need quotes: "text"' if _BARE.match(rest) else 'a value is missing: "text", 1, true or false'
    if error.startswith("Expected newline") and _BARE.match(line.partition("=")[2].lstrip()):
        return 'texts need quotes: "text"; one key stands in a line'
    return "see https://toml.io/en/v1.0.0"


def _settings(
    tree: dict[str, Any],
    path: Path | None,
    kind: type[Settings],
    providers: Mapping[str, type[Struct]],
    faults: Faults,
) -> Settings | None:
    base = path.absolute().parent if path else Path.cwd()
    known = sections_of(kind, providers)
    values: dict[str, Any] = {"file": path}
    for name in tree:
        if name not in known:
            faults(name, f"unknown section; {did_you_mean(name, known)}")
    for name, section in known.items():
        if name not in tree:
            continue
        values[name] = (
            _apps(tree[name], base, providers, faults) if name == "apps" else decode(tree[name], section, name, faults)
        )
    # What could be decoded is checked further all the same, so that every fault is named at once.
    decoded = {name: value for name, value in values.items() if value is not WRONG}
    apps: Mapping[str, AppSettings] = decoded.get("apps") or {}
    _check_keys(apps, faults)
    _check_routes(tree.get("feedback"), apps, faults)
    _check_environments(apps, faults)
    _check_durability(values, faults)
    if faults:
        return None
    store: StoreSettings = values.get("store", StoreSettings())
    values["store"] = structs.replace(store, data_dir=base / _expanded(store.data_dir))
    live: LiveSettings = values.get("live", LiveSettings())
    values["live"] = structs.replace(
        live, tls_cert=_absolute(live.tls_cert, base), tls_key=_absolute(live.tls_key, base)
    )
    return kind(**values)


def _apps(
    raw: object, base: Path, providers: Mapping[str, type[Struct]], faults: Faults
) -> dict[str, AppSettings] | None:
    if not isinstance(raw, Mapping):
        faults("apps", f"expected sections [apps.NAME], found {show(raw, TOML)}")
        return None
    apps = {}
    for name, body in raw.items():
        path = f"apps.{name}"
        decode(name, Name, path, faults)
        if isinstance(body, Mapping):
            apps[name] = _app(name, body, path, base, providers, faults)
        else:
            faults(path, f"expected a section [{path}], found {show(body, TOML)}")
    return apps


def _app(
    name: str,
    body: Mapping[str, Any],
    path: str,
    base: Path,
    providers: Mapping[str, type[Struct]],
    faults: Faults,
) -> Any:
    known = sections_of(AppSettings, providers)
    values: dict[str, Any] = {}
    accounts: dict[str, Struct] = {}
    for key, raw in body.items():
        where = join(path, key)
        if key not in known:
            faults(where, f"unknown key; {did_you_mean(key, known)}")
        elif key in providers:
            accounts[key] = decode(_with_files(raw, base), providers[key], where, faults)
        else:
            values[key] = decode(_with_files(raw, base), known[key], where, faults)
    if isinstance(live := body.get("live"), Mapping):
        _check_orders(name, live, bool(accounts), {*map(platform_of, providers), *CARRIERS}, faults)
    decoded = {key: value for key, value in values.items() if value is not WRONG}
    return AppSettings(name=name, providers=accounts, **decoded)


def _check_characters(raw: object, path: str, faults: Faults) -> None:
    """Add a fault for each text with a NUL character, which the functions of the system refuse."""
    match raw:
        case str() if "\0" in raw:
            faults(path, "contains a NUL character, which no path, host or secret may have")
        case Mapping():
            for name, value in raw.items():
                _check_characters(value, join(path, name), faults)
        case list():
            for place, value in enumerate(raw):
                _check_characters(value, f"{path}[{place}]", faults)


def _check_durability(values: Mapping[str, Any], faults: Faults) -> None:
    """Add a fault if pushes would wait for a flush or a replica that this store does not have. Where one of these
    sections is wrong, that is not known."""
    if WRONG in (values.get("redis"), values.get("store"), values.get("queue")):
        return
    redis: RedisSettings = values.get("redis", RedisSettings())
    store: StoreSettings = values.get("store", StoreSettings())
    queue: QueueSettings = values.get("queue", QueueSettings())
    if not redis.url and queue.durability == "fsync" and store.fsync == "no":
        faults("queue.durability", '"fsync" waits for the disk, but store.fsync = "no" never flushes to it')
    if not redis.url and queue.durability == "replicas":
        faults("queue.durability", '"replicas" waits for replicas, which the embedded store lacks: set redis.url')


def _check_routes(feedback: object, apps: Mapping[str, AppSettings], faults: Faults) -> None:
    """Add a fault for each override of a route that does not exist, because it would have no effect. Reads the section
    as it is written, whatever else is wrong with it."""
    overrides = feedback.get("prune_anyway") if isinstance(feedback, Mapping) else None
    known = [f"{app.name}/{platform}" for app in apps.values() for platform in app.providers]
    for route in overrides if isinstance(overrides, Mapping) else ():
        if route not in known:
            faults(join("feedback.prune_anyway", route), f"no such route; {did_you_mean(route, known)}")


def _check_environments(apps: Mapping[str, AppSettings], faults: Faults) -> None:
    """Add a fault if two accounts have the same environment, because their tokens could not be distinguished."""
    for app in apps.values():
        owners: dict[tuple[str, str], str] = {}
        for route, config in app.providers.items():
            environment = getattr(config, "environment", route)
            owner = owners.setdefault((platform_of(route), environment), route)
            if owner != route:
                text = f"[apps.{app.name}.{owner}] and [apps.{app.name}.{route}] are both for {environment}"
                faults(f"apps.{app.name}.{owner}.environment", f"{text}: each environment has one account")


def _check_orders(app: str, live: Mapping[str, Any], reached: bool, platforms: Collection[str], faults: Faults) -> None:
    """Add a fault for each rule of a live channel that selects nothing it could mean, and for each order that leaves
    the devices of an app without a channel: `reached` is whether it has a provider. Reads the section as it is written,
    whatever else is wrong with it."""
    path = f"apps.{app}.live"
    orders = {f"{path}.order": live.get("order")}
    rules = live.get("rules")
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        if not isinstance(rule, Mapping):
            continue
        orders[f"{path}.rules[{index}].order"] = rule.get("order")
        if isinstance(where := rule.get("where"), str):
            try:
                compile_where(where, now=0, platforms=sorted(platforms))
            except WhereError as error:
                for fault in error.faults:
                    faults(f"{path}.rules[{index}].where", str(fault))
    for place, order in orders.items():
        if order == "provider" and not reached:
            faults(place, f'"provider" reaches no device: the app has no provider; add [apps.{app}.apns] or .fcm')


def _check_keys(apps: Mapping[str, AppSettings], faults: Faults) -> None:
    """Add a fault for each key that two apps share, and for duplicate names of keys within an app."""
    owners: dict[str, str] = {}
    for app in apps.values():
        names: set[str] = set()
        for index, key in enumerate(app.keys):
            path = f"apps.{app.name}.keys[{index}]"
            if key is WRONG:
                continue
            if key.name in names:
                faults(join(path, "name"), f"another key of the app is called {key.name!r}")
            names.add(key.name)
            owner = owners.setdefault(key.sha256, path)
            if owner != path:
                faults(join(path, "sha256"), f"the same key as {owner}; each key belongs to one app, once")


def _expanded(path: Path) -> Path:
    """Return the path with `~` replaced by the home folder. An unknown user's `~name` is kept."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _with_files(raw: object, base: Path) -> object:
    """Return the section with its relative paths made absolute: keys that end in `_file`, empty meaning none."""
    if not isinstance(raw, Mapping):
        return raw
    return {
        name: _absolute(value, base) if name.endswith("_file") and isinstance(value, str) else value
        for name, value in raw.items()
    }


def _absolute(path: str, base: Path) -> str:
    """Return the path, relative to the folder of the file; an empty one stays empty."""
    return str(base / _expanded(Path(path))) if path else ""


def _error(path: Path | None, faults: Faults, origins: Mapping[str, str]) -> ConfigError:
    file = _name(path)
    lines = [(_origin(fault.path, origins), fault.message) for fault in faults]
    if len(lines) == 1:
        (where, message) = lines[0]
        in_file = where == faults[0].path and not where.upper().startswith(PREFIX)
        return ConfigError(where, message, f"in {file}" if in_file else "")
    return ConfigError(file, f"{len(lines)} faults" + "".join(f"\n  {where}: {message}" for where, message in lines))


def _name(path: Path | None) -> str:
    return str(path) if path else "the configuration"


def _origin(path: str, origins: Mapping[str, str]) -> str:
    """Return the dotted path, with the variable that set it or a section around it."""
    variable = next((origins[at] for at in _upwards(path) if at in origins), "")
    return f"{path} (from {variable})" if variable else path


def _upwards(path: str) -> list[str]:
    ends = [index for index, letter in enumerate(path) if letter in ".["]
    return [path, *(path[:end] for end in reversed(ends))]
