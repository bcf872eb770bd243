"""`pushsvc send`: send a push from flags, from a JSON document, or from both; flags take precedence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from ...errors import PushsvcError
from ...model.instants import instant
from ...model.push import JsonObject
from ..access import Access, App, Key, Url, access
from ..files import reading
from ..instants import instant_option
from ..operator.calls import open_calls
from ..output import Json, Missing, print_json
from ..process import print_message
from ..running import run
from .follow import follow, verdict

Text = str | None


def _option(name: str, text: str, metavar: str = "TEXT") -> Any:
    return typer.Option(name, help=text, metavar=metavar)


def send(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A push document as JSON, or - for standard input. Flags take precedence over it.", metavar="FILE"
        ),
    ] = None,
    apns: Annotated[list[str] | None, _option("--apns", "An APNs device token; may be repeated.", "TOKEN")] = None,
    fcm: Annotated[list[str] | None, _option("--fcm", "An FCM registration token; may be repeated.", "TOKEN")] = None,
    fid: Annotated[list[str] | None, _option("--fid", "A Firebase installation id; may be repeated.", "FID")] = None,
    device: Annotated[list[str] | None, _option("--device", "A registered device; may be repeated.", "ID")] = None,
    user: Annotated[list[str] | None, _option("--user", "All devices of a user; may be repeated.", "USER")] = None,
    topic: Annotated[Text, _option("--topic", "All devices that are subscribed to this topic.", "TOPIC")] = None,
    where: Annotated[
        Text, _option("--where", "All devices that match: \"tags.plan == 'pro' and locale == 'de'\".", "EXPRESSION")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="All devices of the app.")] = False,
    title: Annotated[Text, _option("--title", "The title.")] = None,
    subtitle: Annotated[Text, _option("--subtitle", "The subtitle (APNs).")] = None,
    body: Annotated[Text, _option("--body", "The text.")] = None,
    image: Annotated[Text, _option("--image", "A picture's URL.", "URL")] = None,
    sound: Annotated[Text, _option("--sound", "The sound's name, `default` for the usual one.")] = None,
    badge: Annotated[int | None, _option("--badge", "The number on the app's icon; 0 removes the badge.", "N")] = None,
    link: Annotated[Text, _option("--link", "The link that a tap opens.", "URL")] = None,
    category: Annotated[Text, _option("--category", "The category, which defines the actions.")] = None,
    thread: Annotated[Text, _option("--thread", "Groups notifications on the phone.")] = None,
    channel: Annotated[Text, _option("--channel", "The notification channel (Android).")] = None,
    data: Annotated[list[str] | None, _option("--data", "Data for the app; may be repeated.", "NAME=VALUE")] = None,
    lane: Annotated[
        Literal["urgent", "normal", "bulk"] | None,
        typer.Option("--lane", help="The queue's lane."),
    ] = None,
    priority: Annotated[
        Literal["high", "normal"] | None, typer.Option("--priority", help="The phone's priority.")
    ] = None,
    push_type: Annotated[Text, _option("--push-type", "APNs push type: alert, background, voip ..")] = None,
    silent: Annotated[bool, typer.Option("--silent", help="Wake the app and show nothing.")] = False,
    ttl: Annotated[int | None, _option("--ttl", "Expire after this many seconds.", "SECONDS")] = None,
    collapse: Annotated[Text, _option("--collapse", "Replace an earlier notification with this id.", "ID")] = None,
    send_at: Annotated[
        str, _option("--send-at", "When to send it: 2026-12-01T09:00:00Z, or 30m, 2h, 7d from now.", "WHEN")
    ] = "",
    via: Annotated[
        Literal["auto", "live", "provider"] | None,
        typer.Option("--via", help="The channel: by the app's rules, only the live one, or only the provider."),
    ] = None,
    ack_within: Annotated[
        float | None,
        _option(
            "--ack-within", "How long to wait for the device's acknowledgement before the next channel.", "SECONDS"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything except show the push on a phone.")] = False,
    idempotency_key: Annotated[
        Text, _option("--idempotency-key", "A repeated call with the same key sends nothing.", "KEY")
    ] = None,
    follow_it: Annotated[bool, typer.Option("--follow", "-f", help="Wait until every delivery has ended.")] = False,
    url: Url = "",
    key: Key = "",
    app: App = "",
    json: Json = False,
) -> None:
    """Send a push and print its id. Warnings of the API go to standard error; with --json they are in `warnings`.

    With --follow, exit with 1 if not a single delivery was sent.
    """
    document = read_document(file) if file else {}
    words = {
        "title": title, "subtitle": subtitle, "body": body, "image": image, "sound": sound, "badge": badge,
        "link": link, "category": category, "thread": thread, "channel": channel,
    }  # fmt: skip
    how = {
        "lane": lane, "priority": priority, "push_type": push_type, "ttl": ttl, "collapse": collapse, "via": via,
        "ack_within": ack_within,
    }  # fmt: skip
    starts_at = instant_option(send_at, option="--send-at", ahead=True)
    tokens = [
        *({"platform": "apns", "token": token} for token in apns or ()),
        *({"platform": "fcm", "token": token} for token in fcm or ()),
        *({"platform": "fcm", "fid": name} for name in fid or ()),
    ]
    to = {"tokens": tokens, "devices": device, "users": user, "topic": topic, "where": where, "all": everybody}
    lay_over(
        document,
        to={name: value for name, value in to.items() if value not in (None, False, [])},
        notification={name: value for name, value in words.items() if value is not None},
        data=dict(_pair(text) for text in data or ()),
        rest={
            **{name: value for name, value in how.items() if value is not None},
            **({"silent": True} if silent else {}),
            **({} if starts_at is None else {"send_at": instant(starts_at)}),
            **({"dry_run": True} if dry_run else {}),
        },
    )
    if "to" not in document:
        raise Missing(
            "No receiver: give --apns or --fcm TOKEN, --device ID, --user USER, --topic TOPIC, --where EXPRESSION "
            "or --all, or a FILE with `to`."
        )
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    run(_send(access(context.obj, url, key, app), document, headers, follow_it=follow_it, json=json))


async def _send(at: Access, document: JsonObject, headers: dict[str, str], *, follow_it: bool, json: bool) -> None:
    async with open_calls(at) as api:
        answer = await api.document("POST", "/v1/push", document, headers)
        warnings = answer.get("warnings") or []
        if not json:
            for warning in warnings:
                print_message(f"warning: {warning['path']}: {warning['message']}")
        if not follow_it:
            if json:
                print_json(answer)
            else:
                print(answer["id"])
            return
        if not json:
            print(answer["id"], flush=True)
        status = await follow(api, str(answer["id"]), quiet=json)
        if json:
            print_json({**status, "warnings": warnings} if warnings else status)
        if not verdict(status, quiet=json):
            raise typer.Exit(1)


def read_document(file: Path) -> JsonObject:
    """Return the push document of a file, or of standard input for `-`."""
    name = "standard input" if str(file) == "-" else str(file)
    with reading(str(file)) as stream:
        content = stream.read()
    try:
        # Values as they stand there: through Python's numbers 1.10 would become 1.1, and 2**53 + 1.0 another number.
        return dict(msgspec.json.decode(content.decode("utf-8-sig"), type=dict[str, msgspec.Raw]))
    except msgspec.ValidationError:
        raise PushsvcError(f'{name} does not hold a push document: a JSON object such as {{"to": ..}}') from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PushsvcError(f"{name} is not JSON: {error}") from None


def lay_over(
    document: JsonObject,
    *,
    to: dict[str, Any],
    notification: dict[str, Any],
    data: dict[str, str],
    rest: dict[str, Any],
) -> None:
    """Merge the flags into the document.

    Receivers replace its `to`; the API checks that they are named in one way only. The others are merged key by key.
    """
    if to:
        document["to"] = to
    for name, values in (("notification", notification), ("data", data)):
        if values:
            document[name] = {**_entries(document.get(name)), **values}
    document.update(rest)


def _entries(value: Any) -> dict[str, Any]:
    """Return the entries of an object with their values unchanged, or none for any other value."""
    if not isinstance(value, msgspec.Raw):
        return value if isinstance(value, dict) else {}
    try:
        return dict(msgspec.json.decode(value, type=dict[str, msgspec.Raw]))
    except msgspec.ValidationError:
        return {}


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"--data takes NAME=VALUE, not {text!r}")
    return name, value
