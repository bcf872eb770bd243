"""`pushsvc users`: erase one. It works on the store, so it needs no API key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InvalidRequest, PushsvcError
from ..ports.erasure import UNHEARD, WHAT, Erasure
from .failed import apps_of
from .output import Json, going_on, print_json, print_table
from .running import run

if TYPE_CHECKING:
    from ..settings import Settings

users = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Erase a user.")


class NotErased(PushsvcError):
    """Something is still being sent to the user, or an old entry is held; it is gone on with by `pushsvc jobs`."""


@users.callback()
def _group() -> None:
    """A group, also while it has one command."""


@users.command("erase")
def erase(
    context: typer.Context,
    user: Annotated[str, typer.Argument(help="The user, as the devices name them.", metavar="USER")],
    app: Annotated[str, typer.Option("--app", help="The app.", metavar="APP")],
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="How long to wait for it to finish.", metavar="SECONDS")
    ] = 300.0,
    json: Json = False,
) -> None:
    """Erase a user: devices, and all that is kept of their ids and tokens. Exit with 1 when that is not done yet.

    Once it has begun, nothing more is sent to them. Interrupted, or not finished in time, it is continued by `pushsvc
    jobs`, or by the same command again. For an hour after its end the same command prints the same; an unknown user is
    no error.
    """
    from ..model.devices import name_fault

    settings: Settings = context.obj.settings()
    apps_of(settings, app)
    if fault := name_fault(user):
        raise InvalidRequest(f"the user {fault}")
    erasure = run(_erase(settings, app, user, wait))
    if json:
        removed = {what: erasure.removed.get(what, 0) for what in WHAT}
        warnings = {} if erasure.heard else {"warnings": [UNHEARD]}
        told = {"app": app, "user": user, "erased": erasure.devices, "done": erasure.done, "removed": removed}
        print_json({**told, **warnings})
    else:
        rows = [["devices", f"{erasure.devices:,}"]]
        rows += [[what.replace("_", " "), f"{count:,}"] for what in WHAT if (count := erasure.removed.get(what))]
        print_table(("erased", "records"), rows)
        if not erasure.heard:
            typer.echo(f"warning: {UNHEARD}", err=True)
    if not erasure.done:
        raise NotErased("it is not done yet; `pushsvc jobs` continues it, and so does this command")


async def _erase(settings: Settings, app: str, user: str, wait: float) -> Erasure:
    from ..runtime import open_existing_store

    async with open_existing_store(settings) as store:
        with going_on(lambda: "once begun, `pushsvc jobs` goes on with the erasure; so does this command"):
            return await store.erasures.erase(app, user, wait=wait)
