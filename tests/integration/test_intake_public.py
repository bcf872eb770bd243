"""What strangers may see: where the API is open to others than its machine, figures and details need an admin's key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pushsvc.api.config import ApiConfig, Keyless
from pushsvc.api.server import serve
from pushsvc.runtime.plans import keyless_requests
from pushsvc.settings.schema import MetricsSettings, ServerSettings, Settings

from .test_intake_kit import CONFIG, LOOP as LOOP, Service, Store, api_key, call

HELD = {"shop/apns": "InvalidProviderToken"}
CONDITION = {"kind": "held", "severity": "critical", "what": "shop/apns", "app": "", "reason": ""} | {
    "cause": "InvalidProviderToken",
    "remedy": "look",
    "since": None,
    "waiting": None,
}
READY = {"status": "ready", "held": {"shop/apns": "InvalidProviderToken: look"}, "conditions": [CONDITION]}


@pytest.mark.parametrize(
    ("host", "public", "keyless"),
    [
        ("127.0.0.1", False, "direct"),
        ("127.8.8.8", False, "direct"),
        ("::1", False, "direct"),
        ("localhost", False, "direct"),
        ("0.0.0.0", False, "none"),
        ("::", False, "none"),
        ("", False, "none"),
        ("192.0.2.1", False, "none"),
        ("push.example.com", False, "none"),
        ("0.0.0.0", True, "all"),
    ],
)
def test_only_the_machine_itself_sees_everything(host: str, public: bool, keyless: Keyless) -> None:
    settings = Settings(server=ServerSettings(host=host), metrics=MetricsSettings(public=public))
    assert keyless_requests(settings) == keyless


@asynccontextmanager
async def opened(keyless: Keyless, config: ApiConfig) -> AsyncIterator[Service]:
    service = Service(Store(), keyless=keyless, holding=HELD)
    async with serve(service.app(config), config) as service.url:
        yield service


async def test_without_the_admins_key_there_is_no_more_than_ready_or_not() -> None:
    async with opened("none", CONFIG) as service:
        for key in (None, "pusher", "nobody"):
            found = await call(service, "GET", "/readyz", key=key)
            assert (found.status, found.json) == (200, {"status": "ready"})
        assert (await call(service, "GET", "/readyz", key="admin")).json == READY
        for key, status in ((None, 401), ("nobody", 401), ("pusher", 403), ("admin", 200)):
            assert (await call(service, "GET", "/metrics", key=key)).status == status
        service.failing["redis"] = "connection refused to 10.0.0.7"
        stranger = await call(service, "GET", "/readyz", key=None)
        assert (stranger.status, "10.0.0.7" in str(stranger.body), "errors" in stranger.json) == (503, False, False)
        assert (await call(service, "GET", "/readyz", key="admin")).errors == [("redis", service.failing["redis"])]
        # Keys of the store cannot be looked up now, which is named, and nothing more.
        service.store.away = True
        unchecked = await call(service, "GET", "/readyz", key="other")
        assert (unchecked.status, unchecked.errors) == (503, [("redis", "is away")])
        assert "errors" not in (await call(service, "GET", "/readyz", key=None)).json
        assert "errors" not in (await call(service, "GET", "/readyz", key="pusher")).json
        assert (await call(service, "GET", "/healthz", key=None)).status == 200


async def test_a_key_of_the_store_shows_the_state_of_the_service_while_the_store_is_away() -> None:
    """Its last answer counts for an hour, for these calls alone, and over a reload of the configuration."""

    async def statuses(key: str) -> tuple[int, ...]:
        paths = ("/metrics", "/readyz", "/v1/admin/stats", "/v1/feedback")
        return tuple([(await call(service, "GET", path, key=key)).status for path in paths])

    service = Service(Store(), keyless="none", holding=HELD)
    app = service.app(CONFIG)
    async with serve(app, CONFIG) as service.url:
        for name in ("kept", "revoked", "unseen"):
            await service.store.add(api_key(name, "shop", "admin"))
        assert await statuses("kept") == await statuses("revoked") == (200, 200, 200, 200)
        del service.store.keys[api_key("revoked", "shop", "admin").sha256]
        service.now = 6.0
        assert ((await statuses("kept"))[0], (await statuses("revoked"))[0]) == (200, 401)
        service.store.away = True
        service.failing["redis"] = "connection refused to 10.0.0.7"
        service.now = 12.0
        app.serve(service.apps(), keyless="none")
        assert await statuses("kept") == (200, 503, 503, 503)
        assert (await call(service, "GET", "/readyz", key="kept")).errors == [("redis", service.failing["redis"])]
        assert await statuses("revoked") == (401, 503, 503, 503)
        assert "errors" not in (await call(service, "GET", "/readyz", key="revoked")).json
        assert await statuses("unseen") == (503, 503, 503, 503)
        service.now = 3605.0
        assert (await statuses("kept"))[0] == 200
        service.now = 3607.0
        assert await statuses("kept") == (503, 503, 503, 503)
        assert (await call(service, "GET", "/readyz", key="kept")).errors == [("redis", "is away")]


async def test_where_it_is_open_nobody_needs_a_key() -> None:
    async with opened("all", CONFIG) as service:
        assert (await call(service, "GET", "/readyz", key=None)).json == READY
        assert (await call(service, "GET", "/metrics", key=None)).status == 200


PASSED_ON = {
    "Forwarded": "for=203.0.113.7",
    "Via": "1.1 proxy",
    "X-Real-IP": "203.0.113.7",
    "X-Forwarded-For": "203.0.113.7",
    "x-forwarded-proto": "https",
}


async def test_behind_a_proxy_on_the_machine_a_stranger_is_no_local_caller() -> None:
    async with opened("direct", CONFIG) as service:
        assert (await call(service, "GET", "/readyz", key=None)).json == READY
        assert (await call(service, "GET", "/metrics", key=None)).status == 200
        for headers in ({name: value} for name, value in PASSED_ON.items()):
            assert (await call(service, "GET", "/readyz", key=None, headers=headers)).json == {"status": "ready"}
            assert (await call(service, "GET", "/metrics", key=None, headers=headers)).status == 401
            assert (await call(service, "GET", "/readyz", key="admin", headers=headers)).json == READY
            assert (await call(service, "GET", "/metrics", key="admin", headers=headers)).status == 200
    async with opened("all", CONFIG) as service:
        assert (await call(service, "GET", "/metrics", key=None, headers=PASSED_ON)).status == 200
