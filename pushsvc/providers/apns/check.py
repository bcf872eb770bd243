"""Checks of an APNs account without a network: files, keys, dates, names."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ...errors import CredentialError
from ...model.finding import Finding
from ..endpoint import check_ca, check_proxy
from ..files import as_finding, check_dates, check_private
from .config import CHANNELS_ENDPOINTS, ENDPOINTS, Config
from .credentials import client_context, load_certificate, load_key
from .vocabulary import TOPIC_SUFFIX

if TYPE_CHECKING:
    from cryptography import x509

SOON: Final = 30 * 86_400
"""Seconds before its end from which on a certificate is warned about."""

_TOPICS: Final = "1.2.840.113635.100.6.3.6"
"""Apple's extension that lists the topics of a certificate."""
_ENVIRONMENTS: Final = {
    "sandbox": "1.2.840.113635.100.6.3.1",
    "production": "1.2.840.113635.100.6.3.2",
}
"""Apple's extensions that mark the environments of a certificate."""
_KEY_FILE: Final = re.compile(r"AuthKey_([A-Z0-9]{10})\.p8", re.IGNORECASE)
"""The file name under which Apple provides a key. It contains the key's id."""


def check(config: Config, *, clock: Callable[[], float] = time.time) -> list[Finding]:
    """Return the findings on an account, in no order of gravity. Reads its files, uses no network."""
    identity = _check_key(config) if config.key_file else _check_certificate(config, clock())
    way = check_proxy(config.endpoint, config.proxy, os.environ)
    return [*identity, *_check_names(config), *check_ca(config.ca_file), *way]


def _check_key(config: Config) -> list[Finding]:
    try:
        load_key(config)
    except CredentialError as error:
        found = [as_finding(error)]
    else:
        found = [Finding("ok", f"{config.key_file} is a P-256 key; token keys do not expire")]
        found += check_private(config.key_file)
    named = _KEY_FILE.fullmatch(Path(config.key_file).name)
    if named and named[1] != config.key_id:
        text = f"the file name says key {named[1]}, but `key_id` is {config.key_id!r}: APNs would refuse the token"
        found.append(Finding("warning", text, "correct `key_id`, or name the file of that key"))
    for name in ("key_id", "team_id"):
        if len(getattr(config, name)) != 10:
            text = f"{name} {getattr(config, name)!r} does not have 10 characters as Apple's do"
            found.append(Finding("warning", text, f"correct `{name}`"))
    return found


def _check_certificate(config: Config, now: float) -> list[Finding]:
    try:
        certificate = load_certificate(config)
        client_context(config)
    except CredentialError as error:
        return [as_finding(error)]
    remedy = "make a new certificate on Apple's developer pages, or use a token key, which does not expire"
    found = [check_dates(config.cert_file, certificate, now, soon=SOON, remedy=remedy)]
    if not _has_topic(certificate, config.topic):
        found.append(
            Finding(
                "warning",
                f"{config.cert_file} does not name the topic {config.topic!r}",
                "correct `topic`, or use the certificate of that app",
            )
        )
    marked = {name for name, oid in _ENVIRONMENTS.items() if _extension(certificate, oid) is not None}
    if marked and config.environment not in marked:
        found.append(
            Finding(
                "error",
                f"{config.cert_file} is a certificate for {' and '.join(sorted(marked))}, not {config.environment}",
                "correct `environment`, or use the other certificate",
            )
        )
    return found + check_private(config.cert_key_file or config.cert_file)


def _has_topic(certificate: x509.Certificate, topic: str) -> bool:
    from cryptography.x509.oid import NameOID

    subject = certificate.subject
    for oid in (NameOID.USER_ID, NameOID.COMMON_NAME):
        for attribute in subject.get_attributes_for_oid(oid):
            if topic in str(attribute.value).replace(":", " ").split():
                return True
    # The list is ASN.1 of Apple's own; its strings stand in it as they are.
    listed = _extension(certificate, _TOPICS)
    return listed is not None and topic.encode() in listed


def _extension(certificate: x509.Certificate, oid: str) -> bytes | None:
    from cryptography import x509

    try:
        value = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
    except x509.ExtensionNotFound:
        return None
    return value.value if isinstance(value, x509.UnrecognizedExtension) else b""


def _check_names(config: Config) -> list[Finding]:
    found = []
    for suffix in filter(None, TOPIC_SUFFIX.values()):
        if config.topic.endswith(suffix):
            text = f"topic {config.topic!r} ends in {suffix!r}, which pushsvc adds itself for such pushes"
            found.append(Finding("warning", text, "give the plain bundle id"))
    other = "sandbox" if config.environment == "production" else "production"
    for name, theirs in (
        ("endpoint", ENDPOINTS),
        ("broadcast_endpoint", ENDPOINTS),
        ("channels_endpoint", CHANNELS_ENDPOINTS),
    ):
        url = getattr(config, name)
        # What follows `endpoint` is not wrong once more.
        inherited = name == "broadcast_endpoint" and url == config.endpoint
        if urlsplit(url).hostname == urlsplit(theirs[other]).hostname and not inherited:
            text = f"{name} {url} is Apple's for {other}, environment is {config.environment}"
            found.append(Finding("error", text, f"drop `{name}`, or correct `environment`"))
    return found
