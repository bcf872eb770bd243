"""Renders a Live Activity as the `aps` dictionary that ActivityKit reads, for APNs and for FCM. Pure.

    event            aps.event               alert, or the notification's     aps.alert
    content_state    aps.content-state         title, body and sound
    attributes_type  aps.attributes-type     stale_date, dismissal_date       the same with a dash, in Unix seconds
    attributes       aps.attributes          relevance_score                  aps.relevance-score
    input_push_..    the same with dashes    (acceptance, or `send_at`)        aps.timestamp

Source:
https://developer.apple.com/documentation/activitykit/starting-and-updating-live-activities-with-activitykit-push-notifications
"""

from __future__ import annotations

from typing import Any, Final

from ..model.push import ACTIVITY_ALERT, LiveActivity, Notification

_GIVEN: Final = (
    *("content_state", "attributes_type", "attributes", "input_push_channel"),
    *("stale_date", "dismissal_date", "relevance_score"),
)
"""The fields that stand in `aps` under the same name with dashes."""


def aps_of(activity: LiveActivity, notification: Notification | None, start: int) -> dict[str, Any]:
    """Return the dictionary. `start`, in Unix seconds, is its timestamp: of several updates the phone shows the
    latest."""
    aps: dict[str, Any] = {"timestamp": start, "event": activity.event}
    for name in _GIVEN:
        if (value := getattr(activity, name)) is not None:
            aps[name.replace("_", "-")] = value
    if activity.input_push_token:
        aps["input-push-token"] = 1
    if activity.alert:
        aps["alert"] = activity.alert
    elif notification is not None:
        shown = {name: getattr(notification, name) for name in ACTIVITY_ALERT}
        if alert := {name: text for name, text in shown.items() if text is not None}:
            aps["alert"] = alert
    return aps
