"""What each route of a push would be sent, or was."""

from __future__ import annotations

from msgspec import Raw

from ...model.push import Push
from ...model.routing import CARRIERS, path_of, platform_of
from ...ports.admin import PreviewedMessage
from ...ports.provider import Preview
from ...providers import REGISTRY
from ...providers.live.render import LIMIT as LIVE_LIMIT
from ...settings.schema import Settings


def previewed(settings: Settings, push: Push) -> list[PreviewedMessage]:
    """Return the requests of a push without credentials, and its content for the live channel."""
    accounts = settings.apps[push.app].accounts
    found = []
    for route, message in push.messages.items():
        if route in CARRIERS:
            shown = Preview("", "", message.headers, message.body, LIVE_LIMIT, len(message.body))
        else:
            shown = REGISTRY[route].preview(
                accounts[route], message, push_id=push.id, expires_at=push.expires_at, dry_run=push.dry_run
            )
        targets = [len(own) for path, own in push.targets.items() if route in (path_of(path)[0], *path_of(path)[1])]
        found.append(
            PreviewedMessage(
                *(route, platform_of(route), shown.method, shown.path, shown.headers, Raw(shown.body)),
                *(shown.size, shown.limit, None if push.audience else sum(targets), Raw(shown.override)),
            )
        )
    return found
