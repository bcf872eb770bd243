"""The identity at APNs: a signed provider token, or a client certificate.

aioapns signs the token (ES256, `kid`, `iss`, `iat`); this module decides when to make a new one, for all connections
of a route: Apple wants a new one after 20 minutes at the earliest and 60 at the latest. cryptography and aioapns are
imported where they are used, because every process reads the configuration and few use a credential.

Sources: https://developer.apple.com/documentation/usernotifications/establishing-a-token-based-connection-to-apns and
https://developer.apple.com/documentation/usernotifications/establishing-a-certificate-based-connection-to-apns
"""

from __future__ import annotations

import os
import secrets
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from ...errors import CredentialError
from ..endpoint import tls_context
from ..files import read_credential
from .config import Config

if TYPE_CHECKING:
    from cryptography import x509

_NONE: Final = ("", 0.0, 0.0)
EARLIEST: Final = 20 * 60.0
"""Seconds that a token must have lived before the next; sooner is 429 TooManyProviderTokenUpdates."""
LATEST: Final = 55 * 60.0
"""Seconds after which it must be replaced; at 60 minutes APNs refuses it."""
AT_ONCE: Final = 60.0
"""Seconds that a signature takes at most, unless the clock was set meanwhile."""

_P8: Final = "download the key again from Apple's developer pages, as AuthKey_<KEY ID>.p8"
_P12: Final = (".p12", ".pfx")


def load_key(config: Config) -> str:
    """Return the token signing key as PEM text, known to be a P-256 key. Raises `CredentialError`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = read_credential(config.key_file, "key_file")
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # TypeError: the key asks for a password, which Apple's never do. No text of theirs: it could quote the file.
        raise CredentialError(config.key_file, "is not a private key in PEM form", _P8) from None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise CredentialError(config.key_file, "is not a P-256 elliptic-curve key, which APNs needs", _P8)
    return pem.decode("ascii", "replace")


class ProviderToken:
    """The `authorization` header of a route. Raises `CredentialError` when the key cannot sign."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self._config = config
        self._key = load_key(config)
        self._clock = clock
        self.header = ""
        """`bearer <JWT>`."""
        self.renew_at = 0.0
        """Unix seconds from which on the header is to be replaced."""
        self._made_at = 0.0
        self._earlier = _NONE
        """Header, instant and due time of the previous token, which is used again once a clock that was wrong for a
        while is right: a third within 20 minutes would be refused as too frequent."""
        self._sign()

    def refresh(self) -> bool:
        """Replace the header when that is due; True when it has changed. One that was made in the future is due as
        well: the clock was put back, and APNs would refuse its `iat`."""
        changed = False
        while not self._made_at <= self._clock() < self.renew_at:
            self._replace()
            changed = True
        return changed

    def refuse(self) -> bool:
        """Replace the token, which APNs refused, where that is due anyway, as after the clock was put right, or it is
        old enough. Returns whether it has changed."""
        if self.refresh():
            return True
        if self._clock() - self._made_at < EARLIEST:
            return False
        self._earlier = _NONE  # it would only be refused in turn
        self._sign()
        return True

    def hold(self) -> None:
        """Sign no new token for 20 minutes, because APNs called the updates too frequent, unless the current one ends
        before."""
        self.renew_at = min(max(self.renew_at, self._clock() + EARLIEST), self._made_at + LATEST)

    def _replace(self) -> None:
        """Go back to the previous token where its time is now; else sign a new one."""
        current = (self.header, self._made_at, self.renew_at)
        header, made_at, renew_at = self._earlier
        if header and made_at <= self._clock() < renew_at:
            self.header, self._made_at, self.renew_at = header, made_at, renew_at
        else:
            self._sign()
        self._earlier = current

    def _sign(self) -> None:
        from aioapns.connection import JWTAuthorizationHeaderProvider

        config = self._config
        began = self._clock()
        # A fresh signer each time: its own notion of when to renew would use another clock.
        signer = JWTAuthorizationHeaderProvider(self._key, config.key_id, config.team_id)
        try:
            self.header = signer.get_header()  # type: ignore[no-untyped-call]  # aioapns leaves it bare
        except Exception as error:
            name = type(error).__name__  # PyJWT's texts may quote the key
            raise CredentialError(config.key_file, f"cannot sign a provider token ({name})", _P8) from None
        self._made_at = self.renew_at = self._clock()
        if 0 <= self._made_at - began < AT_ONCE:  # else the clock was set meanwhile, and it may be of either time
            self.renew_at += signer.TOKEN_TTL


def client_context(config: Config) -> ssl.SSLContext:
    """Return the TLS context of the connections: the trusted authorities and, without a token key, our certificate.
    Raises `CredentialError`."""
    context = tls_context(config.ca_file)
    if not config.cert_file:
        return context
    if config.cert_file.lower().endswith(_P12):
        _load_p12(context, config)
        return context
    read_credential(config.cert_file, "cert_file")
    if config.cert_key_file:
        read_credential(config.cert_key_file, "cert_key_file")
    try:
        # A password is always given, if an empty one: without it OpenSSL would ask at the terminal.
        context.load_cert_chain(config.cert_file, config.cert_key_file or None, lambda: config.cert_password)
    except (OSError, ValueError):
        raise CredentialError(
            config.cert_file,
            "is not a PEM certificate with its private key, or `cert_password` does not open it",
            "put the key into the same file or name it in `cert_key_file`",
        ) from None
    return context


def _load_p12(context: ssl.SSLContext, config: Config) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    _, chain, key = open_p12(config)
    password = secrets.token_hex(16).encode()
    # The ssl module reads certificates from files only; the key lies there for a moment, encrypted.
    with _short_lived() as (file, name):
        file.write(key(password) + b"".join(part.public_bytes(Encoding.PEM) for part in chain))
        file.flush()
        try:
            context.load_cert_chain(name, password=password)
        except (OSError, ValueError) as error:  # as for a key that is too short for OpenSSL's level of security
            reason = getattr(error, "reason", None) or type(error).__name__
            text = f"holds a certificate or key that OpenSSL refuses ({reason})"
            raise CredentialError(config.cert_file, text, "make a new certificate") from None


@contextmanager
def _short_lived() -> Iterator[tuple[BinaryIO, str]]:
    """Open a temporary file and yield it with its name; in memory if possible, so that no folder needs to be
    writable."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        with os.fdopen(os.memfd_create("pushsvc"), "wb") as file:
            yield file, f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile(prefix="pushsvc-", suffix=".pem") as temporary:  # mode 600
            yield cast(BinaryIO, temporary), temporary.name


def open_p12(config: Config) -> tuple[x509.Certificate, list[x509.Certificate], Callable[[bytes], bytes]]:
    """Return a .p12 file's certificate, its whole chain, and its key as PEM under a password. Raises
    `CredentialError`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.serialization import pkcs12

    content = read_credential(config.cert_file, "cert_file")
    try:
        key, certificate, others = pkcs12.load_key_and_certificates(content, config.cert_password.encode() or None)
    except (ValueError, UnsupportedAlgorithm):
        raise CredentialError(
            config.cert_file, "is not a PKCS #12 file, or `cert_password` does not open it", "correct `cert_password`"
        ) from None
    if key is None or certificate is None:
        raise CredentialError(
            config.cert_file, "holds no certificate with its private key", "export both from the key chain"
        )

    def pem(password: bytes) -> bytes:
        return key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password),
        )

    return certificate, [certificate, *others], pem


def load_certificate(config: Config) -> x509.Certificate:
    """Return the client certificate. Raises `CredentialError`."""
    from cryptography import x509

    if config.cert_file.lower().endswith(_P12):
        return open_p12(config)[0]
    try:
        return x509.load_pem_x509_certificate(read_credential(config.cert_file, "cert_file"))
    except ValueError:
        raise CredentialError(
            config.cert_file, "holds no certificate in PEM form", "convert it: openssl x509 -inform der -in FILE"
        ) from None
