"""Every benchmark, one after the other: `make bench`. Prints; passes or fails nothing but a count that is off."""

from __future__ import annotations

import subprocess
import sys

BENCHES = (
    "simulator",
    "transport",
    "delivery",
    "intake",
    "durability",
    "volume",
    "memory",
    "sizes",
    "lanes",
    "replay",
    "registry",
    "schedules",
    "audience",
    "devices",
    "live_sockets",
    "live_beside",
    "live_heartbeats",
    "live_many",
    "live_cut",
)

if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHES:
        print(f"\n=== {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=True)
