"""The JSON schema of FCM's `projects.messages.send` as one table, and the validation of a body against it. Pure.

Source: https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages and the API's discovery document,
https://fcm.googleapis.com/$discovery/rest?version=v1. Field names are accepted in camelCase and in snake_case, as the
JSON form of protocol buffers requires (https://protobuf.dev/programming-guides/json/).

The simulator refuses messages by it, and the renderer warns by it of misspelt names and wrong values in overrides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

_NOTIFICATION_PRIORITY = "PRIORITY_UNSPECIFIED|PRIORITY_MIN|PRIORITY_LOW|PRIORITY_DEFAULT|PRIORITY_HIGH|PRIORITY_MAX"
_VISIBILITY = "VISIBILITY_UNSPECIFIED|PRIVATE|PUBLIC|SECRET"

_ANDROID: Final = {
    "bandwidth_constrained_ok": "boolean",
    "collapse_key": "string",
    "data": "{string}",
    "direct_boot_ok": "boolean",
    "fcm_options": "AndroidFcmOptions",
    "restricted_package_name": "string",
    "restricted_satellite_ok": "boolean",
    "ttl": "duration",
}
_ANDROID_NOTIFICATION: Final = {
    "body": "string",
    "body_loc_args": "[string]",
    "body_loc_key": "string",
    "channel_id": "string",
    "click_action": "string",
    "color": "string",
    "default_light_settings": "boolean",
    "default_sound": "boolean",
    "default_vibrate_timings": "boolean",
    "event_time": "timestamp",
    "icon": "string",
    "image": "string",
    "light_settings": "LightSettings",
    "local_only": "boolean",
    "notification_count": "int32",
    "notification_priority": _NOTIFICATION_PRIORITY,
    "sound": "string",
    "sticky": "boolean",
    "tag": "string",
    "ticker": "string",
    "title": "string",
    "title_loc_args": "[string]",
    "title_loc_key": "string",
    "vibrate_timings": "[duration]",
    "visibility": _VISIBILITY,
}

SCHEMA: Final[dict[str, dict[str, str]]] = {
    "SendMessageRequest": {"message": "Message", "validate_only": "boolean"},
    "Message": {
        "android": "AndroidConfig",
        "android_v2": "AndroidConfigV2",
        "apns": "ApnsConfig",
        "condition": "string",
        "data": "{string}",
        "fcm_options": "FcmOptions",
        "fid": "string",
        "name": "string",
        "notification": "Notification",
        "token": "string",
        "topic": "string",
        "webpush": "WebpushConfig",
    },
    "Notification": {"body": "string", "image": "string", "title": "string"},
    "AndroidConfig": {**_ANDROID, "notification": "AndroidNotification", "priority": "NORMAL|HIGH"},
    "AndroidNotification": {
        **_ANDROID_NOTIFICATION,
        "bypass_proxy_notification": "boolean",
        "proxy": "PROXY_UNSPECIFIED|ALLOW|DENY|IF_PRIORITY_LOWERED",
    },
    "LightSettings": {"color": "Color", "light_off_duration": "duration", "light_on_duration": "duration"},
    "Color": {"red": "number", "green": "number", "blue": "number", "alpha": "number"},
    "AndroidConfigV2": {
        **_ANDROID,
        "background_sync": "AndroidBackgroundSyncMessage",
        "remote_notification": "AndroidRemoteNotification",
    },
    "AndroidBackgroundSyncMessage": {},
    "AndroidRemoteNotification": {
        "mutable_content": "boolean",
        "notification": "AndroidNotificationV2",
        "use_as_v1_data_message": "boolean",
    },
    "AndroidNotificationV2": {**_ANDROID_NOTIFICATION, "id": "int32"},
    "AndroidFcmOptions": {"analytics_label": "string"},
    "WebpushConfig": {
        "data": "{string}",
        "fcm_options": "WebpushFcmOptions",
        "headers": "{string}",
        "notification": "{any}",
    },
    "WebpushFcmOptions": {"analytics_label": "string", "link": "string"},
    "ApnsConfig": {
        "fcm_options": "ApnsFcmOptions",
        "headers": "{string}",
        "live_activity_token": "string",
        "payload": "{any}",
    },
    "ApnsFcmOptions": {"analytics_label": "string", "image": "string"},
    "FcmOptions": {"analytics_label": "string"},
}
"""The type of each field, by message. `[x]` is a list, `{x}` a map with string keys, `A|B` an enumeration."""

DURATION: Final = r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$"
TIMESTAMP: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)
_GOOGLE_TYPE: Final = {
    "string": "TYPE_STRING",
    "boolean": "TYPE_BOOL",
    "int32": "TYPE_INT32",
    "number": "TYPE_FLOAT",
    "duration": "type.googleapis.com/google.protobuf.Duration",
    "timestamp": "type.googleapis.com/google.protobuf.Timestamp",
    "any": "TYPE_MESSAGE",
}


class Violation(Struct, frozen=True):
    """One bad field, as in `google.rpc.BadRequest.FieldViolation`."""

    field: str
    """The field, or of an unknown name the message around it."""
    description: str
    unknown: str = ""
    """The name that the schema does not have."""


def camel(name: str) -> str:
    """Return a snake_case name in camelCase: `bodyLocArgs` for `body_loc_args`."""
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name)


def snake(name: str) -> str:
    """Return a camelCase name in snake_case: `body_loc_args` for `bodyLocArgs`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: "_" + found[1].lower(), name)


def violations(document: Any) -> list[Violation]:
    """Return everything in a decoded body that the schema does not allow, in Google's wording."""
    if not isinstance(document, dict):
        return [Violation("", "Invalid JSON payload received. A message must be a JSON object.")]
    return list(_message(document, "SendMessageRequest", ""))


def violations_of(message: dict[str, Any]) -> list[Violation]:
    """Return the violations of a `message` object, whose paths begin there."""
    return list(_message(message, "Message", ""))


def _message(document: dict[str, Any], name: str, path: str) -> Iterator[Violation]:
    schema = SCHEMA[name]
    for key, value in document.items():
        field = key if key in schema else snake(key)
        if field not in schema or key not in (field, camel(field)):
            where = f" at '{path}'" if path else ""
            text = f'Invalid JSON payload received. Unknown name "{key}"{where}: Cannot find field.'
            yield Violation(path, text, key)
        elif value is not None:
            yield from _value(value, schema[field], f"{path}.{field}" if path else field)


def _value(value: Any, kind: str, path: str) -> Iterator[Violation]:
    if kind.startswith("["):
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from _value(item, kind[1:-1], f"{path}[{index}]")
        else:
            yield _invalid(path, kind[1:-1], value)
    elif kind.startswith("{"):
        if not isinstance(value, dict):
            yield _invalid(path, "any", value)
        elif kind != "{any}":
            for index, item in enumerate(value.values()):
                yield from _value(item, kind[1:-1], f"{path}[{index}].value")
    elif "|" in kind:
        if not isinstance(value, str) or value.upper() not in kind.split("|"):
            yield Violation(path, f"Invalid value at '{path}' (TYPE_ENUM), {_shown(value)}")
    elif kind in SCHEMA:
        if isinstance(value, dict):
            yield from _message(value, kind, path)
        else:
            yield _invalid(path, "any", value)
    elif not _is_scalar(value, kind):
        yield _invalid(path, kind, value)


def _is_scalar(value: Any, kind: str) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("int32", "number"):
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value):
            value = int(value)  # the JSON form of protocol buffers takes numbers in quotes as well
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return kind == "number" or (value == int(value) and -(2**31) <= value < 2**31)
    if not isinstance(value, str):
        return False
    if kind in ("duration", "timestamp"):
        return re.match(DURATION if kind == "duration" else TIMESTAMP, value) is not None
    return True


def _invalid(path: str, kind: str, value: Any) -> Violation:
    return Violation(path, f"Invalid value at '{path}' ({_GOOGLE_TYPE.get(kind, 'TYPE_MESSAGE')}), {_shown(value)}")


def _shown(value: Any) -> str:
    """Return the value as Google shows it, cut short."""
    return msgspec.json.encode(value).decode()[:80]
