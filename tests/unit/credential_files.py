"""Credential files as the vendors give them, made for one test: keys, certificates, service accounts."""

from __future__ import annotations

import datetime
import functools
import json
from pathlib import Path
from typing import Any, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

SANDBOX = "1.2.840.113635.100.6.3.1"
PRODUCTION = "1.2.840.113635.100.6.3.2"
TOPICS = "1.2.840.113635.100.6.3.6"

ClientKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@functools.cache
def _rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: Any, password: bytes | None = None) -> bytes:
    kind: Any = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    data: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, kind)
    return data


def write(path: Path, data: bytes, mode: int = 0o600) -> str:
    path.write_bytes(data)
    path.chmod(mode)
    return str(path)


def write_p8(folder: Path) -> tuple[str, ec.EllipticCurvePublicKey]:
    """A token signing key, and the public key that verifies what it signs."""
    key = ec.generate_private_key(ec.SECP256R1())
    return write(folder / "AuthKey_ABC123DEFG.p8", pem(key)), key.public_key()


def make_certificate(
    *,
    start: datetime.datetime,
    end: datetime.datetime,
    user_id: str = "com.example.shop",
    common_name: str = "Apple Push Services: com.example.shop",
    extensions: dict[str, bytes] | None = None,
    bits: int = 0,
) -> tuple[x509.Certificate, ClientKey]:
    """A self-signed client certificate with Apple's kind of subject and extensions, and its key: an RSA one where it
    is to have so many `bits`."""
    key = rsa.generate_private_key(65537, bits) if bits else ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.USER_ID, user_id), x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    for oid, value in (extensions or {}).items():
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
    return builder.sign(key, hashes.SHA256()), key


def certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def p12(
    certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None
) -> bytes:
    kind: Any = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    return pkcs12.serialize_key_and_certificates(b"apns", key, certificate, None, kind)


def service_account(**changes: Any) -> dict[str, Any]:
    """The JSON of a service account; a change to None leaves the field out."""
    fields = {
        "type": "service_account",
        "project_id": "shop-1",
        "private_key_id": "0",
        "private_key": pem(_rsa()).decode(),
        "client_email": "push@shop-1.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
        **changes,
    }
    return {name: value for name, value in fields.items() if value is not None}


def write_service_account(folder: Path, **changes: Any) -> str:
    return write(folder / "service-account.json", json.dumps(service_account(**changes)).encode())
