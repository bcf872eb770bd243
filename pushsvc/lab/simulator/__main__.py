"""`python -m pushsvc.lab.simulator`: reads its configuration as a line of JSON from standard input, and prints its
addresses as one. It ends when standard input is closed. It is for `simulator_process`; users have `pushsvc
simulate`."""

from __future__ import annotations

import sys

import msgspec
import uvloop

from ...errors import ConfigError
from .config import SimulatorConfig
from .process import Address, run_simulator


def main() -> int:
    try:
        config = msgspec.json.decode(sys.stdin.buffer.readline(), type=SimulatorConfig)
        if config.folder is None:
            raise ConfigError("simulator.folder", "is not set", "name a folder for the credentials")
        uvloop.run(run_simulator(config, _announce, until_eof=True))
    except (ConfigError, msgspec.DecodeError) as error:
        sys.stderr.write(f"pushsvc.lab.simulator: {error}\n")
        return 1
    return 0


def _announce(address: Address) -> None:
    sys.stdout.buffer.write(address.as_json() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
