"""Makes a push of a document: its id, its messages for every platform, its warnings. Nothing here waits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from ...bodies import LIMIT
from ...errors import ContentTooLarge, Fault, InvalidRequest, summary
from ...model.codec import encode_audience
from ...model.push import MAX_TTL, Content, Message, Platform, Push
from ...ports.provider import Renderer, RenderError
from ...problems import ProblemFault
from ...rules.channels import LIVE
from ..http.exchange import Request
from ..ports import ApiPorts
from .audiences import only_of, platforms_of
from .document import Draft

MOST_WARNINGS: Final = 20
"""The maximum number of warnings of an answer."""
NOW_OR_NEVER: Final = 30
"""Seconds for which the service tries to send a push with `ttl` 0."""


def prepare(ports: ApiPorts, request: Request, draft: Draft) -> tuple[Push, list[ProblemFault]]:
    """Return the requested push, and the warnings of the providers' documentation about it. Its id places it beside the
    record of its idempotency key. Raises what `render` and `platforms_of` raise."""
    app, now, once = request.app, request.now, request.once
    starts_at = now if draft.send_at is None else draft.send_at
    push_id = ports.new_id(now)
    while once is not None and not ports.pushes.beside(app.name, push_id, once.key):
        push_id = ports.new_id(now)
    content = draft.content
    platforms = platforms_of(draft, app.rules)
    rendered = render(ports.renderers, content, platforms, push_id=push_id, starts_at=starts_at)
    push = Push(
        id=push_id,
        app=app.name,
        lane=draft.lane,
        created_at=now,
        expires_at=starts_at + 1000 * lifetime(content.ttl),
        messages={route: rendered[platform] for route, platform in app.accounts if platform in rendered},
        targets=draft.targets,
        dry_run=content.dry_run,
        send_at=draft.send_at,
        audience=b"" if draft.audience is None else encode_audience(draft.audience),
        only=only_of(draft, app.rules, platforms),
        via=draft.via,
        key=request.key.name,
        trace=b"" if request.span is None else request.span.carried,
    )
    found = list(draft.warnings)
    for platform, message in rendered.items():
        found += ports.renderers[platform].warnings(content, message, platforms[platform])
    given = content.ttl or 0  # a life that the caller did not ask for is nothing to warn of
    if app.live is not None and rendered.keys() == {LIVE} and 0 < app.live.history_age < given:
        text = f"a device that is away for longer than {app.live.history_age:,} seconds (`live.history_age`) does not"
        found.append(Fault("ttl", f"{text} get it: no other channel carries it. Give a `ttl` of at most that"))
    return push, [ProblemFault(fault.path, fault.message) for fault in found[:MOST_WARNINGS]]


def lifetime(ttl: int | None) -> int:
    """Return the seconds for which the service tries. With `ttl` 0 the provider stores nothing, but sending takes
    time."""
    if ttl is None:
        return MAX_TTL
    return ttl or NOW_OR_NEVER


def render(
    renderers: Mapping[Platform, Renderer],
    content: Content,
    platforms: Mapping[Platform, Collection[str]],
    *,
    push_id: str,
    starts_at: int,
) -> dict[Platform, Message]:
    """Return the message for each of these platforms, for targets of these kinds. Raises `InvalidRequest` with the
    faults of all of them, or `ContentTooLarge` when size is the only one."""
    messages: dict[Platform, Message] = {}
    errors: list[RenderError] = []
    for platform, kinds in platforms.items():
        try:
            messages[platform] = renderers[platform].render(content, push_id=push_id, starts_at=starts_at, kinds=kinds)
        except RenderError as error:
            errors.append(error)
    if errors:
        faults = list(dict.fromkeys(fault for error in errors for fault in error.faults))
        listed, more = faults[:LIMIT], len(faults) > LIMIT
        if all(error.too_large for error in errors):
            raise ContentTooLarge("; ".join(fault.message for fault in listed), faults=listed)
        raise InvalidRequest(summary(len(listed), more), faults=listed)
    return messages
