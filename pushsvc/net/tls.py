"""TLS of everything that pushsvc connects to by itself: providers, token endpoints, webhooks, its own API.

A certificate speaks for a host by its `subjectAltName` alone. Python's `ssl` still falls back to the common name of a
certificate that has none, which RFC 9525 (section 6.3) forbids and browsers gave up in 2017.
"""

from __future__ import annotations

import ssl


def client_context(ca_file: str = "") -> ssl.SSLContext:
    """A context that trusts the authorities of `ca_file` (PEM) alone, or the system's where it is empty.

    Raises `OSError` for a file that cannot be read, `ssl.SSLError` (one too) for one that holds no certificates.
    """
    context = ssl.create_default_context(cafile=ca_file or None)
    context.hostname_checks_common_name = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
