"""Who is pruned and who is kept: the golden table, row by row, and what must hold whatever the registry says."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, strategies as st

from pushsvc.model.delivery import Receipt
from pushsvc.model.devices import Device
from pushsvc.rules.freeze import AnswerHealth, Freeze
from pushsvc.rules.policy import PruneDecision, PrunePolicy, prune

from .provider_fakes import golden

HOUR = 3_600_000
AT = 1000 * HOUR
ROWS = golden("prune.toml")
HEALTH = {
    "good": AnswerHealth(),
    "frozen": AnswerHealth(freeze=Freeze("dead", 900, 1000, 10)),
    "alone": AnswerHealth(vouched=False),
    "gone": AnswerHealth(counted=False),
}


def receipt(
    kind: Literal["dead", "suspect"], *, since: int | None = None, raw: bool = False, asked: int | None = None
) -> Receipt:
    device_id = None if raw else "phone"
    return Receipt(
        "shop", "apns", "token", "hash", kind, "Reason", AT, since=since, device_id=device_id, asked_at=asked
    )


def device(registered: int, **row: Any) -> Device:
    pruned = row.get("pruned")
    return Device(
        id="phone",
        platform=row.get("platform", "apns"),
        token=row.get("token", "token"),
        environment=row.get("environment", "production"),
        registered_at=registered * HOUR,
        strikes=row.get("strikes", 0),
        struck_at=row.get("struck", 0) * HOUR,
        state="active" if pruned is None else "pruned",
        pruned_at=(pruned or 0) * HOUR,
    )


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_each_row_of_the_table(row: dict[str, Any]) -> None:
    since = row["since"] * HOUR if "since" in row else None
    decision = prune(
        receipt(
            row["kind"],
            since=since,
            raw=row.get("raw", False),
            asked=row["asked"] * HOUR if "asked" in row else None,
        ),
        device(**row["device"]) if "device" in row else None,
        HEALTH[row.get("health", "good")],
        msgspec.convert(row.get("policy", {}), PrunePolicy),
        row.get("environment"),
    )
    assert decision == PruneDecision(row["change"], row.get("action"), row["why"], row.get("strikes", 0))


def test_names_of_rows_are_unique() -> None:
    names = [row["name"] for row in ROWS]
    assert len(set(names)) == len(names)


@given(
    kind=st.sampled_from(["dead", "suspect"]),
    since=st.none() | st.integers(1, 2 * AT),
    raw=st.booleans(),
    registered=st.integers(0, 2 * AT),
    strikes=st.integers(0, 5),
    struck=st.integers(0, 2 * AT),
    token=st.sampled_from(["token", "another"]),
    health=st.sampled_from(sorted(HEALTH)),
)
def test_nobody_is_pruned_who_should_not_be(
    kind: Any, since: int | None, raw: bool, registered: int, strikes: int, struck: int, token: str, health: str
) -> None:
    known = Device(
        id="phone", platform="apns", token=token, registered_at=registered, strikes=strikes, struck_at=struck
    )
    decision = prune(receipt(kind, since=since, raw=raw), known, HEALTH[health], PrunePolicy())
    if decision.change in ("prune", "strike"):
        assert health == "good" or (health, kind) == ("alone", "dead")
        assert token == "token"
        assert registered <= AT
        assert since is None or kind == "suspect" or registered <= max(since, AT - 24 * HOUR)
    if decision.change == "prune" and kind == "suspect":
        assert strikes >= 2
        assert struck + 12 * HOUR <= AT


@given(
    ats=st.lists(st.integers(1, 40 * 24 * HOUR), min_size=1, max_size=60).map(sorted),
    strikes=st.integers(1, 5),
    span=st.floats(0, 7 * 86400),
)
def test_strikes_lie_a_span_apart_whatever_comes(ats: list[int], strikes: int, span: float) -> None:
    """Suspect answers one after the other: from the first strike that counts to the prune lies the whole span."""
    policy = PrunePolicy(strikes=strikes, strike_span=span)
    known = Device(id="phone", platform="apns", token="token", registered_at=0)
    counted: list[int] = []
    for at in ats:
        reported = msgspec.structs.replace(receipt("suspect"), at=at)
        decision = prune(reported, known, AnswerHealth(), policy)
        if decision.change == "strike":
            counted = [*counted, at] if decision.strikes > 1 else [at]
            known = msgspec.structs.replace(known, strikes=decision.strikes, struck_at=at)
            # Judged once more, as after a crash, it counts for nothing.
            assert prune(reported, known, AnswerHealth(), policy).change == "none"
        elif decision.change == "prune":
            counted.append(at)
            assert len(counted) == strikes
            assert counted[-1] - counted[0] >= span * 1000 * (strikes > 1) - strikes
            return
