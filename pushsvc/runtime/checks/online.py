"""What a check finds that asks the providers and calls the webhooks: the network, the credentials, the clock."""

from __future__ import annotations

import asyncio
import time

from ...errors import ConfigError
from ...model.finding import Finding
from ...ports.admin import CheckFinding
from ...providers import REGISTRY
from ...settings.schema import Settings
from ...stages.webhooks.caller import trial_call
from ...stages.webhooks.config import WebhookConfig
from ..plans import webhook_configs


async def check_online(settings: Settings) -> list[CheckFinding]:
    """Return what every provider says to each account, and what each webhook answers, in the order of the
    configuration."""
    asked = {
        f"apps.{name}.{route}": REGISTRY[route].check_online(config)
        for name, app in settings.apps.items()
        for route, config in app.providers.items()
    }
    called = {f"apps.{app}.webhook": _call(config, app) for app, config in webhook_configs(settings).items()}
    parts = asked | called
    answers = await asyncio.gather(*parts.values())
    return [
        CheckFinding(part.replace("/", "."), each.level, each.what, each.remedy, each.expires)
        for part, found in zip(parts, answers, strict=True)
        for each in found
    ]


async def _call(config: WebhookConfig, app: str) -> list[Finding]:
    """Return what a webhook answers to a call without events."""
    try:
        answer = await trial_call(config, app, time.time_ns() // 1_000_000)
    except ConfigError as error:
        return [Finding("error", error.message, error.remedy)]
    took = f"after {answer.seconds:.1f} s"
    if answer.ok:
        return [Finding("ok", f"{config.host} answers {answer.status} {took}")]
    result = f"answers {answer.status}" if answer.status else f"does not answer: {answer.reason.replace('_', ' ')}"
    return [Finding("error", f"{config.host} {result} {took}", "correct `url` or the receiver; events wait meanwhile")]
