"""TLS settings. Outgoing connections: to providers, token endpoints, webhooks and the service's own API.

A certificate is valid for a host by its `subjectAltName` alone. Python's `ssl` still falls back to the common name of
a certificate without one, which RFC 9525 (section 6.3) forbids and browsers gave up in 2017.
"""

from __future__ import annotations

import ssl


def client_context(ca_file: str = "") -> ssl.SSLContext:
    """Return a context that trusts only the authorities of `ca_file` (PEM), or the system's if it is empty. Raises
    `OSError` for an unreadable file, and its subclass `ssl.SSLError` for a file without certificates."""
    context = ssl.create_default_context(cafile=ca_file or None)
    context.hostname_checks_common_name = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def server_context(cert_file: str, key_file: str) -> ssl.SSLContext:
    """Return a context that serves with a certificate (PEM, with its chain) and its key. Raises `OSError` for
    unreadable files, and its subclass `ssl.SSLError` for what is no certificate or key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(cert_file, key_file)
    return context
