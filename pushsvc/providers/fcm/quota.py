"""The quota of a Firebase project, and the limit for one device.

- A project may send 600,000 messages a minute, over all its apps and servers, and should take a minute to reach this
  rate (https://firebase.google.com/docs/cloud-messaging/scale-fcm).
- A device gets 20 collapsible messages at once and one more every 3 minutes, per app
  (https://firebase.google.com/docs/cloud-messaging/throttling-and-quotas). A message counts as collapsible if it has a
  `collapse_key` and nothing to show: Google says that content-free pings are what the limit is for. A visible
  notification with `collapse` replaces the earlier one by its tag, and delaying it for minutes would do more harm than
  a 429 of FCM, which is understood and waited for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import msgspec

from ...model.rates import AccountLimits, Rate, parse_rate
from .config import ENDPOINT, Config

QUOTA: Final = Rate(600_000, 60)
RAMP: Final = 60.0


class _Android(msgspec.Struct):
    collapse_key: str = ""
    collapseKey: str = ""  # noqa: N815  # proto3 JSON takes this spelling as well
    notification: msgspec.Raw | None = None


class _Message(msgspec.Struct):
    notification: msgspec.Raw | None = None
    android: _Android | None = None


_decode = msgspec.json.Decoder(_Message).decode


def is_collapsible(body: bytes) -> bool:
    """Return whether a rendered message has a collapse key and nothing to show."""
    if b"collapse" not in body:
        return False
    try:
        message = _decode(body)
    except msgspec.MsgspecError:
        return False  # FCM will say what is wrong with it.
    android = message.android
    if android is None or not (android.collapse_key or android.collapseKey):
        return False
    return message.notification is None and android.notification is None


def account_limits(config: Config) -> AccountLimits:
    quota = (QUOTA if config.endpoint == ENDPOINT else None) if config.quota == "auto" else parse_rate(config.quota)
    return AccountLimits(
        account=config.project_id or _project_of(config.service_account_file),
        quota=quota,
        ramp=RAMP,
        collapsible=parse_rate(config.collapsible),
        is_collapsible=is_collapsible,
    )


def _project_of(file: str) -> str:
    try:
        return str(json.loads(Path(file).read_text(encoding="utf-8")).get("project_id", ""))
    except (OSError, ValueError, RecursionError, AttributeError):
        return ""  # Opening the provider says what is wrong with the file.
