"""`pushsvc devices`: show, delete, restore, import and export devices.

They ask the API of a running service where a key is known, or else work on the store of the configuration.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ...errors import NotFound
from ..access import Key, Url
from ..operator.operator import operate
from ..output import Json, cell, command_group, print_done, print_items, print_table
from .export import export_devices
from .importing import import_devices
from .restore import restore

devices = command_group("Show, delete, restore, import and export devices; lift the suppression of a token.")
devices.command("restore")(restore)
devices.command("import")(import_devices)
devices.command("export")(export_devices)

Id = Annotated[str, typer.Argument(help="The id of the device.", metavar="ID")]
AppName = Annotated[
    str, typer.Option("--app", help="The app; by default every app that has this device.", metavar="APP")
]


@devices.command("show")
def show(
    context: typer.Context, device_id: Id, app: AppName = "", url: Url = "", key: Key = "", json: Json = False
) -> None:
    """Show a device. Its token is shown as the short hash that logs contain."""
    found = operate(context, app, url, key, lambda operator: operator.device(device_id))
    if not found:
        raise NotFound(f"no app has a device {device_id!r}" if not app else f"{app} has no device {device_id!r}")
    if json:
        print_items(found)
        return
    for document in found:
        cells = [[name, _cell(value)] for name, value in document.items()]
        print_table(("field", "value"), [row for row in cells if row[1]], prose=("value",))


@devices.command("delete")
def delete(
    context: typer.Context,
    device_id: Id,
    app: Annotated[str, typer.Option("--app", help="The app.", metavar="APP")],
    url: Url = "",
    key: Key = "",
    json: Json = False,
) -> None:
    """Delete a device and its index entries. Deliveries that are queued for it are not sent any more."""
    if not operate(context, app, url, key, lambda operator: operator.delete_device(app, device_id), changes=True):
        raise NotFound(f"{app} knows no device {device_id!r}")
    print_done({"app": app, "id": device_id, "deleted": True}, f"deleted {device_id} of {app}", json=json)


@devices.command("unsuppress")
def unsuppress(
    context: typer.Context,
    platform: Annotated[str, typer.Argument(help="The platform of the token: `apns` or `fcm`.", metavar="PLATFORM")],
    token: Annotated[str, typer.Argument(help="The token.", metavar="TOKEN")],
    app: Annotated[str, typer.Option("--app", help="The app.", metavar="APP")],
    url: Url = "",
    key: Key = "",
    json: Json = False,
) -> None:
    """Lift the suppression of a token.

    A provider reported it as dead. Exit with 1 if it is not suppressed.

    The device that was pruned with the token stays pruned; `pushsvc devices restore` restores both.
    """
    if not operate(context, app, url, key, lambda operator: operator.unsuppress(app, platform, token), changes=True):
        raise NotFound(f"{app} has not suppressed this token of {platform}")
    done = {"app": app, "platform": platform, "unsuppressed": True}
    print_done(done, f"lifted the suppression of the token of {app}", json=json)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_tag(each)}" for name, each in value.items())
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else cell(value)


def _tag(value: object) -> str:
    """Return the value of a tag in a form that differs by its type: `true`, `[tea, go]`, `pro`."""
    match value:
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"[{', '.join(map(str, value))}]"
    return cell(value)
