"""The checks of APNs and the wording of its answers. Pure: the clock is an argument.

Sources, all under https://developer.apple.com/documentation/usernotifications/: sending-notification-requests-to-apns
(path, headers, sizes), handling-notification-responses-from-apns (statuses and reasons),
establishing-a-token-based-connection-to-apns (the JSON Web Token), establishing-a-certificate-based-connection-to-apns
(topics of a certificate).

Where Apple does not document the reason of a fault, a comment explains the choice. The order of the checks is ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from msgspec import Raw, Struct

from .frames import literal, status_field
from .http2 import Answer

REASONS: Final[dict[str, int]] = {
    "BadCollapseId": 400,
    "BadDeviceToken": 400,
    "BadExpirationDate": 400,
    "BadMessageId": 400,
    "BadPriority": 400,
    "BadTopic": 400,
    "DeviceTokenNotForTopic": 400,
    "DuplicateHeaders": 400,
    "IdleTimeout": 400,
    "InvalidPushType": 400,
    "MissingDeviceToken": 400,
    "MissingTopic": 400,
    "PayloadEmpty": 400,
    "TopicDisallowed": 400,
    "BadCertificate": 403,
    "BadCertificateEnvironment": 403,
    "BadEnvironmentKeyIdInToken": 403,
    "ExpiredProviderToken": 403,
    "Forbidden": 403,
    "InvalidProviderToken": 403,
    "MissingProviderToken": 403,
    "UnrelatedKeyIdInToken": 403,
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "ExpiredToken": 410,
    "Unregistered": 410,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "Shutdown": 503,
}
"""Every `:status` and `reason` of Apple's table."""

TOPIC_SUFFIXES: Final[dict[str, str]] = {
    "alert": "",
    "background": "",
    "voip": ".voip",
    "complication": ".complication",
    "controls": ".push-type.controls",
    "widgets": ".push-type.widgets",
    "fileprovider": ".pushkit.fileprovider",
    "liveactivity": ".push-type.liveactivity",
    "location": ".location-query",
    "mdm": "",
    "pushtotalk": ".voip-ptt",
}
"""The part of the topic after the bundle id, by `apns-push-type`."""

TOKEN_LIFE: Final = 3600  # seconds
TOKEN_UPDATE: Final = 20 * 60  # seconds between new tokens on one connection
_SKEW: Final = 60  # seconds that a client's clock may be ahead
_PAYLOAD: Final = 4096
_VOIP_PAYLOAD: Final = 5120
_PATH: Final = b"/3/device/"
_HEX: Final = re.compile(rb"(?:[0-9a-fA-F]{2}){1,200}")
_UUID: Final = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")
_OBJECT: Final = msgspec.json.Decoder(dict[str, Raw])

_ID: Final = literal(b"apns-id", b"x" * 36)[:-36]
OK: Final = status_field(200) + _ID
"""The block of an accepted push, without the 36 characters of its id."""


class Identity(Struct, frozen=True):
    """The account that the simulated APNs knows: one team with one key, and its topics."""

    key_id: str
    team_id: str
    public_key: EllipticCurvePublicKey
    topics: frozenset[str]
    """Bundle ids."""
    token_updates: bool = True
    """Whether a new token more often than every 20 minutes on one connection is refused."""


class Session:
    """The state of one connection at APNs."""

    __slots__ = ("certificate", "passed", "token", "token_at")

    def __init__(self, certificate: str | None = None) -> None:
        self.certificate = certificate
        """The topic of the client's certificate; None: it must send provider tokens."""
        self.token = b""
        self.token_at = 0.0
        self.passed: dict[tuple[bytes | None, ...], tuple[float, int]] = {}
        """Combinations of headers that were valid: until when, and the payload limit."""


class ProviderToken(Struct, frozen=True):
    """The result of verifying a provider token: the instant of its issue, or what is wrong with it."""

    issued_at: float = 0.0
    reason: str | None = None


class Verifier:
    """Checks requests as APNs does."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._tokens: dict[bytes, ProviderToken] = {}

    def judge(self, fields: Mapping[bytes, bytes], count: int, body: bytes, session: Session, now: float) -> str | None:
        """Return the reason for which APNs refuses the request, or None.

        `count` is the number of received header fields.
        """
        path = fields.get(b":path", b"")
        if not path.startswith(_PATH):
            return "BadPath"
        if fields.get(b":method") != b"POST":
            return "MethodNotAllowed"
        if count != len(fields):
            return "DuplicateHeaders"
        # What all pushes of an app share is checked once a connection and combination, because it is most of the work.
        shared = (
            fields.get(b"authorization"),
            fields.get(b"apns-topic"),
            fields.get(b"apns-push-type"),
            fields.get(b"apns-priority"),
        )
        until, limit = session.passed.get(shared, (0.0, 0))
        if now > until:
            reason, until = self._judge_shared(*shared, session, now)
            if reason is not None:
                return reason
            limit = _VOIP_PAYLOAD if shared[2] == b"voip" else _PAYLOAD
            if len(session.passed) > 256:
                session.passed.clear()
            session.passed[shared] = (until, limit)
        return _judge_own(fields, path[len(_PATH) :], body, limit)

    def judge_identity(self, authorization: bytes | None, session: Session, now: float) -> str | None:
        """Return the reason for which APNs does not accept the identity, or None."""
        return None if session.certificate is not None else self._judge_token(authorization, session, now)[0]

    def bundle_ids(self, session: Session) -> frozenset[str]:
        """Return the bundle ids that the connection may use."""
        return self._identity.topics if session.certificate is None else frozenset({session.certificate})

    def _judge_shared(
        self,
        authorization: bytes | None,
        topic: bytes | None,
        push_type: bytes | None,
        priority: bytes | None,
        session: Session,
        now: float,
    ) -> tuple[str | None, float]:
        until = float("inf")
        if session.certificate is None:  # with a certificate, Apple ignores the token
            reason, until = self._judge_token(authorization, session, now)
            if reason is not None:
                return reason, until
        kind = None if push_type is None else push_type.decode("latin-1")
        if kind is not None and kind not in TOPIC_SUFFIXES:
            return "InvalidPushType", until
        if session.certificate is not None:
            topics = frozenset({session.certificate})
            if topic is None:
                topic = (session.certificate + TOPIC_SUFFIXES[kind or "alert"]).encode()
            if kind == "location":  # "only token-based authentication"; Apple names no reason
                return "TopicDisallowed", until
        else:
            topics = self._identity.topics
        return _judge_topic(topic, kind, topics) or _judge_priority(priority, kind), until

    def _judge_token(self, authorization: bytes | None, session: Session, now: float) -> tuple[str | None, float]:
        """Verify the provider token. Returns the refusal or None, and until when no further verification is needed."""
        if not authorization:
            return "MissingProviderToken", 0.0
        scheme, _, text = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return "InvalidProviderToken", 0.0
        token = self._tokens.get(text)
        if token is None:
            token = self._verify(text)
            if len(self._tokens) > 1024:
                self._tokens.clear()
            self._tokens[text] = token
        if token.reason is not None:
            return token.reason, 0.0
        if token.issued_at > now + _SKEW:
            return "InvalidProviderToken", 0.0
        if now - token.issued_at > TOKEN_LIFE:
            return "ExpiredProviderToken", 0.0
        if text != session.token:
            if self._identity.token_updates and session.token and now - session.token_at < TOKEN_UPDATE:
                return "TooManyProviderTokenUpdates", 0.0
            session.token, session.token_at = text, now
            session.passed.clear()
        return None, token.issued_at + TOKEN_LIFE

    def _verify(self, text: bytes) -> ProviderToken:
        """Verify a provider token: ES256 by the known key, `kid`, `iss`, `iat`."""
        try:
            header = jwt.get_unverified_header(text)
            claims: dict[str, Any] = jwt.decode(
                text,
                self._identity.public_key,
                algorithms=["ES256"],
                options={"verify_iat": False, "verify_exp": False, "verify_nbf": False, "verify_aud": False},
            )
        except (jwt.PyJWTError, ValueError):
            return ProviderToken(reason="InvalidProviderToken")
        issued_at = claims.get("iat")
        if (
            header.get("kid") != self._identity.key_id
            or claims.get("iss") != self._identity.team_id
            or not isinstance(issued_at, int | float)
        ):
            return ProviderToken(reason="InvalidProviderToken")
        return ProviderToken(issued_at=float(issued_at))


def _judge_topic(topic: bytes | None, kind: str | None, bundle_ids: frozenset[str]) -> str | None:
    if topic is None:
        return "MissingTopic"
    text = topic.decode("latin-1")
    if not _TOPIC.fullmatch(text):
        return "BadTopic"
    suffixes = TOPIC_SUFFIXES.values() if kind is None else (TOPIC_SUFFIXES[kind],)
    if any(text == bundle_id + suffix for bundle_id in bundle_ids for suffix in suffixes):
        return None
    # A topic of ours with the suffix of another push type is a bad topic; any other topic is not allowed.
    ours = any(text == bundle_id + suffix for bundle_id in bundle_ids for suffix in TOPIC_SUFFIXES.values())
    return "BadTopic" if ours else "TopicDisallowed"


def _judge_priority(priority: bytes | None, kind: str | None) -> str | None:
    """Check the priority: 10 is the default, an error for `background`; `liveactivity` takes 5 or 10."""
    value = b"10" if priority is None else priority
    if value not in (b"10", b"5", b"1"):
        return "BadPriority"
    if (kind == "background" and value == b"10") or (kind == "liveactivity" and value == b"1"):
        return "BadPriority"
    return None


def _judge_own(fields: Mapping[bytes, bytes], token: bytes, body: bytes, limit: int) -> str | None:
    """Check what differs from push to push."""
    message_id = fields.get(b"apns-id")
    if message_id is not None and not _UUID.fullmatch(message_id):
        return "BadMessageId"
    expiration = fields.get(b"apns-expiration")
    if expiration is not None and not (expiration.isdigit() and len(expiration) <= 18):
        return "BadExpirationDate"
    collapse_id = fields.get(b"apns-collapse-id")
    if collapse_id is not None and not 0 < len(collapse_id) <= 64:
        return "BadCollapseId"
    if not token:
        return "MissingDeviceToken"
    if not _HEX.fullmatch(token):
        return "BadDeviceToken"
    if not body:
        return "PayloadEmpty"
    if len(body) > limit:
        return "PayloadTooLarge"
    try:
        # Apple names no reason for a payload that is not a JSON object; this one is the nearest.
        return None if _OBJECT.decode(body) else "PayloadEmpty"
    except msgspec.DecodeError:
        return "PayloadEmpty"


def well_formed_id(message_id: bytes | None) -> bool:
    """Return whether an `apns-id` is a canonical UUID in lower case, which is echoed."""
    return message_id is not None and _UUID.fullmatch(message_id) is not None


def accept(message_id: bytes, unique_id: bytes | None = None) -> Answer:
    """Return the answer 200: no body, the id, and in the sandbox `apns-unique-id` as well."""
    block = OK + message_id
    return Answer(200, "", block if unique_id is None else block + literal(b"apns-unique-id", unique_id))


def refuse(
    reason: str,
    message_id: bytes,
    *,
    status: int | None = None,
    timestamp: int | None = None,
    retry_after: bytes | None = None,
    empty: bool = False,
    detail: str = "",
) -> Answer:
    """Return a refusal.

    `timestamp` is Unix milliseconds and belongs to a 410; `detail` is the simulator's own remark.
    """
    status = REASONS[reason] if status is None else status
    content: dict[str, str | int] = {"reason": reason}
    if timestamp is not None and status == 410:
        content["timestamp"] = timestamp
    if detail:
        content["detail"] = detail
    block = status_field(status) + _ID + message_id
    if retry_after is not None:
        block += literal(b"retry-after", retry_after)
    return Answer(status, reason, block, b"" if empty else msgspec.json.encode(content))
