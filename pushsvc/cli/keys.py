"""`pushsvc keys`: API keys in the store, beside those of the configuration.

The text of a key is generated here and printed once; the store keeps its SHA-256 only.
"""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec import structs

from ..errors import NotFound
from ..model.access import SCOPES
from ..model.rates import parse_rate
from ..wording import did_you_mean
from .access import Key, Url
from .operator.operator import operate
from .output import Json, command_group, counted, print_done, print_items, print_json, print_table
from .process import print_message

keys = command_group("Create, list and revoke API keys.")

AppName = Annotated[str, typer.Option("--app", help="The app it belongs to.", metavar="APP")]
KeyName = Annotated[str, typer.Option("--name", help="The name of the key.", metavar="NAME")]


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
    url: Url = "",
    key: Key = "",
    json: Json = False,
) -> None:
    """Create a key and print it. It is shown only once."""
    from ..settings.loading import check_name

    wanted = set(scope or ("push",))
    try:
        rate = parse_rate(intake)
    except ValueError as error:
        raise typer.BadParameter(f"--intake: {error}") from None
    if unknown := wanted.difference(SCOPES):
        name = min(unknown)
        raise typer.BadParameter(f"--scope: unknown scope {name!r}; {did_you_mean(name, SCOPES)}")
    scopes = tuple(each for each in SCOPES if each in wanted)
    if fault := check_name(name):
        raise typer.BadParameter(f"--name: {fault}")
    made = operate(context, app, url, key, lambda operator: operator.make_key(app, name, scopes, rate), changes=True)
    if json:
        print_json({"key": made.text, "sha256": made.sha256, **structs.asdict(made.row), "store": made.store})
    else:
        print_message(f"The key {name!r} of {app}, kept at {made.store}; it is not shown again:")
        print(made.text)
        print_message(f"Its SHA-256, to put it into a configuration instead:\n{made.sha256}")


@keys.command("list")
def list_keys(
    context: typer.Context,
    app: Annotated[str, typer.Option("--app", help="Only keys of this app.", metavar="APP")] = "",
    url: Url = "",
    key: Key = "",
    json: Json = False,
) -> None:
    """List the keys of the store and of the configuration."""
    found = operate(context, app, url, key, lambda operator: operator.keys())
    rows = sorted(found, key=lambda row: (row.app, row.name))
    if json:
        print_items(structs.asdict(row) for row in rows)
        return
    print_table(
        ("app", "name", "scopes", "intake", "created", "kept in", "last used"),
        [
            [
                *(row.app, row.name, ", ".join(row.scopes), row.intake or "", row.created_at or ""),
                *(row.kept_in, row.last_used_at or ""),
            ]
            for row in rows
        ],
        prose=("scopes",),
        none=counted(0, "key"),
    )


@keys.command("revoke")
def revoke(
    context: typer.Context, app: AppName, name: KeyName, url: Url = "", key: Key = "", json: Json = False
) -> None:
    """Revoke a key. Running servers stop accepting it within seconds."""
    if not operate(context, app, url, key, lambda operator: operator.revoke_key(app, name), changes=True):
        raise NotFound(f"{app} has no key {name!r} in the store; `pushsvc keys list` shows what there is")
    print_done({"app": app, "name": name, "revoked": True}, f"revoked {name!r} of {app}", json=json)
