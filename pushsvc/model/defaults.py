"""The spans that a provider's documentation names, as a provider's kind brings them and the configuration changes them.

Each span that a provider names is a key of the configuration, called after its platform; one that it does not name is
no key.
"""

from __future__ import annotations

from msgspec import Struct


class Defaults(Struct, frozen=True):
    """Spans in seconds; None where the provider's documentation names none."""

    server_error: float | None = None
    """`retry.<platform>_5xx`: the least wait after a 5xx without Retry-After."""
    throttled: float | None = None
    """`retry.<platform>_429`: the least wait after a 429 without Retry-After."""
    stale: float | None = None
    """`cleanup.<platform>_stale`: after so long without a sign of it a device counts as gone."""
    unanswered: bool = False
    """Whether a request that was not answered waits as long as one that was answered by a 5xx."""
