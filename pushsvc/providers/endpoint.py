"""The endpoint of a provider: its URL, and the TLS context that verifies its certificate."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from ..errors import CredentialError
from ..model.finding import Finding
from ..net.http2.hpack_fields import HTTPS, authority
from ..net.proxy import proxy_for
from ..net.tls import client_context
from .files import as_finding


def endpoint_fault(url: str) -> str:
    """Return why this cannot be an endpoint, or an empty text. It is an origin: scheme, host, optional port."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme != "https" or not parts.hostname or port == 0:
        return "must be https://HOST or https://HOST:PORT"
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        return "must hold nothing but scheme, host and port"
    return ""


def origin(url: str) -> str:
    """Return the endpoint without a trailing slash."""
    return url.rstrip("/")


def host_fields(url: str) -> bytes:
    """Return the header fields that name this endpoint in each request to it."""
    return HTTPS + authority(urlsplit(url).netloc)


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Return a client context for HTTP/2 that trusts `ca_file` alone, or the system's authorities where it is empty.
    Raises `CredentialError`."""
    try:
        context = client_context(ca_file)
    except OSError as error:
        raise CredentialError(ca_file, _reason(error), "`ca_file` must be a PEM file of CA certificates") from error
    context.set_alpn_protocols(["h2"])
    return context


def check_ca(ca_file: str) -> list[Finding]:
    """Return the findings about a configured `ca_file`."""
    if not ca_file:
        return []
    try:
        tls_context(ca_file)
    except CredentialError as error:
        return [as_finding(error)]
    return [Finding("ok", f"trusts the certificate authorities of {ca_file} and no others")]


def check_proxy(url: str, configured: str, environ: Mapping[str, str]) -> list[Finding]:
    """Return the findings about the connection to `url`, which may use a proxy."""
    try:
        proxy = proxy_for(url, configured, environ)
    except CredentialError as error:
        return [as_finding(error)]
    return [] if proxy is None else [Finding("ok", f"reaches {urlsplit(url).netloc} through the {proxy.name}")]


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "holds no CA certificate that can be read"
    return f"cannot be read: {error.strerror or type(error).__name__}"
