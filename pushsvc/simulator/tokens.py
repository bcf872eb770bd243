"""Tokens with a scenario, for tests and demonstrations. Pure."""

from __future__ import annotations

from . import apns, fcm
from .scenario import PREFIX, parse


def apns_token(scenario: str, unique: str) -> str:
    """An APNs token that plays `scenario`: `apns_token("ServiceUnavailable.2", "7")`. Raises `ScenarioError`."""
    return str(parse(f"{PREFIX}{scenario}:{unique}", apns.REASONS)).encode().hex()


def fcm_token(scenario: str, unique: str) -> str:
    """An FCM token that plays `scenario`: `fcm_token("UNREGISTERED", "7")`. Raises `ScenarioError`."""
    return str(parse(f"{PREFIX}{scenario}:{unique}", fcm.ERRORS))
