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

from .certificates import Credentials as Credentials, Keys as Keys, open_keys as open_keys
from .config import SimulatorConfig as SimulatorConfig
from .controls import COMMANDS as COMMANDS, usage as usage
from .halves import HALVES as HALVES, sections_of as sections_of, token_kinds as token_kinds
from .process import (
    Address as Address,
    SimulatorHandle as SimulatorHandle,
    run_simulator as run_simulator,
    simulator_process as simulator_process,
)
from .scenario import GRAMMAR as GRAMMAR, ScenarioError as ScenarioError, fault_of as fault_of
from .server import Simulator as Simulator
from .tokens import apns_token as apns_token, channel_id as channel_id, fcm_token as fcm_token
