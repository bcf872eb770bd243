"""`pushsvc keys`: API keys in the store, beside those of the configuration.

The text of a key is generated here and printed once; the store keeps its SHA-256 only.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError, NotFound, PushsvcError
from ..model.access import SCOPES, ApiKey
from ..model.instants import instant
from ..model.rates import parse_rate
from ..ports.keyring import make_key
from .output import Json, print_json, print_table
from .running import run

if TYPE_CHECKING:
    from ..settings import Settings

keys = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Create, list and revoke API keys."
)

AppName = Annotated[str, typer.Option("--app", help="The app it belongs to.", metavar="APP")]
KeyName = Annotated[str, typer.Option("--name", help="The name of the key.", metavar="NAME")]


class KeyExists(PushsvcError):
    """The app already has a key of this name."""


@keys.command("new")
def new(
    context: typer.Context,
    app: AppName,
    name: KeyName,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help=f"One of {', '.join(SCOPES)}; may be repeated. By default push.", metavar="SCOPE"),
    ] = None,
    intake: Annotated[
        str, typer.Option("--intake", help="How many pushes may be posted with it, such as 600/min.", metavar="RATE")
    ] = "0",
    json: Json = False,
) -> None:
    """Create a key and print it. It is shown only once."""
    wanted = set(scope or ("push",))
    try:
        rate = parse_rate(intake)
    except ValueError as error:
        raise typer.BadParameter(f"--intake: {error}") from None
    if unknown := wanted.difference(SCOPES):
        raise typer.BadParameter(f"--scope: unknown scope {', '.join(sorted(unknown))}; there are {', '.join(SCOPES)}")
    settings = context.obj.settings()
    _require_app(settings, app)
    scopes = tuple(each for each in SCOPES if each in wanted)
    text, key = make_key(app, name, scopes, rate, now=int(time.time() * 1000))
    _check_name(settings, key)
    run(_add(settings, key))
    if json:
        print_json({"key": text, "sha256": key.sha256, **_row(key, "store")})
    else:
        typer.echo(f"The key {name!r} of {app}; it is not shown again:", err=True)
        print(text)
        typer.echo(f"Its SHA-256, to put it into a configuration instead: {key.sha256}", err=True)


@keys.command("list")
def list_keys(
    context: typer.Context,
    app: Annotated[str, typer.Option("--app", help="Only keys of this app.", metavar="APP")] = "",
    json: Json = False,
) -> None:
    """List the keys of the store and of the configuration."""
    settings = context.obj.settings()
    if app:
        _require_app(settings, app)
    elif not settings.apps:
        settings.require_apps()
    stored = run(_all(settings))
    both = [(key, "configuration") for key in _configured(settings)] + [(key, "store") for key in stored]
    kept = sorted(
        ((key, where) for key, where in both if not app or key.app == app), key=lambda pair: (pair[0].app, pair[0].name)
    )
    if json:
        print_json([_row(key, where) for key, where in kept])
        return
    print_table(
        ("app", "name", "scopes", "intake", "created", "kept in"),
        [[key.app, key.name, ", ".join(key.scopes), _rate(key) or "", _made(key) or "", where] for key, where in kept],
    )


@keys.command("revoke")
def revoke(context: typer.Context, app: AppName, name: KeyName, json: Json = False) -> None:
    """Revoke a key. Running servers stop accepting it within seconds."""
    settings = context.obj.settings()
    if not settings.apps:
        settings.require_apps()
    if any(key.app == app and key.name == name for key in _configured(settings)):
        raise ConfigError(
            f"apps.{app}.keys",
            f"the key {name!r} is in the configuration",
            "remove it there: running servers stop accepting it within seconds",
        )
    if not run(_revoke(settings, app, name)):
        raise NotFound(f"{app} has no key {name!r} in the store; `pushsvc keys list` shows what there is")
    if json:
        print_json({"app": app, "name": name, "revoked": True})
    else:
        print(f"revoked {name!r} of {app}")


def _require_app(settings: Settings, app: str) -> None:
    if app in settings.apps:
        return
    near = difflib.get_close_matches(app, settings.apps, n=1)
    told = f"did you mean {near[0]}?" if near else f"it has {', '.join(settings.apps) or 'none'}"
    raise ConfigError(f"apps.{app}", "no such app in the configuration", told)


def _check_name(settings: Settings, key: ApiKey) -> None:
    from ..settings import check_name

    if fault := check_name(key.name):
        raise typer.BadParameter(f"--name: {fault}")
    if any(other.app == key.app and other.name == key.name for other in _configured(settings)):
        raise KeyExists(f"the configuration has a key {key.name!r} of {key.app}: choose another name")


def _configured(settings: Settings) -> list[ApiKey]:
    return [
        ApiKey(name=key.name, app=app.name, sha256=key.sha256, scopes=key.scopes, intake=key.intake)
        for app in settings.apps.values()
        for key in app.keys
    ]


async def _add(settings: Settings, key: ApiKey) -> None:
    from ..runtime import open_configured_store

    async with open_configured_store(settings) as store:
        if any(other.app == key.app and other.name == key.name for other in await store.keys.all()):
            raise KeyExists(f"{key.app} has a key {key.name!r} already: revoke it first or choose another name")
        await store.keys.add(key)


async def _all(settings: Settings) -> Sequence[ApiKey]:
    from ..runtime import open_running_store

    async with open_running_store(settings) as store:
        return await store.keys.all()


async def _revoke(settings: Settings, app: str, name: str) -> bool:
    from ..runtime import open_existing_store

    async with open_existing_store(settings) as store:
        return await store.keys.revoke(name, app)


def _row(key: ApiKey, kept_in: str) -> dict[str, object]:
    return {
        "app": key.app,
        "name": key.name,
        "scopes": key.scopes,
        "intake": _rate(key),
        "created_at": _made(key),
        "kept_in": kept_in,
    }


def _rate(key: ApiKey) -> str | None:
    return str(key.intake) if key.intake is not None else None


def _made(key: ApiKey) -> str | None:
    return instant(key.created_at) if key.created_at else None
