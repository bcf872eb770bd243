"""Classifies answers of FCM. Pure; the golden table is `tests/unit/golden/fcm_classify.toml`.

Decisions that the vendor's documentation does not make:

- `INVALID_ARGUMENT` is most likely our own mistake; treating it as a dead token would wipe an audience for one bad
  payload. Only if FCM's own error (`FcmError`, not the JSON reader's `BadRequest` alone) names the registration token
  is the token suspect, and never dead.
- `THIRD_PARTY_AUTH_ERROR` says that the Firebase project's own APNs key or web push key is missing or wrong. It
  concerns only the Apple and web tokens of the project, so it must not hold the route for Android: that part of the
  route waits until it is corrected in the Firebase console, and no token is blamed.
- `UNSPECIFIED_ERROR` promises nothing about a retry, so the delivery becomes a dead letter at once.
- FCM's own codes count with a status that judges the request: 500, or one from 400 up that is neither a throttle nor in
  `UNJUDGED`. With any other, such as a redirect of a proxy, the body is of an answer to something else.
- 403 and 404 without FCM's own code are about the project or the account, not the message: wrong project, API
  disabled, role missing.
- A 429 is about one device or topic where a violated quota says so: by the word in front of `:` in its subject, or by a
  word of its own in its description or in the message. Any other is the project's, whose name may contain such a word.
- A status which means that the message was not judged (`UNJUDGED`) is retried like a 5xx.

Sources: https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode and
https://cloud.google.com/php/docs/reference/common-protos/latest/Rpc.QuotaFailure.Violation and
https://firebase.google.com/docs/cloud-messaging/scale-fcm
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
from ...net.http2.exchange import Answer, Failure, Response
from ...net.retry_after import retry_after
from ..reasons import UNJUDGED

APPLE: Final = "apple"
"""The part of a route that FCM hands on to others: to Apple, and to the web."""

_THIRD_PARTY: Final = frozenset({"THIRD_PARTY_AUTH_ERROR", "APNS_AUTH_ERROR"})
_KNOWN: Final = _THIRD_PARTY | {
    "UNSPECIFIED_ERROR",
    "INVALID_ARGUMENT",
    "UNREGISTERED",
    "SENDER_ID_MISMATCH",
    "QUOTA_EXCEEDED",
    "UNAVAILABLE",
    "INTERNAL",
    # google.rpc.Code, where FCM has no word of its own
    "CANCELLED",
    "UNKNOWN",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "UNAUTHENTICATED",
}
_OF_TARGETS: Final = frozenset({"device", "topic"})
_TOKEN_FIELDS: Final = frozenset({"message.token", "message.fid"})


class _Detail(Struct):
    """An item of `error.details`, of any type."""

    type: Any = msgspec.field(default=None, name="@type")
    error_code: Any = msgspec.field(default=None, name="errorCode")
    field_violations: Any = msgspec.field(default=None, name="fieldViolations")
    violations: Any = None


class _Error(Struct):
    message: str = ""
    status: str = ""
    details: list[_Detail] = []


class _Refused(Struct):
    error: _Error = msgspec.field(default_factory=_Error)


class _Accepted(Struct):
    name: str = ""


_decode_refused = msgspec.json.Decoder(_Refused).decode
_decode_accepted = msgspec.json.Decoder(_Accepted).decode


class _ErrorBody(Struct, frozen=True):
    """The content of an error body: FCM's code or else the rpc status, and texts that name the cause."""

    code: str
    """FCM's own `errorCode`, or the empty string."""
    word: str
    text: str
    fields: frozenset[str]
    limits: frozenset[str]
    """Whose quota it may be, in lower case: words of the message, and the kinds and words of violated quotas."""


def classify(answer: Answer, message: Message, now: float) -> Outcome:
    """Return the outcome that `answer` means, whatever the `message` was. Never raises, whatever the server sent. `now`
    is in Unix seconds."""
    if isinstance(answer, Failure):
        return Unavailable(reason=answer.reason, maybe_sent=answer.maybe_sent)
    status = answer.status
    if status == 200:
        return Sent(status=200, provider_id=message_name(answer.body))
    error = _read(answer.body)
    reason = error.word if error.word in _KNOWN else f"unknown_{status}"
    match error.code if _judges(status) else "":
        case "UNREGISTERED" if status == 404:
            return TokenDead(status=status, reason=reason)
        case "SENDER_ID_MISMATCH":
            return TokenSuspect(status=status, reason=reason)
        case "THIRD_PARTY_AUTH_ERROR" | "APNS_AUTH_ERROR":
            return Misconfigured(status=status, reason=reason, part=APPLE)
        case "INVALID_ARGUMENT" if status == 400 and _blames_token(error):
            return TokenSuspect(status=status, reason=reason)
        case "UNSPECIFIED_ERROR":
            return BadNotification(status=status, reason=reason)
    return _by_status(answer, reason, error, now)


def _judges(status: int) -> bool:
    """Return whether an answer with this status, other than 200, is about the request itself."""
    return status == 500 or (400 <= status < 500 and status != 429 and status not in UNJUDGED)


def message_name(body: bytes) -> str:
    """Return the message's name in an accepting answer, `projects/*/messages/*`; empty where there is none."""
    try:
        return _decode_accepted(body).name
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def concerns_access_token(answer: Response) -> bool:
    """Return whether a 401 is about our access token, as opposed to a key that is stored in the Firebase project."""
    return answer.status == 401 and _read(answer.body).code not in _THIRD_PARTY


def _by_status(answer: Response, reason: str, error: _ErrorBody, now: float) -> Outcome:
    status = answer.status
    if status in (401, 403, 404):
        return Misconfigured(status=status, reason=reason)
    if status == 429:
        # Without Retry-After, Google's 60 seconds are policy's to add: an operator may configure them.
        scope: Any = "token" if error.limits & _OF_TARGETS else "route"
        return Throttled(status=status, reason=reason, retry_after=retry_after(answer.headers, now), scope=scope)
    if status < 500 and _judges(status):
        return BadNotification(status=status, reason=reason)
    return Unavailable(status=status, reason=reason, retry_after=retry_after(answer.headers, now))


def _blames_token(error: _ErrorBody) -> bool:
    return "registration token" in error.text or bool(error.fields & _TOKEN_FIELDS)


def _read(body: bytes) -> _ErrorBody:
    try:
        error = _decode_refused(body).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _ErrorBody("", "", "", frozenset(), frozenset())
    code, texts, fields, limits = "", [error.message], set(), _words_of(error.message)
    for detail in error.details:
        if str(detail.type).endswith(".FcmError") and isinstance(detail.error_code, str):
            code = detail.error_code
        for item in _objects(detail.field_violations):
            fields.add(str(item.get("field")))
            texts.append(str(item.get("description")))
        for item in _objects(detail.violations):  # google.rpc.QuotaFailure
            limits.add(str(item.get("subject")).partition(":")[0].strip().lower())  # `project:ID`, `clientip:ADDRESS`
            limits |= _words_of(str(item.get("description")))
    return _ErrorBody(code, code or error.status, " ".join(texts).lower(), frozenset(fields), frozenset(limits))


def _words_of(text: str) -> set[str]:
    return {word.strip(".,:;") for word in text.lower().split()}


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
