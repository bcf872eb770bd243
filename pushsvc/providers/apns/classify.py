"""Classifies answers of APNs. Pure; the golden table is `tests/unit/golden/apns_classify.toml`.

Decisions that the vendor's documentation does not make:

- If a topic is refused that the push chose itself, by an `apns-topic` other than the account's or by a push type that
  has a topic of its own, this is the push's fault (`BadNotification`). Only a refusal of the app's plain topic holds
  the route: one bad push must not stop all others, nor may the probe that is to end the hold be this same push forever.
  For the same reason `DeviceTokenNotForTopic` then says nothing about the token.
- Apple answers `BadDeviceToken` to a good token of the other environment too, so the token is suspect, not dead.
- A status that Apple's table does not contain is retried from 500 up, and also where it means that the
  request was not judged (`UNJUDGED`). Other ones below 500 condemn the push, and no token.
- A channel that is not registered never comes back, since ids are not reused: it is dead like a token. An id that APNs
  cannot even read is suspect, like a bad token.
- If broadcasts are not enabled (`FeatureNotEnabled`), this concerns no other push: that part of the route waits until
  they are enabled at developer.apple.com, and the rest of it continues.
- `TopicMismatch` says that our key or certificate is for other bundle ids. With a topic that the push named itself it
  is the push's fault, like any refused topic. With a push type that has a topic of its own it may be: it holds the
  route only if a push of the plain topic gets it too (`chosen`).
- Any other refusal of our identity, for a push that named its own topic, may be due to that topic (of another team,
  say), and holds the route only if a push that chose nothing gets it too. What Apple says of the token or certificate
  alone (`_OF_THE_CREDENTIAL`) no topic can cause.

Sources, under https://developer.apple.com/documentation/usernotifications/: handling-notification-responses-from-apns
and, for broadcasts, handling-error-responses-from-apns.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from ...model.delivery import (
    BadNotification,
    Misconfigured,
    Outcome,
    Sent,
    Throttled,
    TokenDead,
    TokenSuspect,
    Unavailable,
)
from ...model.push import Message
from ...net.http2.exchange import Answer, Failure
from ...net.retry_after import retry_after
from ..reasons import UNJUDGED
from .vocabulary import TOPIC_SUFFIX

EXPIRED_TOKEN: Final = "ExpiredProviderToken"  # noqa: S105  # a reason of Apple's
INVALID_TOKEN: Final = "InvalidProviderToken"  # noqa: S105  # as above
UNRELATED_KEY: Final = "UnrelatedKeyIdInToken"
TOO_MANY_TOKENS: Final = "TooManyProviderTokenUpdates"

BROADCASTS: Final = "broadcasts"
"""The part of a route that broadcasts are."""

_OF_THE_CREDENTIAL: Final = frozenset(
    {EXPIRED_TOKEN, "MissingProviderToken", "BadCertificate", "BadCertificateEnvironment"}
)

_REASONS: Final[dict[tuple[int, str], str]] = {
    **{
        (400, reason): "notification"
        for reason in (
            "BadCollapseId",
            "BadExpirationDate",
            "BadMessageId",
            "BadPriority",
            "DuplicateHeaders",
            "InvalidPushType",
            "MissingDeviceToken",
            "PayloadEmpty",
            "BadRequestParams",
            "BadRequestPayload",
            "MissingChannelId",
            "MissingPushType",
        )
    },
    (404, "BadPath"): "notification",
    (405, "MethodNotAllowed"): "notification",
    (413, "PayloadTooLarge"): "notification",
    **{(400, reason): "topic" for reason in ("BadTopic", "MissingTopic", "TopicDisallowed")},
    (400, "BadDeviceToken"): "suspect",
    (400, "BadChannelId"): "suspect",
    (400, "ChannelNotRegistered"): "dead",
    (400, "FeatureNotEnabled"): "switched off",
    (400, "DeviceTokenNotForTopic"): "suspect for the topic",
    (400, "IdleTimeout"): "unavailable",
    **{
        (403, reason): "identity"
        for reason in (
            *_OF_THE_CREDENTIAL,
            INVALID_TOKEN,
            "BadEnvironmentKeyIdInToken",
            "Forbidden",
            UNRELATED_KEY,
        )
    },
    (403, "TopicMismatch"): "identity for the topic",
    (410, "Unregistered"): "dead",
    (410, "ExpiredToken"): "dead",
    (429, "TooManyRequests"): "throttled",
    (429, TOO_MANY_TOKENS): "throttled route",
    (500, "InternalServerError"): "unavailable",
    (503, "ServiceUnavailable"): "unavailable",
    (503, "Service Unavailable"): "unavailable",  # as one of Apple's pages spells it
    (503, "Shutdown"): "unavailable",
}
"""The class by status and reason. A known reason with another status is classified by the status."""

_KNOWN: Final = frozenset(reason for _, reason in _REASONS)


class _Error(Struct):
    reason: str = ""
    timestamp: Any = None


_decode = msgspec.json.Decoder(_Error).decode


def classify(answer: Answer, message: Message, now: float, app_topic: str) -> Outcome:
    """Return the outcome that `answer` means for a push of `message` by the account of `app_topic`. Never raises,
    whatever the server sent. `now` is in Unix seconds."""
    if isinstance(answer, Failure):
        return Unavailable(reason=answer.reason, maybe_sent=answer.maybe_sent)
    status = answer.status
    if status == 200:
        headers = answer.headers
        return Sent(status=200, provider_id=headers.get("apns-id", ""), unique_id=headers.get("apns-unique-id", ""))
    error = read_error(answer.body)
    kind = _REASONS.get((status, error.reason)) or _by_status(status)
    reason = error.reason if error.reason in _KNOWN else f"unknown_{status}"
    suffix = TOPIC_SUFFIX.get(message.headers.get("apns-push-type", ""), "")
    named = message.headers.get("apns-topic", app_topic + suffix) != app_topic + suffix
    chose = named or suffix != ""
    match kind:
        case "topic" if not chose:
            return Misconfigured(status=status, reason=reason)
        case "suspect for the topic" if chose:
            return BadNotification(status=status, reason=reason)
        case "suspect" | "suspect for the topic":
            return TokenSuspect(status=status, reason=reason)
        case "identity for the topic" if not named:
            return Misconfigured(status=status, reason=reason, chosen=chose)
        case "identity":
            return Misconfigured(status=status, reason=reason, chosen=named and reason not in _OF_THE_CREDENTIAL)
        case "dead" if status == 410 and named:
            # "No longer valid for the topic": for the push's own topic, that is, not for the app's.
            return BadNotification(status=status, reason=reason)
        case "dead":
            return TokenDead(status=status, reason=reason, since=_milliseconds(error.timestamp))
        case "switched off":
            return Misconfigured(status=status, reason=reason, part=BROADCASTS)
        case "throttled":
            return Throttled(status=status, reason=reason, retry_after=retry_after(answer.headers, now))
        case "throttled route":
            return Throttled(status=status, reason=reason, retry_after=retry_after(answer.headers, now), scope="route")
        case "unavailable":
            return Unavailable(status=status, reason=reason, retry_after=retry_after(answer.headers, now))
        case _:
            return BadNotification(status=status, reason=reason)


def read_error(body: bytes) -> _Error:
    """Return the error in the body of an answer; an empty one where there is none."""
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Error()


def _by_status(status: int) -> str:
    if status == 403:
        return "identity"
    if status == 429:
        return "throttled"
    return "notification" if 400 <= status < 500 and status not in UNJUDGED else "unavailable"


def _milliseconds(timestamp: object) -> int | None:
    """Return the 410's `timestamp`, which is in Unix milliseconds; None where it is no sensible instant."""
    if isinstance(timestamp, bool) or not isinstance(timestamp, int | float):
        return None
    return int(timestamp) if 0 < timestamp < 1 << 53 else None
