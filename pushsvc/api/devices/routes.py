"""The rows of the calls about devices, their users and topics, and those that undo prunes and suppressions."""

from __future__ import annotations

from typing import Final

from ...errors import Conflict, NotFound
from ...model.devices import MAX_NAME, Device, name_fault
from ..call import CURSOR, LIMIT, Answer, Document, rows
from ..http.exchange import Request
from ..http.params import PathParam, QueryParam
from . import calls, document
from .tombstones import MOST as MOST_RESTORED, Restored, RestoreDocument, read_restore


def _name(text: str) -> str:
    if (fault := name_fault(text)) is not None:
        raise ValueError(fault)
    return text


_SHAPE: Final = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
DEVICE: Final = PathParam("device_id", "The id of the device, chosen by the caller.", _SHAPE, _name)
_NEW_DEVICE: Final = PathParam(DEVICE.name, DEVICE.description, _SHAPE)
"""Validated with the document, so that all faults are named at once."""
USER: Final = PathParam("user", "The id of the user.", _SHAPE, _name)
_TOPIC: Final = PathParam("topic", "The name of the topic.", _SHAPE, _name)
_PLATFORM: Final = PathParam("platform", "The platform: `apns` or `fcm`.", _SHAPE)
_TOKEN: Final = PathParam(
    "token",
    "A token or a Firebase installation id, percent-encoded. An APNs token may be upper or lower case.",
    {"type": "string", "minLength": 1, "maxLength": 4096},
)


def _read_device(body: bytes, request: Request) -> Device:
    return document.read_device(body, request.params["device_id"], request.app.rules, request.now)


_row: Final = rows("devices", "admin")

CALLS: Final = (
    _row(
        *("GET /v1/devices", "get_devices", calls.get_devices),
        "List the devices of the app.",
        Answer(
            200,
            "A page of devices, including pruned ones, in the order of their first registration.",
            document.DevicePage,
        ),
        description="With `topic`, only devices that are subscribed and active. To read all, follow `cursor` until it "
        "is null.",
        params=(
            QueryParam("topic", "Only devices that are subscribed to this topic."),
            QueryParam("platform", "Only those of this platform."),
            QueryParam("state", "Only devices in this state.", options=("active", "pruned")),
            CURSOR,
            LIMIT,
        ),
    ),
    _row(
        *(
            "PUT /v1/devices/{device_id}",
            "put_device",
            Document(document.DeviceDocument, _read_device, calls.put_device),
        ),
        "Register or refresh a device.",
        Answer(200, "The device after the change.", document.RegisteredDevice),
        also=(
            Answer(
                201, "The device is new.", document.RegisteredDevice, headers=(("Location", "The path of the device."),)
            ),
        ),
        description=(
            "Call it each time the app starts, with the app's current token. The document replaces what was stored "
            "about the device; its topics are kept. A token belongs to one device: a device that had this token before "
            "is removed. A pruned device becomes active again, and the suppression of its token is lifted."
        ),
        names=(_NEW_DEVICE,),
        raises=(Conflict,),
    ),
    _row(
        *("GET /v1/devices/{device_id}", "get_device", calls.get_device),
        "Get a device.",
        Answer(200, "The device.", document.RegisteredDevice),
        names=(DEVICE,),
        raises=(NotFound, Conflict),
    ),
    _row(
        *("DELETE /v1/devices/{device_id}", "delete_device", calls.delete_device),
        "Remove a device.",
        Answer(204, "The device is removed, also from its topics and its user."),
        names=(DEVICE,),
        raises=(NotFound, Conflict),
    ),
    _row(
        *("GET /v1/users/{user}/devices", "get_user_devices", calls.get_user_devices),
        "List the devices of a user.",
        Answer(200, "All devices of the user, including pruned ones.", document.DeviceList),
        names=(USER,),
    ),
    _row(
        *("DELETE /v1/users/{user}", "delete_user", calls.delete_user),
        "Erase a user.",
        Answer(200, "What was erased.", document.Erased),
        description=(
            "Removes the devices of the user and everything stored under their ids and tokens: queued deliveries, dead "
            "letters, feedback events, delivery rows and suppressions. Once this call has answered, nothing more is "
            "sent to them."
        ),
        names=(USER,),
        raises=(Conflict,),
    ),
    _row(
        *("PUT /v1/topics/{topic}/devices/{device_id}", "put_subscription", calls.put_subscription),
        "Subscribe a device to a topic.",
        Answer(204, "The device is subscribed."),
        description="A topic is created by its first subscriber and removed with its last.",
        names=(DEVICE, _TOPIC),
        raises=(NotFound, Conflict),
    ),
    _row(
        *("DELETE /v1/topics/{topic}/devices/{device_id}", "delete_subscription", calls.delete_subscription),
        "Unsubscribe a device from a topic.",
        Answer(204, "The device is not subscribed."),
        names=(DEVICE, _TOPIC),
        raises=(Conflict,),
    ),
    _row(
        *("GET /v1/topics", "get_topics", calls.get_topics),
        "List the topics of the app.",
        Answer(200, "A page of topics, ordered by name.", document.TopicPage),
        params=(CURSOR, LIMIT),
    ),
    _row(
        *("GET /v1/topics/{topic}", "get_topic", calls.get_topic),
        "Get the number of devices that are subscribed to a topic.",
        Answer(200, "The number of devices that are subscribed and active.", document.Topic),
        names=(_TOPIC,),
        raises=(NotFound,),
    ),
    _row(
        *(
            "POST /v1/devices/restore",
            "post_restore",
            Document(RestoreDocument, lambda body, _: read_restore(body), calls.post_restore),
        ),
        "Restore pruned devices.",
        Answer(200, "The number of restored devices.", Restored),
        description=(
            "A pruned device keeps its user, tags and topics until cleanup removes it. A restored device has all of "
            "them again, and the suppression of its token is lifted. A dry run returns the number of matching devices "
            f"in `left`. One call restores up to {MOST_RESTORED:,} devices: repeat it while `left` is more than 0."
        ),
    ),
    _row(
        *("DELETE /v1/suppressions/{platform}/{token}", "delete_suppression", calls.delete_suppression),
        "Lift the suppression of a token.",
        Answer(204, "The token is no longer suppressed."),
        description=(
            "Nothing is sent to a token that a provider reported as dead. Use this call if you store tokens yourself "
            "and the app has reported the same token again; registering a device with it has the same effect. A device "
            "that was pruned with the token stays pruned: register or restore it."
        ),
        names=(_PLATFORM, _TOKEN),
        raises=(NotFound,),
    ),
)
