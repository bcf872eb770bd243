"""The nouns of the registry: devices, and the audiences of a push. Frozen values.

A device's token is a secret: it is left out of `repr`.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import asdict, replace

from .instants import instant
from .push import Platform

TagValue: TypeAlias = str | bool | int | float | tuple[str, ...]
Environment = Literal["production", "sandbox"]


class Device(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One installation of an app on one phone, as its backend registered it. Instants are Unix milliseconds."""

    id: str
    """The id that the caller chose, unique within the app."""
    platform: Platform
    token: str
    kind: str = "token"
    """The kind of `token`: `token`, FCM's `fid`, or another kind of a provider."""
    user: str | None = None
    tags: dict[str, TagValue] = {}
    locale: str | None = None
    timezone: str | None = None
    app_version: str | None = None
    environment: Environment = "production"
    registered_at: int = 0
    """When this token was registered last. A 410 that is older says nothing about it."""
    last_seen_at: int = 0
    topics: tuple[str, ...] = ()
    state: Literal["active", "pruned"] = "active"
    """A pruned device is a tombstone: it keeps its data, is in no audience, and can be restored."""
    pruned_at: int = 0
    pruned_for: str = ""
    """The provider's reason for which it was pruned, or one of pushsvc in lower case (`stale`)."""
    strikes: int = 0
    """Suspect answers since the token was registered, of those that lie far enough apart: see `rules/policy.py`."""
    struck_at: int = 0
    """The time of the last strike."""
    struck_for: str = ""
    """The provider's reason in the answer that was the last strike."""
    judged_by: str = ""
    """The id of the push whose answer was the last strike, or for which it was pruned."""

    def __repr__(self) -> str:
        return f"Device({self.id!r}, {self.platform}, {self.state}, user={self.user!r})"


def revived(device: Device, **changes: Any) -> Device:
    """Return the device as an active one, without evidence against its token, and with other changes."""
    clean = {"pruned_at": 0, "pruned_for": "", "strikes": 0, "struck_at": 0, "struck_for": "", "judged_by": ""}
    return replace(device, state="active", **clean, **changes)


def as_fields(device: Device) -> dict[str, Any]:
    """Return the fields of a device except its token, with instants as documents write them; None stands for a prune
    or a strike that there is not."""
    fields = asdict(device)
    del fields["token"]
    for name in ("registered_at", "last_seen_at"):
        fields[name] = instant(fields[name])
    fields["pruned_at"] = instant(device.pruned_at) if device.state == "pruned" else None
    fields["struck_at"] = instant(device.struck_at) if device.struck_at else None
    return fields


MAX_NAME: Final = 128
NOBODY: Final = "\0"
"""The prefix of values that are no user and no device: it is not printable."""


def name_fault(text: str) -> str | None:
    """Return why this cannot be the id of a device or a user or the name of a topic, or None."""
    if not (1 <= len(text) <= MAX_NAME and text.isprintable() and " " not in text):
        return f"must be 1 to {MAX_NAME} printable characters without spaces"
    return "must not be a dot or two: in a path these lead elsewhere" if text in (".", "..") else None


# --- the audience of a push ------------------------------------------------------------------------


class ByDevices(Struct, frozen=True, tag="devices"):
    ids: tuple[str, ...]


class ByUsers(Struct, frozen=True, tag="users"):
    users: tuple[str, ...]


class ByTopic(Struct, frozen=True, tag="topic"):
    topic: str


class ByWhere(Struct, frozen=True, tag="where"):
    """All devices that match an expression; see `pushsvc.rules.where`."""

    text: str


class ToAll(Struct, frozen=True, tag="all"):
    """All devices of the app."""


Audience: TypeAlias = ByDevices | ByUsers | ByTopic | ByWhere | ToAll
"""The receivers in `to`, if it does not list tokens."""
