"""The checks of FCM's HTTP v1 API and the wording of its answers. Pure: the clock is an argument.

Sources: https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages/send,
https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode,
https://firebase.google.com/docs/cloud-messaging/concept-options (keys that `data` may not have),
https://firebase.google.com/docs/cloud-messaging/error-codes, and for the form of an error
https://cloud.google.com/apis/design/errors.

A fault of the message has `google.rpc.BadRequest`; an invalid token has `FcmError` alone. This difference distinguishes
a payload error from a dead token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any, Final

import msgspec
from msgspec import Struct

from ...rules.fcm_schema import SCHEMA, Violation, snake, violations
from .fcm_schema import FAST
from .frames import header_block
from .http2 import Answer

_FCM_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"
_QUOTA_FAILURE: Final = "type.googleapis.com/google.rpc.QuotaFailure"


class Error(Struct, frozen=True):
    """One row of the error table: HTTP status, `google.rpc.Code`, FCM's `errorCode` (empty: none), text."""

    status: int
    code: str
    error_code: str
    message: str


_NO_AUTH = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
    "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
)

ERRORS: Final[dict[str, Error]] = {
    "INVALID_ARGUMENT": Error(
        400,
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT",
        "The registration token is not a valid FCM registration token",
    ),
    "UNREGISTERED": Error(404, "NOT_FOUND", "UNREGISTERED", "Requested entity was not found."),
    "SENDER_ID_MISMATCH": Error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", "SenderId mismatch"),
    "THIRD_PARTY_AUTH_ERROR": Error(
        401,
        "UNAUTHENTICATED",
        "THIRD_PARTY_AUTH_ERROR",
        "Request is missing required authentication credential. Auth error from APNS or Web Push Service",
    ),
    "APNS_AUTH_ERROR": Error(401, "UNAUTHENTICATED", "APNS_AUTH_ERROR", "Auth error from APNS"),
    "QUOTA_EXCEEDED": Error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "Quota exceeded for quota metric."),
    "UNAVAILABLE": Error(503, "UNAVAILABLE", "UNAVAILABLE", "The service is currently unavailable."),
    "INTERNAL": Error(500, "INTERNAL", "INTERNAL", "Internal error encountered."),
    "UNSPECIFIED_ERROR": Error(500, "UNKNOWN", "UNSPECIFIED_ERROR", "Unknown error."),
    # The same statuses without FCM's own code: the project, the account or the access token is the cause.
    "NOT_FOUND": Error(404, "NOT_FOUND", "", "Requested entity was not found."),
    "PERMISSION_DENIED": Error(403, "PERMISSION_DENIED", "", "The caller does not have permission"),
    "UNAUTHENTICATED": Error(401, "UNAUTHENTICATED", "", _NO_AUTH),
    "BAD_REQUEST": Error(400, "INVALID_ARGUMENT", "", "Request contains an invalid argument."),
}
"""Every row of the ErrorCode page, and plain statuses. `BAD_REQUEST` has a field violation."""

LIMIT: Final = 4096
TOPIC_LIMIT: Final = 2048
_MAX_TTL: Final = 4 * 7 * 24 * 3600  # seconds
_TARGET: Final = re.compile(r"[\x21-\x7e]{1,4096}")
_TOPIC: Final = re.compile(r"(?:/topics/)?[A-Za-z0-9\-_.~%]{1,900}")
_PATH: Final = re.compile(rb"/v1/projects/([^/]+)/messages:send(?:\?.*)?")
_RESERVED: Final = ("from", "message_type")
_RESERVED_PREFIXES: Final = ("google.", "gcm.notification.")
_ANY: Final = msgspec.json.Decoder()
_JSON: Final = ((b"content-type", b"application/json; charset=UTF-8"),)
_OK_BLOCK: Final = header_block(200, _JSON)


class Message(Struct, frozen=True, gc=False):
    """A request that FCM accepts: its project and its target."""

    project: str
    target: str
    """The token or fid; empty for a topic or a condition."""
    validate_only: bool = False


class Refusal(Struct, frozen=True):
    """A request that FCM refuses: a key of `ERRORS`, and the bad fields."""

    error: str
    violations: tuple[Violation, ...] = ()
    message: str = ""
    fcm_error: bool = False
    """Whether `FcmError` is included: FCM itself found the bad fields, rather than its JSON reader."""


class Verifier:
    """Checks requests as FCM does. The caller checks the access token."""

    def __init__(self, projects: frozenset[str]) -> None:
        self._projects = projects
        self._paths: dict[bytes, str] = {}
        self._decoders = FAST

    def judge(self, fields: Mapping[bytes, bytes], body: bytes, *, authorised: bool) -> Message | Refusal:
        """Return the message, or why it is refused."""
        path = fields.get(b":path", b"")
        project = self._paths.get(path)
        if project is None:
            found = _PATH.fullmatch(path)
            if found is None:
                return Refusal("NOT_FOUND")
            project = found[1].decode("latin-1")
        if fields.get(b":method") != b"POST":
            return Refusal("NOT_FOUND")
        if not authorised:
            return Refusal("UNAUTHENTICATED")
        if project not in self._projects:
            return Refusal("NOT_FOUND")
        self._paths[path] = project
        try:
            request = self._decoders[0].decode(body)
        except msgspec.DecodeError:  # another spelling, invalid, or not JSON at all
            return self._judge_slowly(project, body)
        return _judge_message(project, request, len(body))

    def _judge_slowly(self, project: str, body: bytes) -> Message | Refusal:
        try:
            request = self._decoders[1].decode(body)
        except msgspec.ValidationError:
            pass
        except msgspec.DecodeError as error:
            return _bad_json(f"Invalid JSON payload received. {error}")
        else:
            self._decoders = self._decoders[::-1]  # the next body will probably have the same spelling
            return _judge_message(project, request, len(body))
        try:
            document = _ANY.decode(body)
        except msgspec.DecodeError as error:
            return _bad_json(f"Invalid JSON payload received. {error}")
        if bad := tuple(violations(document)):
            return Refusal("BAD_REQUEST", bad, "\n".join(violation.description for violation in bad))
        return _judge_message(project, _read_loosely(document), len(body))


def _bad_json(message: str) -> Refusal:
    return Refusal("BAD_REQUEST", (Violation("", message),), message)


def _read_loosely(document: Any) -> Any:
    """Return a body that is valid by the schema but mixes the two spellings, or has numbers in quotes."""

    def spell(value: Any, kind: str) -> Any:
        if kind == "int32":
            return int(value)
        if kind == "number":
            return float(value)
        if "|" in kind:
            return value.upper()
        if kind not in SCHEMA:
            return value
        schema = SCHEMA[kind]
        return {
            (field := key if key in schema else snake(key)): spell(item, schema[field])
            for key, item in value.items()
            if item is not None
        }

    spelt = msgspec.json.encode(spell(document, "SendMessageRequest"))
    return FAST[0].decode(spelt)


def _judge_message(project: str, request: Any, size: int) -> Message | Refusal:
    """Check what the schema cannot express. `request` is one of the decoded `FAST` types."""
    message = request.message
    if message is None:
        return _bad_field("message", "Message must be set.")
    token, fid, topic, condition = message.token, message.fid, message.topic, message.condition
    if (token is None) + (fid is None) + (topic is None) + (condition is None) != 3:
        return _bad_field("message", "Exactly one of fid, token, topic or condition is required")
    if topic is not None and not _TOPIC.fullmatch(topic):
        return _bad_field("message.topic", "Invalid topic name")
    if condition is not None and not condition.strip():
        return _bad_field("message.condition", "Invalid condition")
    target: str = token if token is not None else fid if fid is not None else ""
    if topic is None and condition is None and not _TARGET.fullmatch(target):
        return Refusal("INVALID_ARGUMENT")
    android = message.android if message.android is not None else message.android_v2
    if message.android is not None and message.android_v2 is not None:
        return _bad_field("message", "android and android_v2 cannot both be set")
    if message.data is not None and (refusal := _judge_data(message.data, "message.data")):
        return refusal
    if android is not None:
        if android.data is not None and (refusal := _judge_data(android.data, "message.android.data")):
            return refusal
        if android.ttl is not None and not 0 <= float(android.ttl[:-1]) <= _MAX_TTL:
            return _bad_field("message.android.ttl", "TTL must be between 0 and 2419200 seconds")
    limit = LIMIT if topic is None and condition is None else TOPIC_LIMIT
    if size > limit and _payload_size(message, android) > limit:  # JSON is never shorter than its content
        return _bad_field("message", "Message is too big")
    return Message(project, target, bool(request.validate_only))


def _judge_data(data: Mapping[str, str], path: str) -> Refusal | None:
    for index, key in enumerate(data):
        if key in _RESERVED or key.startswith(_RESERVED_PREFIXES):
            return _bad_field(f"{path}[{index}].key", f"Invalid data payload key: {key}")
    return None


def _payload_size(message: Any, android: Any) -> int:
    """Return the bytes that count: keys and values of `data` and of the notification in UTF-8, and the APNs payload's
    JSON."""
    size = 0
    for part in (message.data, None if android is None else android.data):
        if part:
            size += sum(len(key.encode()) + len(value.encode()) for key, value in part.items())
    for part in (message.notification, getattr(android, "notification", None)):
        if part is not None:
            values = {key: value for key, value in msgspec.structs.asdict(part).items() if value is not None}
            size += sum(len(key) + len(str(value).encode()) for key, value in values.items())
    if message.apns is not None and message.apns.payload is not None:
        size = max(size, sum(len(key) + len(bytes(value)) for key, value in message.apns.payload.items()))
    return size


def _bad_field(field: str, description: str) -> Refusal:
    return Refusal("BAD_REQUEST", (Violation(field, description),), description, fcm_error=True)


def accept(message: Message, number: int) -> Answer:
    """Return the answer 200 with the message's name, which `number` makes unique.

    A validated message was not sent and has a fixed name.
    """
    name = "fake_message_id" if message.validate_only else f"0:{number:016d}%{number & 0xFFFFFFFF:08x}cccccccc"
    body = f'{{\n  "name": "projects/{message.project}/messages/{name}"\n}}\n'
    return Answer(200, "validate_only" if message.validate_only else "", _OK_BLOCK, body.encode())


def refuse(
    refusal: Refusal,
    now: float,
    *,
    status: int | None = None,
    retry_after: bytes | None = None,
    empty: bool = False,
) -> Answer:
    """Return an error in Google's form, with the `Date` of `now` (Unix seconds). `status` overrides the row's own."""
    error = ERRORS[refusal.error]
    details: list[dict[str, Any]] = []
    bad = refusal.violations
    if refusal.error == "BAD_REQUEST" and not bad:
        bad = (Violation("message", error.message),)
    if bad:
        listed = [{"field": item.field, "description": item.description} for item in bad]
        details.append({"@type": _BAD_REQUEST, "fieldViolations": listed})
    if error.error_code or refusal.fcm_error:
        details.append({"@type": _FCM_ERROR, "errorCode": error.error_code or error.code})
    if error.error_code == "QUOTA_EXCEEDED":
        quota = {"subject": "project", "description": "Sending limit exceeded"}
        details.append({"@type": _QUOTA_FAILURE, "violations": [quota]})
    status = error.status if status is None else status
    content: dict[str, Any] = {"code": status, "message": refusal.message or error.message, "status": error.code}
    if details:
        content["details"] = details
    body = msgspec.json.format(msgspec.json.encode({"error": content}), indent=2) + b"\n"
    fields = [*_JSON, (b"date", formatdate(now, usegmt=True).encode())]
    if status == 401:
        fields.append((b"www-authenticate", b'Bearer realm="https://accounts.google.com/", error="invalid_token"'))
    if retry_after is not None:
        fields.append((b"retry-after", retry_after))
    return Answer(status, refusal.error, header_block(status, fields), b"" if empty else body)
