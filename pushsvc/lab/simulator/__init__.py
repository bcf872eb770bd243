"""The provider simulator: APNs and FCM over real TLS and HTTP/2 on loopback.

It verifies what the providers verify, answers in their wording, misbehaves as they can, by the scenario in a token
(`scenario`) or on command (`controls`), and records what it received (`record`).

How a request is processed::

    TLS -> http2.Connection -> inflow (frames, HPACK, flow control) -> provider.request
                                                                           | decide: switches, verify, scenario
    TLS <- http2.Connection <- outflow (literals, windows) <- answer -----+-> record

It shares no code with `pushsvc.providers` except FCM's own schema (`pushsvc.rules.fcm_schema`): two independent
readings of the same specifications find each other's mistakes.

Its speed on one core of a shared 2-core machine is measured by `tests/bench/simulator.py`, which has the figures.
"""

from __future__ import annotations

from .certificates import Credentials, Keys, open_keys
from .config import SimulatorConfig
from .controls import COMMANDS
from .halves import HALVES, sections_of, token_kinds
from .process import Address, SimulatorHandle, run_forever, simulator_process
from .record import PlatformRecord, Received, Record
from .scenario import GRAMMAR, ScenarioError, fault_of
from .server import Simulator
from .tokens import apns_token, channel_id, fcm_token

__all__ = [
    "Simulator",
    "SimulatorConfig",
    "Credentials",
    "Keys",
    "open_keys",
    "Record",
    "PlatformRecord",
    "Received",
    "SimulatorHandle",
    "simulator_process",
    "Address",
    "run_forever",
    "HALVES",
    "token_kinds",
    "sections_of",
    "apns_token",
    "fcm_token",
    "channel_id",
    "ScenarioError",
    "fault_of",
    "GRAMMAR",
    "COMMANDS",
]
