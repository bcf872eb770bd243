"""`pushsvc simulate --phones N`: phones of the live channel until Ctrl-C, with a line of progress now and then."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import typer
import uvloop
from msgspec import Struct

from ...client import AsyncClient, Retries
from ...net.websocket.frames import ABNORMAL
from ...runtime.parts import raise_file_limit
from ..access import Access
from ..output import counted, percentile, print_json, print_table
from ..process import print_message
from ..service.parts import until_signalled

if TYPE_CHECKING:
    from ...lab.phones.fleet import Fleet, TokenSource


class Plan(Struct, frozen=True, kw_only=True):
    count: int
    kinds: Sequence[str] = ()
    gateway: str = ""
    """The URL of the gateway; empty: that which the API gives to devices."""
    wire: str = "both"
    seconds: float = math.inf
    every: float = 2.0
    seed: str = ""
    prefix: str = "phone-"
    register: bool = True


class Signed(Struct, frozen=True):
    """Tokens are signed with the secret of the app. Its `repr` does not show it."""

    app: str
    secret: str

    def __repr__(self) -> str:
        return f"Signed({self.app!r})"


class PhoneFigures(Struct, frozen=True, kw_only=True):
    """What the phones have seen. Delays are milliseconds from the time a push was to be sent until it was shown."""

    phones: int
    online: int
    connects: int
    recovered: int
    lost: int
    """Connects from a position that was not recovered, by the reply of the gateway."""
    shown: int
    """Pushes that apps would have shown, each once."""
    repeats: int
    """Publications that came again, and were dropped."""
    acks: int
    """Acknowledgements that were sent; one may cover several pushes."""
    pings: int
    moves: int
    darkened: int
    holes: dict[str, list[str]]
    """Offsets that never came though no loss was reported, by device."""
    late: dict[str, list[str]]
    """Pushes that were shown after later ones, by device."""
    ended: dict[str, int]
    """Ends of connections by code."""
    errors: dict[str, int]
    unanswered: dict[str, int]
    faults: dict[str, int]
    delay_p50: float
    delay_p99: float

    @property
    def holds(self) -> bool:
        """Return whether every phone has shown each push once and in order, without an unreported hole."""
        return not (self.holes or self.late or self.faults)


def simulate_phones(plan: Plan, at: Access | Signed, *, json: bool) -> None:
    """Simulate, and exit with 1 if something was shown out of order, or did not come and is not known to be missing."""
    raise_file_limit()
    found = uvloop.run(run_phones(plan, at, quiet=json))
    if json:
        print_json(found)
    else:
        print_table(("", "seen"), rows(found), prose=("seen",))
    if not found.holds:
        raise typer.Exit(1)


async def run_phones(plan: Plan, at: Access | Signed, *, quiet: bool) -> PhoneFigures:
    """Simulate until the plan's end or a signal, and return what the phones have seen."""
    from ...lab.phones.behaviour import assign, shares
    from ...lab.phones.fleet import FleetConfig, open_fleet
    from ...lab.phones.wire import WIRES

    stop = until_signalled()
    behaviours = assign(plan.count, shares(plan.kinds))
    devices = [f"{plan.prefix}{number}" for number in range(plan.count)]
    seed = plan.seed or secrets.token_hex(4)
    async with (
        _tokens(plan, at, devices) as (tokens, gateway),
        open_fleet(FleetConfig(url=gateway, seed=seed), tokens) as fleet,
    ):
        for device, behaviour in zip(devices, behaviours, strict=True):
            fleet.add(device, behaviour, WIRES.get(plan.wire))
        if not quiet:
            print_message(f"{counted(plan.count, 'phone')} at {gateway}, seed {seed}; Ctrl-C ends it")
        fleet.start()
        await _progress(fleet, plan, stop, quiet=quiet)
        return figures(fleet)


async def _progress(fleet: Fleet, plan: Plan, stop: asyncio.Event, *, quiet: bool) -> None:
    """Wait until the end, and print a line now and then."""
    began = last = time.monotonic()
    shown = 0
    while (left := began + plan.seconds - time.monotonic()) > 0 and not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), min(left, plan.every))
        now, seen = time.monotonic(), fleet.figures.shown
        if not quiet:
            rate = (seen - shown) / (now - last)
            print_message(f"{now - began:7.1f} s  {progress(fleet)}, {rate:,.0f}/s")
        last, shown = now, seen


@asynccontextmanager
async def _tokens(plan: Plan, at: Access | Signed, devices: Sequence[str]) -> AsyncIterator[tuple[TokenSource, str]]:
    """Yield where tokens come from, and the URL of the gateway. By the API, devices are registered first."""
    from ...lab.phones.tokens import ApiTokens, SecretTokens

    if isinstance(at, Signed):
        yield SecretTokens(at.app, at.secret), plan.gateway
        return
    async with AsyncClient(at.url, key=at.key, retries=Retries(0.0)) as client:
        tokens = ApiTokens(client)
        if plan.register:
            await tokens.register(devices, {"platform": "live"})
        yield tokens, plan.gateway or await tokens.gateway(devices[0])


def progress(fleet: Fleet) -> str:
    """Return where the phones stand, in one line."""
    seen = fleet.figures
    delays = sorted(seen.delays)
    parts = [f"{fleet.online:,} of {len(fleet.phones):,} online", f"{seen.shown:,} shown"]
    if delays:
        parts.append(f"p50 {percentile(delays, 0.5):.0f} ms, p99 {percentile(delays, 0.99):.0f} ms")
    for count, what in ((seen.moves, "moves"), (seen.ended[ABNORMAL], "cut"), (seen.lost, "not recovered")):
        if count:
            parts.append(f"{count:,} {what}")
    return ", ".join(parts)


def figures(fleet: Fleet) -> PhoneFigures:
    """Return what the phones have seen."""
    seen, phones = fleet.figures, fleet.phones.values()
    delays = sorted(seen.delays)
    return PhoneFigures(
        phones=len(phones),
        online=fleet.online,
        connects=seen.connects,
        recovered=seen.recovered,
        lost=seen.lost,
        shown=seen.shown,
        repeats=sum(phone.shown.repeats for phone in phones),
        acks=seen.acks,
        pings=seen.pings,
        moves=seen.moves,
        darkened=seen.darkened,
        holes={each.device: [str(hole) for hole in each.shown.holes] for each in phones if each.shown.holes},
        late={each.device: each.shown.late for each in phones if each.shown.late},
        ended={str(code): count for code, count in sorted(seen.ended.items())},
        errors={str(code): count for code, count in sorted(seen.errors.items())},
        unanswered=dict(seen.unanswered),
        faults=dict(seen.faults),
        delay_p50=round(percentile(delays, 0.5), 1),
        delay_p99=round(percentile(delays, 0.99), 1),
    )


def rows(found: PhoneFigures) -> list[tuple[str, str]]:
    """Return the figures for people."""
    ended = ", ".join(f"{code}: {count:,}" for code, count in found.ended.items())
    gaps = f"{found.recovered:,} went on without a gap, {found.lost:,} with one that the gateway announced"
    order = "each push once, in order" if found.holds else "WRONG"
    if found.holes or found.late:
        order += f": holes of {counted(len(found.holes), 'phone')}, late at {counted(len(found.late), 'phone')}"
    if found.faults:
        order += f": {', '.join(f'{name} {count:,}' for name, count in found.faults.items())} against the protocol"
    return [
        ("phones", f"{found.phones:,}, {found.online:,} online at the end, {counted(found.moves, 'move')}"),
        ("connects", f"{found.connects:,}; after a break {gaps}"),
        ("ends", ended or "none"),
        (
            "shown",
            f"{counted(found.shown, 'push', 'pushes')}, {counted(found.repeats, 'repeat')} dropped; "
            f"{counted(found.acks, 'acknowledgement')} sent, each of which may cover several",
        ),
        ("delay", f"p50 {found.delay_p50:.0f} ms, p99 {found.delay_p99:.0f} ms, of showing"),
        ("order", order),
    ]
