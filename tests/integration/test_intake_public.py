"""What strangers may see: where the API is open to others than its machine, figures and details need an admin's key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pushsvc.api.config import ApiConfig
from pushsvc.api.server import serve
from pushsvc.runtime.plans import api_is_open
from pushsvc.settings.schema import MetricsSettings, ServerSettings, Settings

from .test_intake_kit import CONFIG, LOOP as LOOP, Service, Store, call

HELD = {"shop/apns": "InvalidProviderToken"}
CONDITION = {"kind": "held", "severity": "critical", "what": "shop/apns", "app": "", "reason": ""} | {
    "cause": "InvalidProviderToken",
    "remedy": "look",
    "since": None,
    "waiting": None,
}
READY = {"status": "ready", "held": {"shop/apns": "InvalidProviderToken: look"}, "conditions": [CONDITION]}


@pytest.mark.parametrize(
    ("host", "public", "is_open"),
    [
        ("127.0.0.1", False, True),
        ("127.8.8.8", False, True),
        ("::1", False, True),
        ("localhost", False, True),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("", False, False),
        ("192.0.2.1", False, False),
        ("push.example.com", False, False),
        ("0.0.0.0", True, True),
    ],
)
def test_only_the_machine_itself_sees_everything(host: str, public: bool, is_open: bool) -> None:
    settings = Settings(server=ServerSettings(host=host), metrics=MetricsSettings(public=public))
    assert api_is_open(settings) is is_open


@asynccontextmanager
async def opened(public: bool, config: ApiConfig) -> AsyncIterator[Service]:
    service = Service(Store(), public=public, holding=HELD)
    async with serve(service.app(config), config) as service.url:
        yield service


async def test_without_the_admins_key_there_is_no_more_than_ready_or_not() -> None:
    async with opened(False, CONFIG) as service:
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
        # Keys of the store cannot be looked up now: that is no reason for another answer.
        service.store.away = True
        assert (await call(service, "GET", "/readyz", key="nobody")).status == 503
        assert (await call(service, "GET", "/healthz", key=None)).status == 200


async def test_where_it_is_open_nobody_needs_a_key() -> None:
    async with opened(True, CONFIG) as service:
        assert (await call(service, "GET", "/readyz", key=None)).json == READY
        assert (await call(service, "GET", "/metrics", key=None)).status == 200
