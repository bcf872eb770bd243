"""The calls: one table from which both the router and the OpenAPI document are made, so that they cannot disagree."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from ..errors import (
    BadGateway,
    Conflict,
    ContentTooLarge,
    Forbidden,
    Gone,
    InvalidRequest,
    MalformedBody,
    NotFound,
    RequestError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from ..model.access import Scope
from ..model.delivery import ENDS
from .answers import Accepted, Deliveries, FeedbackPage, Health, Status
from .channels.document import Channel, ChannelDocument, ChannelList
from .devices.document import (
    DeviceDocument,
    DeviceList,
    DevicePage,
    Erased,
    RegisteredDevice,
    Topic,
    TopicPage,
)
from .devices.tombstones import MOST as MOST_RESTORED
from .devices.tombstones import Restored, RestoreDocument
from .http.idempotency import PARAM as IDEMPOTENCY_KEY
from .http.prefer import PARAM as PREFER
from .http.problems import HeadersTooLarge, InternalError, RequestTimeout, UnsupportedMediaType
from .http.query import Param
from .letters.document import DeadLetterPage, Replay, ReplayAccepted, ReplayDocument
from .pushes.batch import NDJSON, BatchResults
from .pushes.document import PushDocument

JSON: Final = "application/json"


class Answer(Struct, frozen=True):
    """One good answer of a call."""

    status: int
    description: str
    body: Any = None
    """A struct, or None for what `media` alone describes."""
    media: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    """Names with what they say."""


class Call(Struct, frozen=True):
    """One method of one path."""

    name: str
    """The operation's id, and the name of its handler."""
    method: str
    path: str
    summary: str
    answer: Answer
    also: tuple[Answer, ...] = ()
    """Other good answers."""
    description: str = ""
    scopes: tuple[Scope, ...] = ()
    """Any one of them lets in; none: the call needs no key."""
    params: tuple[Param, ...] = ()
    headers: tuple[Param, ...] = ()
    body: Any = None
    lines: str = ""
    """The media type in which several bodies are sent, one a line; then JSON is a list of them."""
    problems: tuple[type[RequestError], ...] = ()

    @property
    def needs_key(self) -> bool:
        """Whether an API key must be sent."""
        return bool(self.scopes)


_KEYED: Final[tuple[type[RequestError], ...]] = (Unauthorized, Forbidden, Unavailable, InternalError)

_ASKED: Final[tuple[type[RequestError], ...]] = (*_KEYED, Conflict, BadGateway, InvalidRequest)
"""Of calls that ask a provider."""

_LIMIT: Final = Param("limit", "How many items at most.", least=1, most=1000, default=100)

CALLS: Final = (
    Call(
        "post_push",
        "POST",
        "/v1/push",
        "Accept one push for one or many targets.",
        Answer(
            202, "The push is in Redis and will be sent.", Accepted, headers=(("Location", "The path of its status."),)
        ),
        also=(
            Answer(
                200,
                "Every delivery has ended, as `Prefer: wait` asked for: the status document.",
                Status,
                headers=(("Preference-Applied", "`wait=N`."), ("Content-Location", "The path of its status.")),
            ),
        ),
        description=(
            "Answers only after Redis holds the push; a body is never half accepted. The payload limits of the "
            "providers are checked before. The same token twice in one push is one delivery. With `send_at` the push "
            "is `scheduled` until then."
        ),
        scopes=("push",),
        headers=(IDEMPOTENCY_KEY, PREFER),
        body=PushDocument,
        problems=(
            MalformedBody,
            *_KEYED,
            RequestTimeout,
            Conflict,
            ContentTooLarge,
            UnsupportedMediaType,
            InvalidRequest,
            TooManyRequests,
        ),
    ),
    Call(
        "post_batch",
        "POST",
        "/v1/push/batch",
        "Accept up to 1,000 different pushes.",
        Answer(200, "What became of each push, in the order of the request.", BatchResults),
        description=(
            "Each push stands for itself: those without fault are accepted, the others have their problem document in "
            "their place. An `Idempotency-Key` covers the whole call."
        ),
        scopes=("push",),
        headers=(IDEMPOTENCY_KEY,),
        body=PushDocument,
        lines=NDJSON,
        problems=(
            MalformedBody,
            *_KEYED,
            RequestTimeout,
            Conflict,
            ContentTooLarge,
            UnsupportedMediaType,
            InvalidRequest,
            TooManyRequests,
        ),
    ),
    Call(
        "get_push",
        "GET",
        "/v1/push/{id}",
        "Where the push stands.",
        Answer(200, "The status document.", Status),
        scopes=("push", "admin"),
        problems=(*_KEYED, NotFound, InvalidRequest),
    ),
    Call(
        "get_deliveries",
        "GET",
        "/v1/push/{id}/deliveries",
        "How its deliveries ended.",
        Answer(200, "A page of rows, in the order of the request.", Deliveries),
        description=(
            "One row a delivery that did not end as `sent`; of pushes of up to 1,000 deliveries all of them. None of a "
            "push that was cancelled before its `send_at`: no delivery was begun."
        ),
        scopes=("push", "admin"),
        params=(
            Param("outcome", "Only deliveries that ended so.", options=ENDS),
            Param("cursor", "The `cursor` of the page before."),
            _LIMIT,
        ),
        problems=(*_KEYED, NotFound, InvalidRequest),
    ),
    Call(
        "cancel_push",
        "DELETE",
        "/v1/push/{id}",
        "Cancel what has not been sent.",
        Answer(200, "The status document after it.", Status),
        description=(
            "It answers when every dispatcher has let go of the push, after two seconds at most. What was in flight "
            "then stays `queued`, and the push `sending`, until the provider has answered; all else is `cancelled`. "
            "What a dispatcher holds that says nothing in that time counts as it stands until it speaks or another "
            "takes it over."
        ),
        scopes=("push", "admin"),
        problems=(*_KEYED, NotFound, Conflict, InvalidRequest),
    ),
    Call(
        "get_feedback",
        "GET",
        "/v1/feedback",
        "Tokens that the providers called dead or suspect, in order.",
        Answer(200, "A page of events.", FeedbackPage),
        description=(
            "Keep the `cursor` and give it as `after` to go on where the last page ended. Whoever comes later than "
            "`queue.feedback_retention` is told in `missing_to` that events are missing."
        ),
        scopes=("feedback", "admin"),
        params=(Param("after", "The `cursor` of the page before; without it from the oldest event on."), _LIMIT),
        problems=(*_KEYED, Gone, InvalidRequest),
    ),
    Call(
        "get_failed",
        "GET",
        "/v1/failed",
        "Dead letters: deliveries that failed for good.",
        Answer(200, "A page of them, oldest first.", DeadLetterPage),
        description="They are kept for a month, unless configured otherwise, and can be sent again.",
        scopes=("push", "admin"),
        params=(
            Param("push", "Only those of this push."),
            Param("platform", "Only those of this provider."),
            Param("reason", "Only those that failed for this reason."),
            Param("since", "Only those that failed at this instant (RFC 3339) or later."),
            Param("until", "Only those that failed before this instant (RFC 3339)."),
            Param("cursor", "The `cursor` of the page before."),
            _LIMIT,
        ),
        problems=(*_KEYED, InvalidRequest),
    ),
    Call(
        "post_replay",
        "POST",
        "/v1/failed/replay",
        "Send dead letters again.",
        Answer(
            202,
            "The replay is in Redis and will be run; or, as a dry run, what it would mean.",
            ReplayAccepted,
        ),
        description=(
            "In the background, by `pushsvc jobs`. Each is the same delivery again, of the same push: it counts as "
            "`retrying`, no longer as `failed`, carries the same ids to the provider, has all its attempts and its "
            "whole `ttl` anew. Dead letters of later are not meant. Those of cancelled pushes stay."
        ),
        scopes=("push", "admin"),
        body=ReplayDocument,
        problems=(MalformedBody, *_KEYED, RequestTimeout, ContentTooLarge, UnsupportedMediaType, InvalidRequest),
    ),
    Call(
        "get_replay",
        "GET",
        "/v1/failed/replay/{job}",
        "Where a replay stands.",
        Answer(200, "Its progress.", Replay),
        scopes=("push", "admin"),
        problems=(*_KEYED, NotFound, Conflict, InvalidRequest),
    ),
    Call(
        "delete_replay",
        "DELETE",
        "/v1/failed/replay/{job}",
        "Stop a replay.",
        Answer(200, "Where it stands; one that has ended stays as it is.", Replay),
        description=(
            "What it has moved is on its way; what it has not stays a dead letter. A step that is under way, of up to "
            "500 deliveries, still ends."
        ),
        scopes=("push", "admin"),
        problems=(*_KEYED, NotFound, Conflict, InvalidRequest),
    ),
    Call(
        "get_devices",
        "GET",
        "/v1/devices",
        "All devices of the app.",
        Answer(200, "A page of them, pruned ones too, in the order in which they were registered first.", DevicePage),
        description="Of a topic, those that are subscribed and active. To have all, follow `cursor` until it is null.",
        scopes=("devices", "admin"),
        params=(
            Param("topic", "Only those that are subscribed to it."),
            Param("platform", "Only those of this provider."),
            Param("state", "Only those in this state.", options=("active", "pruned")),
            Param("cursor", "The `cursor` of the page before."),
            _LIMIT,
        ),
        problems=(*_KEYED, InvalidRequest),
    ),
    Call(
        "put_device",
        "PUT",
        "/v1/devices/{device_id}",
        "Register a device, or refresh it.",
        Answer(200, "The device as it is after it.", RegisteredDevice),
        also=(Answer(201, "The device is new.", RegisteredDevice, headers=(("Location", "Its path."),)),),
        description=(
            "Call it each time that the app starts, with the token that the app has got. The document replaces what "
            "was known of the device; its topics stay. A token belongs to one device: it leaves the one that had it "
            "before, which is then gone. A pruned device is active again, and a token that was suppressed is sent to "
            "again."
        ),
        scopes=("devices", "admin"),
        body=DeviceDocument,
        problems=(
            MalformedBody,
            *_KEYED,
            RequestTimeout,
            Conflict,
            ContentTooLarge,
            UnsupportedMediaType,
            InvalidRequest,
        ),
    ),
    Call(
        "get_device",
        "GET",
        "/v1/devices/{device_id}",
        "Read a device.",
        Answer(200, "The device.", RegisteredDevice),
        scopes=("devices", "admin"),
        problems=(*_KEYED, NotFound, Conflict, InvalidRequest),
    ),
    Call(
        "delete_device",
        "DELETE",
        "/v1/devices/{device_id}",
        "Remove a device.",
        Answer(204, "It is gone, from its topics and its user too."),
        scopes=("devices", "admin"),
        problems=(*_KEYED, NotFound, Conflict, InvalidRequest),
    ),
    Call(
        "get_user_devices",
        "GET",
        "/v1/users/{user}/devices",
        "A user's devices.",
        Answer(200, "All of them, pruned ones too.", DeviceList),
        scopes=("devices", "admin"),
        problems=(*_KEYED, InvalidRequest),
    ),
    Call(
        "delete_user",
        "DELETE",
        "/v1/users/{user}",
        "Erase a user.",
        Answer(200, "What was erased.", Erased),
        description=(
            "The devices go, and all that is kept of their ids and tokens: deliveries that are queued, dead letters, "
            "feedback events, rows of statuses, suppressions. When this answers, nothing more is sent to them."
        ),
        scopes=("devices", "admin"),
        problems=(*_KEYED, Conflict, InvalidRequest),
    ),
    Call(
        "put_subscription",
        "PUT",
        "/v1/topics/{topic}/devices/{device_id}",
        "Subscribe a device to a topic.",
        Answer(204, "It is subscribed."),
        description="A topic begins with its first subscriber and ends with its last.",
        scopes=("devices", "admin"),
        problems=(*_KEYED, NotFound, Conflict, InvalidRequest),
    ),
    Call(
        "delete_subscription",
        "DELETE",
        "/v1/topics/{topic}/devices/{device_id}",
        "Unsubscribe a device from a topic.",
        Answer(204, "It is not subscribed."),
        scopes=("devices", "admin"),
        problems=(*_KEYED, Conflict, InvalidRequest),
    ),
    Call(
        "get_topics",
        "GET",
        "/v1/topics",
        "All topics of the app.",
        Answer(200, "A page of them, in the order of their names.", TopicPage),
        scopes=("devices", "admin"),
        params=(Param("cursor", "The `cursor` of the page before."), _LIMIT),
        problems=(*_KEYED, InvalidRequest),
    ),
    Call(
        "get_topic",
        "GET",
        "/v1/topics/{topic}",
        "How many devices a topic has.",
        Answer(200, "Devices that are subscribed and active.", Topic),
        scopes=("devices", "admin"),
        problems=(*_KEYED, NotFound, InvalidRequest),
    ),
    Call(
        "post_restore",
        "POST",
        "/v1/devices/restore",
        "Undo prunes.",
        Answer(200, "So many are back.", Restored),
        description=(
            "A device that was pruned keeps its user, tags and topics until it is buried, and comes back with all of "
            "them; its token is sent to again. A dry run tells in `left` how many are meant. One call restores up to "
            f"{MOST_RESTORED:,}: call again while `left` is more than 0."
        ),
        scopes=("devices", "admin"),
        body=RestoreDocument,
        problems=(MalformedBody, *_KEYED, RequestTimeout, ContentTooLarge, UnsupportedMediaType, InvalidRequest),
    ),
    Call(
        "delete_suppression",
        "DELETE",
        "/v1/suppressions/{platform}/{token}",
        "Send to a token again.",
        Answer(204, "It is not suppressed any more."),
        description=(
            "A token that a provider called dead is not sent to. For who keeps tokens himself and has got the same one "
            "from the app again; to register a device with it does the same. The device that was pruned with it stays "
            "pruned: register or restore it."
        ),
        scopes=("devices", "admin"),
        problems=(*_KEYED, NotFound, InvalidRequest, HeadersTooLarge),
    ),
    Call(
        "post_channel",
        "POST",
        "/v1/channels",
        "Make a broadcast channel (APNs, iOS 18).",
        Answer(201, "The channel is there.", Channel, headers=(("Location", "Its path."),)),
        description=(
            "Live Activities listen to a channel by its id; a push with the target "
            '`{"platform": "apns", "channel": "<id>"}` updates or ends them all. APNs allows 10,000 channels an app: '
            "delete those whose event is over. 409 says that APNs allows no more, or that broadcasts are switched off "
            "for the app."
        ),
        scopes=("push", "admin"),
        body=ChannelDocument,
        problems=(MalformedBody, *_ASKED, RequestTimeout, ContentTooLarge, UnsupportedMediaType),
    ),
    Call(
        "get_channels",
        "GET",
        "/v1/channels",
        "The ids of all broadcast channels of the app.",
        Answer(200, "All ids.", ChannelList),
        scopes=("push", "admin"),
        problems=_ASKED,
    ),
    Call(
        "get_channel",
        "GET",
        "/v1/channels/{id}",
        "Read a broadcast channel.",
        Answer(200, "The channel.", Channel),
        scopes=("push", "admin"),
        problems=(*_ASKED, NotFound),
    ),
    Call(
        "delete_channel",
        "DELETE",
        "/v1/channels/{id}",
        "Delete a broadcast channel, for good.",
        Answer(204, "It is gone. What APNs had stored may still be delivered."),
        scopes=("push", "admin"),
        problems=(*_ASKED, NotFound),
    ),
    Call(
        "get_healthz",
        "GET",
        "/healthz",
        "Whether the process lives.",
        Answer(200, "It does.", Health),
    ),
    Call(
        "get_readyz",
        "GET",
        "/readyz",
        "Whether pushes are accepted.",
        Answer(200, "They are.", Health),
        description="With 503 `errors` names each part that is not ready, and why. `held` names routes that do not "
        "send now: what is accepted for them waits. `frozen` names routes that prune no device now, because too many "
        "of their answers are bad. `unserved` names routes and parts that no living process serves, `full` whose "
        "pushes are refused because the queue is full. Where the API is open to others than its own machine, a key "
        "with the scope `admin` is needed for anything but `status`.",
        problems=(Unavailable, InternalError),
    ),
    Call(
        "get_metrics",
        "GET",
        "/metrics",
        "Metrics in the text format of Prometheus.",
        Answer(200, "The exposition.", media="text/plain"),
        description="Where the API is open to others than its own machine, a key with the scope `admin` is needed.",
        problems=(Unauthorized, Forbidden, Unavailable, InternalError),
    ),
    Call(
        "get_openapi",
        "GET",
        "/openapi.json",
        "This document.",
        Answer(200, "OpenAPI 3.1.", media=JSON),
    ),
    Call(
        "get_docs",
        "GET",
        "/docs",
        "This document as a page to read.",
        Answer(200, "HTML.", media="text/html"),
    ),
)

CALL: Final = {call.name: call for call in CALLS}
"""By name."""
