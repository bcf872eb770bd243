"""A network of our own, in which `api.push.apple.com` is this machine: the peers cannot be pointed at another server,
and nothing that they send can leave.

The benchmark runs itself again in new namespaces, for mounts and for the network, and for users where it is not root
(https://man7.org/linux/man-pages/man7/namespaces.7.html). There it has a loopback interface and nothing else, a
`/etc/hosts` of its own, and port 443 is free. The peers are taken as they are; they trust the simulator's certificate
by the environment (`SSL_CERT_FILE`, `NODE_EXTRA_CA_CERTS`) or by their own configuration.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

APPLE: Final = "api.push.apple.com"
INSIDE: Final = "--inside"

_SET_FLAGS: Final = 0x8914
"""SIOCSIFFLAGS, and the flags IFF_UP and IFF_RUNNING: https://man7.org/linux/man-pages/man7/netdevice.7.html."""
_UP: Final = 0x1 | 0x40


def enter(arguments: Sequence[str]) -> NoReturn:
    """Run this program again in namespaces of its own, in place of this process."""
    if shutil.which("unshare") is None:
        sys.exit("the peers run in namespaces of Linux: install util-linux, for `unshare`")
    users = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = [sys.executable, "-m", "tests.bench.peers", INSIDE, *arguments]
    os.execvp("unshare", ["unshare", *users, "--mount", "--net", *command])


def settle(folder: Path) -> None:
    """Let Apple's name mean this machine, and bring the loopback interface up. Call it in the new namespaces."""
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {APPLE}\n")
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh22x", b"lo", _UP))
