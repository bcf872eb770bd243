"""`pushsvc cancel`: cancel the deliveries of a push that have not been sent."""

from __future__ import annotations

from typing import Annotated

import typer

from ..access import App, Key, Url, access
from ..operator.calls import ask, push_path
from ..output import Json
from .status import print_status


def cancel(
    context: typer.Context,
    push_id: Annotated[str, typer.Argument(metavar="ID", help="The id of the push, as printed by `pushsvc send`.")],
    url: Url = "",
    key: Key = "",
    app: App = "",
    json: Json = False,
) -> None:
    """Cancel the deliveries of a push that have not been sent, and show its status."""
    document = ask(access(context.obj, url, key, app), "DELETE", push_path(push_id))
    print_status(document, json=json)
