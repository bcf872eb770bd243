"""Credential files: read them with errors that name the remedy, and check whether other users may read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CredentialError
from ..model.finding import Finding

if TYPE_CHECKING:
    from cryptography.x509 import Certificate


def read_credential(path: str, key: str) -> bytes:
    """Return the file's bytes; `key` is the configuration key that names it. Raises `CredentialError`."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise CredentialError(path, "no such file", f"correct `{key}`") from None
    except IsADirectoryError:
        raise CredentialError(path, "is a folder", f"name the file in it by `{key}`") from None
    except OSError as error:
        raise CredentialError(
            path, f"cannot be read: {error.strerror or type(error).__name__}", "let the user of pushsvc read it"
        ) from error


def check_private(path: str) -> list[Finding]:
    """Return a warning where a file with a private key is readable by others than this service."""
    try:
        status = Path(path).stat()
    except OSError:
        return []  # Reading it reports that better.
    remedy = private_remedy(path, status.st_mode, status.st_uid, os.geteuid())
    return [Finding("warning", f"{path} holds a private key and others may read it", remedy)] if remedy else []


def private_remedy(path: str, mode: int, owner: int, user: int) -> str:
    """Return what makes a file private that others may read, or an empty text. A file of another user, or of root, is
    read by the service through its group, so that group alone may read it. Pure."""
    own = owner == user != 0
    if not mode & (stat.S_IROTH | (stat.S_IRGRP if own else 0)):
        return ""
    if own:
        return f"chmod 600 {path}"
    return f"chown root:GROUP {path} && chmod 640 {path}, with the group of the user that runs pushsvc"


def check_dates(file: str, certificate: Certificate, now: float, *, soon: float, remedy: str) -> Finding:
    """Return the finding about the time in which the certificate of a file is valid. `soon` are the seconds before its
    end from which on it is warned about. Pure."""
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    day = certificate.not_valid_after_utc.date().isoformat()
    if end <= now:
        return Finding("error", f"{file} expired on {day}", remedy, end)
    if begin > now:
        return Finding("error", f"{file} is not valid yet", "look at this machine's clock", end)
    if end - now < soon:
        return Finding("warning", f"{file} expires on {day}", remedy, end)
    return Finding("ok", f"{file} is a certificate with its key, valid until {day}", "", end)


def as_finding(error: CredentialError) -> Finding:
    """Return a file that cannot be used, as a line of `check`."""
    return Finding("error", error.placed, error.remedy)
