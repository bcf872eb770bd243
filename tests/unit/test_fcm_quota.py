"""What FCM allows: the project's quota, and which messages count as collapsible."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pushsvc.model.push import Content
from pushsvc.model.rates import Rate
from pushsvc.providers import REGISTRY
from pushsvc.providers.fcm.config import Config
from pushsvc.providers.fcm.quota import account_limits, is_collapsible


@pytest.mark.parametrize(
    ("document", "collapsible"),
    [
        ({"data": {"a": "1"}, "collapse": "c"}, True),
        ({"data": {"a": "1"}}, False),
        ({"data": {"collapse": "1"}}, False),
        ({"notification": {"title": "t"}, "collapse": "c"}, False),
        ({"data": {"a": "1"}, "overrides": {"fcm": {"android": {"collapse_key": "c"}}}}, True),
        ({"data": {"a": "1"}, "overrides": {"fcm": {"android": {"collapseKey": "c"}}}}, True),
    ],
)
def test_collapsible(document: dict[str, object], collapsible: bool) -> None:
    content = msgspec.json.decode(msgspec.json.encode(document), type=Content)
    message = REGISTRY["fcm"].renderer.render(content, push_id="p", starts_at=0)
    assert is_collapsible(message.body) is collapsible


def test_what_cannot_be_read_is_not_collapsible() -> None:
    assert not is_collapsible(b'{"collapse":')


@pytest.mark.parametrize(
    ("quota", "endpoint", "expected"),
    [
        ("auto", "", Rate(600_000, 60)),
        ("auto", "https://localhost:1234", None),
        ("0", "", None),
        ("10/s", "https://localhost:1234", Rate(10, 1)),
    ],
)
def test_quota(quota: str, endpoint: str, expected: Rate | None, tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    file.write_text('{"project_id": "shop-1"}')
    limits = account_limits(Config(service_account_file=str(file), quota=quota, endpoint=endpoint))
    assert limits.quota == expected
    assert limits.account == "shop-1"
    assert limits.collapsible == Rate(20, 3600)


def test_the_configured_project_goes_before_that_of_the_file() -> None:
    assert account_limits(Config(service_account_file="missing.json", project_id="mine")).account == "mine"


@pytest.mark.parametrize("key", ["quota", "collapsible"])
def test_not_a_rate(key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}: expected a rate such as"):
        Config(service_account_file="a.json", **{key: "many"})  # type: ignore[arg-type]  # the other keys are no texts
