"""The request to FCM that a message becomes, for people to look at."""

from __future__ import annotations

import msgspec

from ...errors import CredentialError
from ...model.push import Message
from ...ports.provider import TARGET, Preview
from ..again import unbound
from ..merge import encode
from .config import Config
from .credentials import load_service_account
from .limits import LIMIT, size_of


def preview(config: Config, message: Message, *, push_id: str, expires_at: int, dry_run: bool) -> Preview:
    """Return the request for the first target of a push as of its acceptance, without its authorization."""
    try:
        project = load_service_account(config).project_id
    except CredentialError:
        project = "<project>"
    content = msgspec.json.decode(message.body)
    whole = {"validate_only": True} if dry_run else {}
    body = msgspec.json.encode({**whole, "message": {"token": TARGET, **content}})
    headers = {"content-type": "application/json; charset=UTF-8"}
    again = unbound(message.body, push_id)
    again.get("apns", {}).get("headers", {}).pop("apns-expiration", None)
    path = f"/v1/projects/{project}/messages:send"
    return Preview("POST", path, headers, body, LIMIT, size_of(content), encode(again))
