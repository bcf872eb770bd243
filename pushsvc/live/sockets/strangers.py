"""How many connections of one network may be those of strangers: of clients that have not shown who they are. Pure."""

from __future__ import annotations

import ipaddress


class Strangers:
    """Counts them by network: an address of IPv4, or the first half of one of IPv6, which one client has as a whole."""

    def __init__(self, most: int, local: int) -> None:
        """Admit up to `most` of each network, and up to `local` of the addresses of this machine."""
        self._most = most
        self._local = local
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(self._counts.values())

    def enter(self, address: str) -> str:
        """Count a stranger, and return the network for `leave`; empty, and nothing is counted, if it has too many."""
        network = _network(address)
        count = self._counts.get(network, 0)
        if count >= (self._local if network.startswith("127.") or network == "::/64" else self._most):
            return ""
        self._counts[network] = count + 1
        return network

    def leave(self, network: str) -> None:
        """Forget a stranger that has disconnected, or has shown a valid token."""
        if network:
            count = self._counts[network] - 1
            if count:
                self._counts[network] = count
            else:
                del self._counts[network]


def _network(address: str) -> str:
    if ":" not in address:
        return address or "unknown"
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(found.ipv4_mapped or ipaddress.IPv6Network((found, 64), strict=False))
