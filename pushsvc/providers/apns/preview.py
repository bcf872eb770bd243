"""The request to APNs that a message becomes, for people to look at. Pure."""

from __future__ import annotations

from ...model.push import Message
from ...ports.provider import TARGET, Preview
from ..again import unbound
from ..merge import encode
from .config import Config
from .fields import apns_id
from .vocabulary import ALERT, TOPIC_SUFFIX, payload_limit


def preview(config: Config, message: Message, *, push_id: str, expires_at: int, dry_run: bool) -> Preview:
    """Return the request for the first target of a push, without its authorization. `expires_at` is in Unix ms. A dry
    run sends none, because APNs has no way to check a push without delivering it."""
    headers = dict(message.headers)
    kept = {name: text for name, text in headers.items() if name != "apns-expiration" and text != push_id}
    override = encode({"headers": kept, "payload": unbound(message.body, push_id)})
    push_type = headers.get("apns-push-type", ALERT)
    headers.setdefault("apns-topic", config.topic + TOPIC_SUFFIX.get(push_type, ""))
    if message.dated:
        headers[message.dated] = str(expires_at // 1000)
    headers["apns-id"] = apns_id(push_id, 0)
    size = len(message.body)
    limit = payload_limit(push_type, broadcast=False)
    return Preview("POST", f"/3/device/{TARGET}", headers, message.body, limit, size, override)
