"""What is answered to the acts of an operator: cleanups, checks and previews."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

from ...model.documents import Time
from ...model.push import Platform


class CleanupAnswer(Struct, frozen=True):
    """A cleanup that was requested, or that is running already."""

    state: Literal["requested", "running"]
    began_at: Time | None
    holder: Annotated[str, Meta(description="The process that is cleaning up at this moment; empty if none is.")] = ""


class CleanupCount(Struct, frozen=True):
    """What a cleanup would remove of the app."""

    state: Literal["counted"]
    removed: dict[str, int]
    total: int
    complete: Annotated[bool, Meta(description="Whether everything was counted in the time that a call has.")]
    place: Annotated[str | None, Meta(description="Give it as `place` to count the rest; null where it is complete.")]


class CheckFinding(Struct, frozen=True):
    """One thing that a check has found. `part` is a dotted key of the configuration, `fix` the remedy."""

    part: str
    level: Literal["ok", "warning", "error"]
    what: str
    fix: str = ""
    expires: Annotated[float | None, Meta(description="When the credential expires, in Unix seconds.")] = None


class CheckAnswer(Struct, frozen=True):
    """The findings of a check."""

    ok: Annotated[bool, Meta(description="Whether there is no error.")]
    findings: list[CheckFinding]


class PreviewedMessage(Struct, frozen=True):
    """A request to a provider as it would be sent, without credentials, or the content for the live channel."""

    route: str
    platform: Platform
    method: str
    path: Annotated[str, Meta(description="`<token>` stands for the address of a target.")]
    headers: dict[str, str]
    body: Annotated[Raw, Meta(description="The JSON.")]
    bytes: Annotated[int, Meta(description="What counts against the limit.")]
    limit: int | None
    deliveries: Annotated[int | None, Meta(description="The targets of this route; null where they are not counted.")]
    override: Annotated[
        Raw, Meta(description="`overrides.<platform>` of a push that sends the same; null where it needs none.")
    ]
