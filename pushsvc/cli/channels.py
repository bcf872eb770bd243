"""`pushsvc channels`: manage APNs broadcast channels, through the API of a running service."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from .access import App, Key, Url, access
from .operator.calls import ask, quoted
from .output import Json, command_group, counted, print_done, print_items, print_json, print_table
from .process import print_message

channels = command_group("Create, list and delete broadcast channels (APNs).")

PATH = "/v1/channels"

ChannelId = Annotated[str, typer.Argument(metavar="ID", help="The id of the channel.")]


@channels.command("new")
def new(
    context: typer.Context,
    storage: Annotated[
        Literal["none", "latest"],
        typer.Option(
            "--storage",
            help="What APNs stores for offline phones: nothing, which allows more pushes, or the latest push.",
        ),
    ] = "none",
    url: Url = "",
    key: Key = "",
    app: App = "",
    json: Json = False,
) -> None:
    """Create a channel and print its id."""
    made = ask(access(context.obj, url, key, app), "POST", PATH, {"storage": storage})
    print_done(made, made["id"], json=json)


@channels.command("list")
def list_channels(context: typer.Context, url: Url = "", key: Key = "", app: App = "", json: Json = False) -> None:
    """List the ids of the channels of the app."""
    ids = ask(access(context.obj, url, key, app), "GET", PATH)["channels"]
    if json:
        print_items(ids)
    else:
        for each in ids:
            print(each)
        if not ids:
            print_message(counted(0, "channel"))


@channels.command("show")
def show(
    context: typer.Context, channel_id: ChannelId, url: Url = "", key: Key = "", app: App = "", json: Json = False
) -> None:
    """Show a channel."""
    found = ask(access(context.obj, url, key, app), "GET", _of(channel_id))
    if json:
        print_json(found)
    else:
        print_table(("id", "storage"), [[str(found["id"]), str(found["storage"])]])


@channels.command("delete")
def delete(
    context: typer.Context, channel_id: ChannelId, url: Url = "", key: Key = "", app: App = "", json: Json = False
) -> None:
    """Delete a channel permanently. Its id is never used again."""
    ask(access(context.obj, url, key, app), "DELETE", _of(channel_id))
    print_done({"id": channel_id, "deleted": True}, f"deleted {channel_id}", json=json)


def _of(channel_id: str) -> str:
    return f"{PATH}/{quoted(channel_id)}"
