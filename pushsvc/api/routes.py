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

_LIMIT: Final = Param("limit", "The maximum number of items.", least=1, most=1000, default=100)

CALLS: Final = (
    Call(
        "post_push",
        "POST",
        "/v1/push",
        "Send one push to one or many targets.",
        Answer(
            202,
            "The push is stored and will be sent.",
            Accepted,
            headers=(("Location", "The path of its status document."),),
        ),
        also=(
            Answer(
                200,
                "With `Prefer: wait`: every delivery has ended. The status document.",
                Status,
                headers=(("Preference-Applied", "`wait=N`."), ("Content-Location", "The path of its status document.")),
            ),
        ),
        description=(
            "Answers only after the push is stored in Redis. A push is accepted as a whole or not at all. The payload "
            "limits of the providers are checked first. A token that occurs twice in one push gets one delivery. With "
            "`send_at`, the push is `scheduled` until that time."
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
        "Send up to 1,000 different pushes.",
        Answer(200, "The result of each push, in the order of the request.", BatchResults),
        description=(
            "Each push is judged separately: valid pushes are accepted, and each invalid one has a problem document in "
            "its place. An `Idempotency-Key` covers the whole call."
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
        "Get the status of a push.",
        Answer(200, "The status document.", Status),
        scopes=("push", "admin"),
        problems=(*_KEYED, NotFound, InvalidRequest),
    ),
    Call(
        "get_deliveries",
        "GET",
        "/v1/push/{id}/deliveries",
        "List how the deliveries of a push ended.",
        Answer(200, "A page of deliveries, in the order of the request.", Deliveries),
        description=(
            "Lists the deliveries that did not end as `sent`; for pushes of up to 1,000 deliveries, all of them. A "
            "push "
            "that was cancelled before its `send_at` has none, because no delivery was started."
        ),
        scopes=("push", "admin"),
        params=(
            Param("outcome", "Only deliveries with this outcome.", options=ENDS),
            Param("cursor", "The `cursor` of the previous page."),
            _LIMIT,
        ),
        problems=(*_KEYED, NotFound, InvalidRequest),
    ),
    Call(
        "cancel_push",
        "DELETE",
        "/v1/push/{id}",
        "Cancel the deliveries of a push that have not been sent.",
        Answer(200, "The status document after the cancellation.", Status),
        description=(
            "Answers when every dispatcher has stopped working on the push, after two seconds at most. A delivery that "
            "is in flight at that moment stays `queued`, and the push `sending`, until the provider has answered; all "
            "other deliveries are `cancelled`. Deliveries of a dispatcher that does not respond within this time keep "
            "their state until it responds or another dispatcher takes them over."
        ),
        scopes=("push", "admin"),
        problems=(*_KEYED, NotFound, Conflict, InvalidRequest),
    ),
    Call(
        "get_feedback",
        "GET",
        "/v1/feedback",
        "List tokens that the providers reported as dead or suspect.",
        Answer(200, "A page of events, in order.", FeedbackPage),
        description=(
            "Store the `cursor` and pass it as `after` to continue where the last page ended. If events after it have "
            "been removed since, because they are older than `queue.feedback_retention`, `missing_to` says so."
        ),
        scopes=("feedback", "admin"),
        params=(Param("after", "The `cursor` of the previous page; if left out, from the oldest event on."), _LIMIT),
        problems=(*_KEYED, Gone, InvalidRequest),
    ),
    Call(
        "get_failed",
        "GET",
        "/v1/failed",
        "List dead letters: deliveries that failed permanently.",
        Answer(200, "A page of dead letters, oldest first.", DeadLetterPage),
        description="Dead letters are kept for a month, unless configured otherwise, and can be replayed.",
        scopes=("push", "admin"),
        params=(
            Param("push", "Only dead letters of this push."),
            Param("platform", "Only those of this platform."),
            Param("reason", "Only those that failed with this reason."),
            Param("since", "Only those that failed at this instant (RFC 3339) or later."),
            Param("until", "Only those that failed before this instant (RFC 3339)."),
            Param("cursor", "The `cursor` of the previous page."),
            _LIMIT,
        ),
        problems=(*_KEYED, InvalidRequest),
    ),
    Call(
        "post_replay",
        "POST",
        "/v1/failed/replay",
        "Replay dead letters: send them again.",
        Answer(
            202,
            "The replay is stored and will run; for a dry run, how many dead letters match.",
            ReplayAccepted,
        ),
        description=(
            "The replay runs in the background, in `pushsvc jobs`. A replayed dead letter becomes a delivery of its "
            "push again: it counts as `retrying` instead of `failed`, is sent with the same ids, and starts again with "
            "all its attempts and its full `ttl`. Dead letters that are added after this call are not replayed, nor "
            "are those of cancelled pushes."
        ),
        scopes=("push", "admin"),
        body=ReplayDocument,
        problems=(MalformedBody, *_KEYED, RequestTimeout, ContentTooLarge, UnsupportedMediaType, InvalidRequest),
    ),
    Call(
        "get_replay",
        "GET",
        "/v1/failed/replay/{job}",
        "Get the progress of a replay.",
        Answer(200, "The progress of the replay.", Replay),
        scopes=("push", "admin"),
        problems=(*_KEYED, NotFound, Conflict, InvalidRequest),
    ),
    Call(
        "delete_replay",
        "DELETE",
        "/v1/failed/replay/{job}",
        "Stop a replay.",
        Answer(200, "The progress of the replay. A replay that has ended does not change.", Replay),
        description=(
            "Dead letters that were replayed so far are sent; the others stay dead letters. A step of up to 500 "
            "deliveries that is in progress is still completed."
        ),
        scopes=("push", "admin"),
        problems=(*_KEYED, NotFound, Conflict, InvalidRequest),
    ),
    Call(
        "get_devices",
        "GET",
        "/v1/devices",
        "List the devices of the app.",
        Answer(200, "A page of devices, including pruned ones, in the order of their first registration.", DevicePage),
        description="With `topic`, only devices that are subscribed and active. To read all, follow `cursor` until it "
        "is null.",
        scopes=("devices", "admin"),
        params=(
            Param("topic", "Only devices that are subscribed to this topic."),
            Param("platform", "Only those of this platform."),
            Param("state", "Only devices in this state.", options=("active", "pruned")),
            Param("cursor", "The `cursor` of the previous page."),
            _LIMIT,
        ),
        problems=(*_KEYED, InvalidRequest),
    ),
    Call(
        "put_device",
        "PUT",
        "/v1/devices/{device_id}",
        "Register or refresh a device.",
        Answer(200, "The device after the change.", RegisteredDevice),
        also=(Answer(201, "The device is new.", RegisteredDevice, headers=(("Location", "The path of the device."),)),),
        description=(
            "Call it each time the app starts, with the app's current token. The document replaces what was stored "
            "about the device; its topics are kept. A token belongs to one device: a device that had this token before "
            "is removed. A pruned device becomes active again, and the suppression of its token is lifted."
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
        "Get a device.",
        Answer(200, "The device.", RegisteredDevice),
        scopes=("devices", "admin"),
        problems=(*_KEYED, NotFound, Conflict, InvalidRequest),
    ),
    Call(
        "delete_device",
        "DELETE",
        "/v1/devices/{device_id}",
        "Remove a device.",
        Answer(204, "The device is removed, also from its topics and its user."),
        scopes=("devices", "admin"),
        problems=(*_KEYED, NotFound, Conflict, InvalidRequest),
    ),
    Call(
        "get_user_devices",
        "GET",
        "/v1/users/{user}/devices",
        "List the devices of a user.",
        Answer(200, "All devices of the user, including pruned ones.", DeviceList),
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
            "Removes the devices of the user and everything stored under their ids and tokens: queued deliveries, dead "
            "letters, feedback events, delivery rows and suppressions. Once this call has answered, nothing more is "
            "sent to them."
        ),
        scopes=("devices", "admin"),
        problems=(*_KEYED, Conflict, InvalidRequest),
    ),
    Call(
        "put_subscription",
        "PUT",
        "/v1/topics/{topic}/devices/{device_id}",
        "Subscribe a device to a topic.",
        Answer(204, "The device is subscribed."),
        description="A topic is created by its first subscriber and removed with its last.",
        scopes=("devices", "admin"),
        problems=(*_KEYED, NotFound, Conflict, InvalidRequest),
    ),
    Call(
        "delete_subscription",
        "DELETE",
        "/v1/topics/{topic}/devices/{device_id}",
        "Unsubscribe a device from a topic.",
        Answer(204, "The device is not subscribed."),
        scopes=("devices", "admin"),
        problems=(*_KEYED, Conflict, InvalidRequest),
    ),
    Call(
        "get_topics",
        "GET",
        "/v1/topics",
        "List the topics of the app.",
        Answer(200, "A page of topics, ordered by name.", TopicPage),
        scopes=("devices", "admin"),
        params=(Param("cursor", "The `cursor` of the previous page."), _LIMIT),
        problems=(*_KEYED, InvalidRequest),
    ),
    Call(
        "get_topic",
        "GET",
        "/v1/topics/{topic}",
        "Get the number of devices that are subscribed to a topic.",
        Answer(200, "The number of devices that are subscribed and active.", Topic),
        scopes=("devices", "admin"),
        problems=(*_KEYED, NotFound, InvalidRequest),
    ),
    Call(
        "post_restore",
        "POST",
        "/v1/devices/restore",
        "Restore pruned devices.",
        Answer(200, "The number of restored devices.", Restored),
        description=(
            "A pruned device keeps its user, tags and topics until cleanup removes it. A restored device has all of "
            "them again, and the suppression of its token is lifted. A dry run returns the number of matching devices "
            f"in `left`. One call restores up to {MOST_RESTORED:,} devices: repeat it while `left` is more than 0."
        ),
        scopes=("devices", "admin"),
        body=RestoreDocument,
        problems=(MalformedBody, *_KEYED, RequestTimeout, ContentTooLarge, UnsupportedMediaType, InvalidRequest),
    ),
    Call(
        "delete_suppression",
        "DELETE",
        "/v1/suppressions/{platform}/{token}",
        "Lift the suppression of a token.",
        Answer(204, "The token is no longer suppressed."),
        description=(
            "Nothing is sent to a token that a provider reported as dead. Use this call if you store tokens yourself "
            "and the app has reported the same token again; registering a device with it has the same effect. A device "
            "that was pruned with the token stays pruned: register or restore it."
        ),
        scopes=("devices", "admin"),
        problems=(*_KEYED, NotFound, InvalidRequest, HeadersTooLarge),
    ),
    Call(
        "post_channel",
        "POST",
        "/v1/channels",
        "Create a broadcast channel (APNs, iOS 18).",
        Answer(201, "The new channel.", Channel, headers=(("Location", "The path of the channel."),)),
        description=(
            "Live Activities subscribe to a channel by its id; a push with the target "
            '`{"platform": "apns", "channel": "<id>"}` updates or ends all of them. APNs allows 10,000 channels per '
            "app: delete a channel when its event is over. 409 means that APNs allows no more channels, or that "
            "broadcasts are not enabled for the app."
        ),
        scopes=("push", "admin"),
        body=ChannelDocument,
        problems=(MalformedBody, *_ASKED, RequestTimeout, ContentTooLarge, UnsupportedMediaType),
    ),
    Call(
        "get_channels",
        "GET",
        "/v1/channels",
        "List the ids of the broadcast channels of the app.",
        Answer(200, "All ids.", ChannelList),
        scopes=("push", "admin"),
        problems=_ASKED,
    ),
    Call(
        "get_channel",
        "GET",
        "/v1/channels/{id}",
        "Get a broadcast channel.",
        Answer(200, "The channel.", Channel),
        scopes=("push", "admin"),
        problems=(*_ASKED, NotFound),
    ),
    Call(
        "delete_channel",
        "DELETE",
        "/v1/channels/{id}",
        "Delete a broadcast channel permanently.",
        Answer(204, "The channel is deleted. Messages that APNs had stored may still be delivered."),
        scopes=("push", "admin"),
        problems=(*_ASKED, NotFound),
    ),
    Call(
        "get_healthz",
        "GET",
        "/healthz",
        "Check that the process is alive.",
        Answer(200, "The process is alive.", Health),
    ),
    Call(
        "get_readyz",
        "GET",
        "/readyz",
        "Check that pushes are accepted.",
        Answer(200, "Pushes are accepted.", Health),
        description="With 503, `errors` names each part that is not ready and the reason. `held` names routes that "
        "currently do not send: their deliveries wait. `frozen` names routes that currently prune no devices, because "
        "too many of their answers are bad. `unserved` names routes and parts that no running process serves. `full` "
        "names the queue, or the apps, whose pushes are refused because too many deliveries wait. If the API listens "
        "on more than the loopback "
        "interface, everything except `status` needs a key with the scope `admin`.",
        problems=(Unavailable, InternalError),
    ),
    Call(
        "get_metrics",
        "GET",
        "/metrics",
        "Get metrics in the Prometheus text format.",
        Answer(200, "The metrics.", media="text/plain"),
        description="If the API listens on more than the loopback interface, a key with the scope `admin` is needed.",
        problems=(Unauthorized, Forbidden, Unavailable, InternalError),
    ),
    Call(
        "get_openapi",
        "GET",
        "/openapi.json",
        "Get this document.",
        Answer(200, "The OpenAPI 3.1 document.", media=JSON),
    ),
    Call(
        "get_docs",
        "GET",
        "/docs",
        "Get this document as a web page.",
        Answer(200, "An HTML page.", media="text/html"),
    ),
)

CALL: Final = {call.name: call for call in CALLS}
"""By name."""
