"""`pushsvc channels`: manage APNs broadcast channels, through the API of a running service."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from .access import App, Key, Url, access
from .client import ask
from .output import Json, counted, print_json, print_table

channels = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Create, list and delete broadcast channels (APNs).",
)

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
    made = ask(access(context.obj, url, key, app), lambda client: client.make_channel(storage))
    if json:
        print_json(made)
    else:
        print(made["id"])


@channels.command("list")
def list_channels(context: typer.Context, url: Url = "", key: Key = "", app: App = "", json: Json = False) -> None:
    """List the ids of the channels of the app."""
    ids = ask(access(context.obj, url, key, app), lambda client: client.channels())
    if json:
        print_json({"channels": ids})
    else:
        for each in ids:
            print(each)
        if not ids:
            typer.echo(counted(0, "channel"), err=True)


@channels.command("show")
def show(
    context: typer.Context, channel_id: ChannelId, url: Url = "", key: Key = "", app: App = "", json: Json = False
) -> None:
    """Show a channel."""
    found = ask(access(context.obj, url, key, app), lambda client: client.channel(channel_id))
    if json:
        print_json(found)
    else:
        print_table(("id", "storage"), [[str(found["id"]), str(found["storage"])]])


@channels.command("delete")
def delete(
    context: typer.Context, channel_id: ChannelId, url: Url = "", key: Key = "", app: App = "", json: Json = False
) -> None:
    """Delete a channel permanently. Its id is never used again."""
    ask(access(context.obj, url, key, app), lambda client: client.delete_channel(channel_id))
    if json:
        print_json({"id": channel_id, "deleted": True})
    else:
        print(f"deleted {channel_id}")
