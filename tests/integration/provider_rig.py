"""One provider on the real transport against the simulator, in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from pushsvc.lab.simulator import Credentials, Simulator, SimulatorConfig
from pushsvc.model.delivery import Delivery, Outcome
from pushsvc.model.push import Chunk, Content, Notification, Platform, Route, Target
from pushsvc.ports.provider import Provider
from pushsvc.providers import REGISTRY

PATIENCE = 60.0
CREATED_AT = 1_700_000_000_123


class Rig:
    """Sends through one provider and waits for what comes of it."""

    def __init__(self, simulator: Simulator, provider: Provider) -> None:
        self.simulator = simulator
        self.provider = provider
        self._pushes = 0
        self._woken = asyncio.Event()
        provider.on_room(self._woken.set)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until it holds; a generous deadline raises."""
        async with asyncio.timeout(PATIENCE):
            while not condition():  # what is waited for happens on the other side of a socket
                await asyncio.sleep(0.005)

    async def send(
        self, *tokens: str, content: Content | None = None, kind: str = "token", dry_run: bool = False
    ) -> list[Outcome]:
        """One push to these tokens, within the room that there is; the outcomes in the order of the tokens."""
        self._pushes += 1
        platform = self.provider.route.platform
        push_id = f"push-{self._pushes}"
        given = content or Content(notification=Notification(title="Hi"))
        message = REGISTRY[platform].renderer.render(given, push_id=push_id, starts_at=CREATED_AT, kinds=(kind,))
        targets = tuple(Target(index, token, None, kind) for index, token in enumerate(tokens))
        chunk = Chunk(push_id, "shop", platform, "normal", len(targets), CREATED_AT, 1 << 60, message, targets)
        if dry_run:
            chunk = msgspec.structs.replace(chunk, dry_run=True)
        outcomes: dict[int, Outcome] = {}
        done = asyncio.Event()

        def on_outcome(delivery: Delivery, outcome: Outcome) -> None:
            assert delivery.target.index not in outcomes, "answered twice"
            outcomes[delivery.target.index] = outcome
            self._woken.set()
            if len(outcomes) == len(targets):
                done.set()

        async with asyncio.timeout(PATIENCE):
            for target in targets:
                while not self.provider.room:
                    self._woken.clear()
                    await self._woken.wait()
                self.provider.submit(Delivery(chunk, target), on_outcome)
            await done.wait()
        return [outcomes[index] for index in range(len(targets))]


def own(platform: Platform, override: bytes, **fields: Any) -> Content:
    """A content of nothing but an override."""
    return Content(overrides={platform: Raw(override)}, **fields)


def section(platform: Platform, simulator: Simulator, credentials: Credentials, **options: Any) -> dict[str, Any]:
    """The provider's section of the configuration, for this simulator."""
    common = {"ca_file": str(credentials.ca_file), "connections": 1, **options}
    if platform == "fcm":
        account = str(credentials.service_account_file)
        return {"service_account_file": account, "endpoint": simulator.fcm_url, **common}
    if platform != "apns":
        return {"endpoint": simulator.urls[platform], **common}
    apns = {
        "topic": credentials.topic,
        "endpoint": simulator.apns_url,
        "channels_endpoint": simulator.apns_url,
        **common,
    }
    if "cert_file" in options:
        return apns
    return {
        "key_file": str(credentials.apns_key_file),
        "key_id": credentials.key_id,
        "team_id": credentials.team_id,
        **apns,
    }


@asynccontextmanager
async def rigged(
    platform: Platform,
    folder: Path,
    *,
    simulator: SimulatorConfig | None = None,
    request_timeout: float = 10.0,
    clock: Callable[[], float] | None = None,
    certificate: bool = False,
    warned: bool = False,
    **options: Any,
) -> AsyncIterator[Rig]:
    """A simulator, and one provider of it that is opened as the configuration would. `warned`: `check` has a doubt."""
    async with Simulator(simulator) as it:
        credentials = it.write_credentials(folder)
        if certificate:
            options["cert_file"] = str(credentials.apns_cert_file)
        kind = REGISTRY[platform]
        config = msgspec.convert(section(platform, it, credentials, **options), kind.config)
        findings = kind.check(config)
        assert {finding.level for finding in findings} == ({"ok", "warning"} if warned else {"ok"}), findings
        more: dict[str, Any] = {} if clock is None else {"clock": clock}
        async with kind.open_provider(
            Route("shop", platform), config, request_timeout=request_timeout, **more
        ) as provider:
            yield Rig(it, provider)
