"""nginx in the place of a provider: it accepts every push, and takes less of a core than the simulator does.

Where the sink shares a core with the store, what it takes is missing there, and the rate says more of the sink than of
the path. The simulator still makes the credentials, and gives out FCM's access tokens.
"""

from __future__ import annotations

import ipaddress
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography import x509

from pushsvc.lab.simulator import Address, open_keys

CONFIGURATION: Final = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log nginx.log crit;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path body;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    http2_max_concurrent_streams 1000;
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate server.pem;
        ssl_certificate_key server.pem;
        location /3/device/ {{
            add_header apns-id $request_id;
            return 200 "";
        }}
        location /v1/ {{
            default_type application/json;
            return 200 '{{"name":"projects/example-shop/messages/0:$msec"}}';
        }}
    }}
}}
"""


@contextmanager
def nginx_sink(folder: Path, address: Address) -> Iterator[str]:
    """Run nginx with a certificate of the simulator's CA. Yields its URL, for APNs and for FCM. Raises RuntimeError
    where this machine has no nginx."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if program is None:
        raise RuntimeError("no nginx on this machine: install it, or leave the simulator as the sink")
    credentials = address.credentials
    keys = open_keys(credentials.ca_file.parent, credentials.key_id)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    folder.mkdir()
    (folder / "server.pem").write_bytes(keys.server_certificate("pushsvc sink", names))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (folder / "nginx.conf").write_text(CONFIGURATION.format(port=port))
    with subprocess.Popen([program, "-p", str(folder), "-c", "nginx.conf", "-e", "start.log"]) as server:
        try:
            yield f"https://127.0.0.1:{port}"
        finally:
            server.terminate()
