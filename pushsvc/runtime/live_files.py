"""The files of the live channel: the public keys of connect tokens, and the certificate of the gateway."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ..net.tls import server_context
from ..settings.live import LiveSettings

SPARE_FILES: Final = 200
"""Files that a process opens beside the connections of devices: those to Redis, its metrics, its log."""


def read_public_key(file: str, part: str) -> str:
    """Return the public keys (PEM) of the file that the key `part` of the configuration names. Raises `ConfigError`."""
    from ..live.protocol.tokens import public_keys

    try:
        pem = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise _unreadable(part, file, error) from None
    except UnicodeDecodeError:
        raise ConfigError(part, f"{file} is not a text", "name a public key in PEM") from None
    try:
        public_keys(pem)
    except ValueError as error:
        raise ConfigError(part, f"{file} {error}", "name a public key in PEM, RSA or P-256") from None
    return pem


def live_tls(live: LiveSettings) -> ssl.SSLContext | None:
    """Return the TLS of the gateway, or None where a proxy ends it. Raises `ConfigError`."""
    if not live.tls_cert:
        return None
    for part, file in (("live.tls_cert", live.tls_cert), ("live.tls_key", live.tls_key or live.tls_cert)):
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            raise _unreadable(part, file, error) from None
        if b"ENCRYPTED" in content:  # OpenSSL would ask for its password at the terminal.
            raise ConfigError(part, f"{file} holds an encrypted key", "decrypt it: openssl pkey -in KEY -out NEW")
    try:
        return server_context(live.tls_cert, live.tls_key or live.tls_cert)
    except OSError as error:
        raise _unusable(live, error) from None


def renew_tls(context: ssl.SSLContext, live: LiveSettings) -> None:
    """Let new connections of a gateway have the certificate that is now in its files. Raises `ConfigError`."""
    live_tls(live)  # before what is in use is touched
    try:
        context.load_cert_chain(live.tls_cert, live.tls_key or live.tls_cert)
    except OSError as error:
        raise _unusable(live, error) from None


def _unusable(live: LiveSettings, error: OSError) -> ConfigError:
    reason = getattr(error, "reason", None) or "no certificate, or no key"
    fix = "name a certificate (PEM) and its private key"
    return ConfigError("live.tls_cert", f"{live.tls_cert} and its key cannot be used: {reason}", fix)


def _unreadable(part: str, file: str, error: OSError) -> ConfigError:
    key = part.rpartition(".")[2]
    if isinstance(error, FileNotFoundError):
        return ConfigError(part, f"{file}: no such file", f"correct `{key}`")
    if isinstance(error, IsADirectoryError):
        return ConfigError(part, f"{file} is a folder", f"name the file in it by `{key}`")
    return ConfigError(part, f"{file} cannot be read: {error.strerror or error}", "let the user of pushsvc read it")
