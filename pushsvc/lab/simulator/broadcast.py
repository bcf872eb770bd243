"""Broadcast channels of APNs: the stored channels, the checks of requests and the wording of answers. Pure.

One port represents all of Apple's hosts, so management and broadcasts are distinguished by their paths alone. A
channel whose id is base64 of a scenario (`sim:ChannelNotRegistered:a`, see `scenario`) always exists and plays it.

Sources, all under https://developer.apple.com/documentation/usernotifications/:
sending-channel-management-requests-to-apns, sending-broadcast-push-notification-requests-to-apns (paths, headers,
sizes), handling-error-responses-from-apns (statuses and reasons). The order of the checks is ours, and so is
`BadRequestParams` for repeated headers, for which Apple documents no reason here.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Raw, Struct

from .apns import TOPIC_SUFFIXES
from .frames import header_block
from .http2 import Answer
from .scenario import PREFIX

REASONS: Final[dict[str, int]] = {
    "BadChannelId": 400,
    "BadExpirationDate": 400,
    "BadMessageId": 400,
    "BadPriority": 400,
    "BadRequestParams": 400,
    "BadRequestPayload": 400,
    "CannotCreateChannelConfig": 400,
    "ChannelNotRegistered": 400,
    "FeatureNotEnabled": 400,
    "InvalidPushType": 400,
    "MissingChannelId": 400,
    "MissingPushType": 400,
    "PayloadEmpty": 400,
    "TopicDisallowed": 400,
    "BadCertificate": 403,
    "BadCertificateEnvironment": 403,
    "ExpiredProviderToken": 403,
    "InvalidProviderToken": 403,
    "MissingProviderToken": 403,
    "TopicMismatch": 403,
    "UnrelatedKeyIdInToken": 403,  # of the other page; the connection is the same one
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "Service Unavailable": 503,
    "ServiceUnavailable": 503,  # of the other page; a scenario cannot contain a space
    "Shutdown": 503,
}
"""Every `:status` and `reason` of Apple's table for broadcasts."""

SEND: Final = b"/4/broadcasts/apps/"
MANAGE: Final = b"/1/apps/"
CHANNEL: Final = "channel"
"""The result in the record for a successful call about channels, so that it does not count as a push."""

_PAYLOAD: Final = 5120
_UUID: Final = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ONE: Final = re.compile(rb"/1/apps/([^/]+)/channels")
_ALL: Final = re.compile(rb"/1/apps/([^/]+)/all-channels")
_OBJECT: Final = msgspec.json.Decoder(dict[str, Raw])

Fields: TypeAlias = Mapping[bytes, bytes]


class _Wanted(Struct, forbid_unknown_fields=True):
    """The body of a request for a channel."""

    policy: Literal[0, 1] = msgspec.field(name="message-storage-policy")
    push_type: str | None = msgspec.field(default=None, name="push-type")


_WANTED: Final = msgspec.json.Decoder(_Wanted)


class Channels:
    """The channels of every bundle id, with the storage policy of each."""

    def __init__(self, *, enabled: bool, most: int = 10_000) -> None:
        self.most = most
        """The maximum number of channels of a bundle id."""
        self.enabled = enabled
        """Whether broadcasts are switched on at developer.apple.com."""
        self._policies: dict[str, dict[str, int]] = {}

    def judge(self, bundle: str, channel: bytes) -> str | None:
        """Return why there is no such channel, or None."""
        if not self.enabled:
            return "FeatureNotEnabled"
        if not channel:
            return "MissingChannelId"
        if _decoded(channel) is None:
            return "BadChannelId"
        if scenario_of(channel) or channel.decode() in self._policies.get(bundle, {}):
            return None
        return "ChannelNotRegistered"

    def policy(self, bundle: str, channel: bytes) -> int:
        """Return the storage policy: 0 stores nothing, 1 the latest push. A channel with a scenario has 1."""
        return self._policies.get(bundle, {}).get(channel.decode(), 1)

    def create(self, bundle: str, body: bytes) -> tuple[str | None, str]:
        """Return the reason for which no channel is created, or None and its id."""
        try:
            wanted = _WANTED.decode(body)
        except msgspec.ValidationError:
            return "BadRequestParams", ""
        except (msgspec.DecodeError, UnicodeDecodeError):
            return "BadRequestPayload", ""
        if wanted.push_type is None:
            return "MissingPushType", ""
        if wanted.push_type != "LiveActivity":
            return "InvalidPushType", ""
        known = self._policies.setdefault(bundle, {})
        if len(known) >= self.most:
            return "CannotCreateChannelConfig", ""
        channel = base64.b64encode(secrets.token_bytes(16)).decode()
        known[channel] = wanted.policy
        return None, channel

    def delete(self, bundle: str, channel: bytes) -> None:
        self._policies.get(bundle, {}).pop(channel.decode(), None)

    def all(self, bundle: str) -> list[str]:
        """Return the ids, oldest first."""
        return list(self._policies.get(bundle, {}))


def scenario_of(channel: bytes) -> str:
    """Return the scenario that the id is base64 of, or the empty string."""
    text = (_decoded(channel) or b"").decode("latin-1")
    return text if text.startswith(PREFIX) else ""


def _decoded(channel: bytes) -> bytes | None:
    try:
        return base64.b64decode(channel, validate=True) or None
    except binascii.Error:
        return None


# --- what is verified ---------------------------------------------------------------------------


def bundle_of(path: bytes) -> str:
    """Return the bundle id of a path of either kind; empty where the path is neither."""
    if path.startswith(SEND):
        return path[len(SEND) :].decode("latin-1")
    found = _ONE.fullmatch(path) or _ALL.fullmatch(path)
    return found[1].decode("latin-1") if found is not None else ""


def lists_all(path: bytes) -> bool:
    """Return whether the path requests the list of all channels."""
    return _ALL.fullmatch(path) is not None


def judge_frame(fields: Fields, count: int) -> str | None:
    """Return what is wrong with path, method and header names, regardless of the caller."""
    path, method = fields.get(b":path", b""), fields.get(b":method")
    bundle = bundle_of(path)
    if not bundle or "/" in bundle:
        return "BadPath"
    allowed = (b"POST",) if path.startswith(SEND) else (b"GET",) if lists_all(path) else (b"POST", b"GET", b"DELETE")
    if method not in allowed:
        return "MethodNotAllowed"
    if count != len(fields):
        return "BadRequestParams"
    request_id = fields.get(b"apns-request-id")
    return "BadMessageId" if request_id is not None and not _UUID.fullmatch(request_id) else None


def judge_bundle(bundle: str, bundle_ids: Collection[str]) -> str | None:
    """Return why the account may not use this bundle id, which the path contains without a suffix, or None."""
    if bundle in bundle_ids:
        return None
    suffixed = any(bundle == known + suffix for known in bundle_ids for suffix in TOPIC_SUFFIXES.values())
    return "TopicDisallowed" if suffixed else "TopicMismatch"


def judge_push(fields: Fields, body: bytes) -> str | None:
    """Return what is wrong with the headers and payload of a broadcast, regardless of its channel."""
    push_type = fields.get(b"apns-push-type")
    if push_type is None:
        return "MissingPushType"
    if push_type.lower() != b"liveactivity":
        return "InvalidPushType"
    if fields.get(b"apns-priority") not in (b"10", b"5", b"1"):
        return "BadPriority"
    expiration = fields.get(b"apns-expiration", b"")
    if not (expiration.isdigit() and len(expiration) <= 18):
        return "BadExpirationDate"
    if not body:
        return "PayloadEmpty"
    if len(body) > _PAYLOAD:
        return "PayloadTooLarge"
    try:
        return None if _OBJECT.decode(body) else "PayloadEmpty"
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "BadRequestPayload"


# --- answers ------------------------------------------------------------------------------------


def accept(
    request_id: bytes,
    *,
    status: int = 200,
    reason: str = "",
    channel: str = "",
    content: Any = None,
    unique: bytes | None = None,
) -> Answer:
    """Return a successful answer. `reason` is for the record, `unique` a sandbox's own id of a push."""
    fields = [(b"apns-request-id", request_id)]
    if channel:
        fields.append((b"apns-channel-id", channel.encode()))
    if unique:
        fields.append((b"apns-unique-id", unique))
    body = b"" if content is None else msgspec.json.encode(content)
    return Answer(status, reason, header_block(status, fields), body)


def refuse(
    reason: str, request_id: bytes, *, status: int | None = None, retry_after: bytes | None = None, empty: bool = False
) -> Answer:
    """Return a refusal in Apple's wording."""
    status = REASONS[reason] if status is None else status
    fields = [(b"content-type", b"application/json"), (b"apns-request-id", request_id)]
    if retry_after is not None:
        fields.append((b"retry-after", retry_after))
    body = b"" if empty else msgspec.json.encode({"reason": reason})
    return Answer(status, reason, header_block(status, fields), body)
