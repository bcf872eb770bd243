"""Tokens with a scenario, for tests and demonstrations. Pure."""

from __future__ import annotations

import base64

from . import apns, broadcast, fcm
from .scenario import PREFIX, parse


def apns_token(scenario: str, unique: str) -> str:
    """Return an APNs token that plays `scenario`: `apns_token("ServiceUnavailable.2", "7")`. Raises `ScenarioError`."""
    return str(parse(f"{PREFIX}{scenario}:{unique}", apns.REASONS)).encode().hex()


def fcm_token(scenario: str, unique: str) -> str:
    """Return an FCM token that plays `scenario`: `fcm_token("UNREGISTERED", "7")`. Raises `ScenarioError`."""
    return str(parse(f"{PREFIX}{scenario}:{unique}", fcm.ERRORS))


def channel_id(scenario: str, unique: str) -> str:
    """Return the id of a broadcast channel that plays `scenario`: `channel_id("TooManyRequests.2", "7")`. Raises
    `ScenarioError`."""
    return base64.b64encode(str(parse(f"{PREFIX}{scenario}:{unique}", broadcast.REASONS)).encode()).decode()
