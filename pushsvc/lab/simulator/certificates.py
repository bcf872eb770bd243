"""Keys and certificates of the simulator: its own CA, the app's APNs key, a service account.

In a folder they are created once and reused, so that a restarted simulator is still trusted and still trusts. Private
keys are readable by their owner only. Elliptic-curve keys take a millisecond; the service account's RSA key takes
longer and is therefore created only when it is needed.
"""

from __future__ import annotations

import datetime
import fcntl
import ipaddress
import os
import secrets
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from ...errors import ConfigError
from .config import SimulatorConfig

_CA = "ca.pem"
_CA_KEY = "ca-key.pem"
_CLIENT = "apns-client.pem"
_SERVICE_ACCOUNT = "service-account.json"
_SECRET = "access-tokens.secret"  # noqa: S105  # a file's name
_TEN_YEARS = datetime.timedelta(days=3650)


class Credentials(Struct, frozen=True):
    """What an app needs to push to the simulator, with the files that contain it."""

    ca_file: Path
    apns_key_file: Path
    key_id: str
    team_id: str
    topic: str
    service_account_file: Path
    project_id: str
    apns_cert_file: Path
    """A client certificate and its key, for APNs without tokens."""


class Keys:
    """All private keys and the CA. `Keys()` creates them; `open_keys` reads them from a folder."""

    def __init__(
        self,
        ca_key: ec.EllipticCurvePrivateKey | None = None,
        ca: x509.Certificate | None = None,
        apns_key: ec.EllipticCurvePrivateKey | None = None,
        service_account_key: rsa.RSAPrivateKey | None = None,
        secret: bytes | None = None,
    ) -> None:
        self.ca_key = ca_key or ec.generate_private_key(ec.SECP256R1())
        self.ca = ca or _make_ca(self.ca_key)
        self.apns_key = apns_key or ec.generate_private_key(ec.SECP256R1())
        self.secret = secret or secrets.token_bytes(32)
        if service_account_key is not None:
            self.service_account_key = service_account_key

    @cached_property
    def service_account_key(self) -> rsa.RSAPrivateKey:
        """The service account's RSA key, created at the first use."""
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def ca_pem(self) -> bytes:
        return self.ca.public_bytes(serialization.Encoding.PEM)

    def server_context(self, host: str, protocols: list[str]) -> ssl.SSLContext:
        """Return a TLS context for loopback and `host`, with a fresh certificate. It requests client certificates of
        our CA.

        TLS 1.2 or later, as Apple requires.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self.ca_pem.decode())
        context.set_alpn_protocols(protocols)
        names: list[x509.GeneralName] = [x509.DNSName("localhost")]
        addresses = {ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")}
        try:
            addresses.add(ipaddress.ip_address(host))
        except ValueError:
            names.append(x509.DNSName(host))
        names.extend(x509.IPAddress(address) for address in sorted(addresses, key=str))
        with tempfile.NamedTemporaryFile() as file:  # the ssl module reads certificates from files only
            file.write(self.server_certificate("pushsvc simulator", x509.SubjectAlternativeName(names)))
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def server_certificate(self, common_name: str, names: x509.SubjectAlternativeName | None) -> bytes:
        """Return the PEM of a server's certificate and its key."""
        return self._issue(common_name, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def client_certificate(self, topic: str) -> bytes:
        """Return the PEM of a client certificate for APNs and its key.

        As in Apple's, the UID of its subject is the topic.
        """
        return self._issue(f"Apple Push Services: {topic}", ExtendedKeyUsageOID.CLIENT_AUTH, None, topic)

    def _issue(
        self,
        common_name: str,
        usage: x509.ObjectIdentifier,
        names: x509.SubjectAlternativeName | None,
        user_id: str | None = None,
    ) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])]
        if user_id is not None:
            attributes.append(x509.NameAttribute(NameOID.USER_ID, user_id))
        builder = (
            _certificate(x509.Name(attributes), self.ca.subject, key.public_key(), self.ca_key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(_key_usage(digital_signature=True), critical=True)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self.ca_key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM) + _pem(key)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, issuer_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    """Return the common part of all certificates. It has key identifiers, because Python 3.13 verifies strictly."""
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _TEN_YEARS)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _make_ca(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"pushsvc simulator CA {secrets.token_hex(4)}")])
    return (
        _certificate(name, name, key.public_key(), key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# --- the folder ---------------------------------------------------------------------------------


def open_keys(folder: Path, key_id: str) -> Keys:
    """Return the keys of a folder; missing ones are created and written. Raises `ConfigError`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder):
        names = (_CA, _CA_KEY, _apns_key_name(key_id), _SERVICE_ACCOUNT, _SECRET)
        try:
            found = [(folder / name).read_bytes() if (folder / name).exists() else None for name in names]
            ca, ca_key, apns_key, account, secret = found
            keys = Keys(
                ca_key=_load_ec(ca_key) if ca and ca_key else None,
                ca=x509.load_pem_x509_certificate(ca) if ca and ca_key else None,
                apns_key=_load_ec(apns_key) if apns_key else None,
                service_account_key=_load_rsa(msgspec.json.decode(account)["private_key"]) if account else None,
                secret=secret,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                str(folder), f"the simulator's keys cannot be read: {type(error).__name__}", "delete the folder"
            ) from error
        _write(folder / _CA, keys.ca_pem, 0o644)
        _write(folder / _CA_KEY, _pem(keys.ca_key))
        _write(folder / _apns_key_name(key_id), _pem(keys.apns_key))
        _write(folder / _SECRET, keys.secret)
    return keys


def write_credentials(keys: Keys, folder: Path, config: SimulatorConfig, *, token_uri: str) -> Credentials:
    """Write the files that an app is configured with."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder):
        _write(folder / _CA, keys.ca_pem, 0o644)
        _write(folder / _apns_key_name(config.key_id), _pem(keys.apns_key))
        if not _is_client(folder / _CLIENT, keys.ca, config.topic):
            _write(folder / _CLIENT, keys.client_certificate(config.topic))
        account = {
            "type": "service_account",
            "project_id": config.project_id,
            "private_key_id": "simulator",
            "private_key": _pem(keys.service_account_key).decode(),
            "client_email": service_account_email(config.project_id),
            "client_id": "100000000000000000000",
            "token_uri": token_uri,
        }
        _write(folder / _SERVICE_ACCOUNT, msgspec.json.format(msgspec.json.encode(account), indent=2))
    return Credentials(
        ca_file=folder / _CA,
        apns_key_file=folder / _apns_key_name(config.key_id),
        key_id=config.key_id,
        team_id=config.team_id,
        topic=config.topic,
        service_account_file=folder / _SERVICE_ACCOUNT,
        project_id=config.project_id,
        apns_cert_file=folder / _CLIENT,
    )


def _is_client(path: Path, ca: x509.Certificate, topic: str) -> bool:
    """Return whether the file contains a certificate of this CA for this topic."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(ca)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return False
    return [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.USER_ID)] == [topic]


def service_account_email(project_id: str) -> str:
    """Return the service account's name, which is the `iss` of its assertions."""
    return f"simulator@{project_id}.iam.gserviceaccount.com"


def _apns_key_name(key_id: str) -> str:
    return f"AuthKey_{key_id}.p8"


def _load_ec(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an elliptic-curve key")
    return key


def _load_rsa(pem: str) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("not an RSA key")
    return key


def _write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file as a whole or not at all. An identical file is left alone, so that no program reloads it."""
    if path.exists() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
    temporary.replace(path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder, so that two simulators that start in it at the same time share its keys."""
    with os.fdopen(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
