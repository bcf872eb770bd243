"""`pushsvc users`: erase a user. It asks the API of a running service where a key is known, or else works on the
store of the configuration."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import InvalidRequest, PushsvcError
from ..ports.erasure import UNCONFIRMED, WHAT, Erasure
from .access import Key, Url
from .operator.operator import open_operator
from .output import Json, command_group, note_interrupt, print_json, print_table
from .process import print_message
from .running import run

users = command_group("Erase a user.")


class NotErased(PushsvcError):
    """The erasure is not complete: a delivery to the user is in flight, or a dispatcher still holds one.

    `pushsvc jobs` continues it.
    """


@users.callback()
def _group() -> None:
    """Make a group out of this single command."""


@users.command("erase")
def erase(
    context: typer.Context,
    user: Annotated[str, typer.Argument(help="The id of the user.", metavar="USER")],
    app: Annotated[str, typer.Option("--app", help="The app.", metavar="APP")],
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="How long to wait for the erasure to complete.", metavar="SECONDS")
    ] = 300.0,
    url: Url = "",
    key: Key = "",
    json: Json = False,
) -> None:
    """Erase a user and everything stored about them.

    Removes the user's devices, and everything stored under their ids and tokens. Exit with 1 if it is not complete yet.

    Once started, nothing more is sent to them. An erasure that is interrupted, or not complete in time, is continued
    by `pushsvc jobs` or by the same command. For an hour after its end the same command prints the same result; an
    unknown user is not an error.
    """
    from ..model.devices import name_fault

    if fault := name_fault(user):
        raise InvalidRequest(f"the user {fault}")
    erasure = run(_erase(context, app, user, wait, url, key))
    if json:
        removed = {what: erasure.removed.get(what, 0) for what in WHAT}
        warnings = {} if erasure.confirmed else {"warnings": [UNCONFIRMED]}
        report = {"app": app, "user": user, "erased": erasure.devices, "done": erasure.done, "removed": removed}
        print_json({**report, **warnings})
    else:
        rows = [["devices", f"{erasure.devices:,}"]]
        rows += [[what.replace("_", " "), f"{count:,}"] for what in WHAT if (count := erasure.removed.get(what))]
        print_table(("erased", "records"), rows)
        if not erasure.confirmed:
            print_message(f"warning: {UNCONFIRMED}")
    if not erasure.done:
        raise NotErased("the erasure is not complete yet; `pushsvc jobs` continues it, and so does this command")


async def _erase(context: typer.Context, app: str, user: str, wait: float, url: str, key: str) -> Erasure:
    async with open_operator(context, app, url, key, changes=True) as operator:
        with note_interrupt(lambda: "once started, the erasure is continued by `pushsvc jobs`, or by this command"):
            return await operator.erase_user(app, user, wait)
