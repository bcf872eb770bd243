"""The Firebase account: its section of the configuration, its file, its token requests, and what `check` says."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.auth import exceptions
from google.auth.transport import requests as google_requests
from requests.exceptions import ReadTimeout

from pushsvc.errors import CredentialError
from pushsvc.providers.fcm import Config, check
from pushsvc.providers.fcm.credentials import TokenRefusedError, load_service_account

from .credential_files import pem, write, write_service_account

OF_ANOTHER_KIND, ENCRYPTED = (pem(ec.generate_private_key(ec.SECP256R1()), word).decode() for word in (None, b"geheim"))
SECTION = {"service_account_file": "/sa.json"}


# --- the section --------------------------------------------------------------------------------


def test_the_defaults() -> None:
    config = Config(service_account_file="/sa.json")

    assert (config.endpoint, config.project_id, config.connections, config.window) == (
        "https://fcm.googleapis.com",
        "",
        2,
        1000,
    )
    assert Config(service_account_file="/sa.json", endpoint="").endpoint == "https://fcm.googleapis.com"
    assert Config(service_account_file="/sa.json", endpoint="https://[::1]:1/").endpoint == "https://[::1]:1"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"service_account_file": ""}, "service_account_file: missing"),
        ({"endpoint": "http://fcm.googleapis.com"}, "endpoint: must be https"),
        ({"endpoint": "https://fcm.googleapis.com/v1"}, "endpoint: must hold nothing but"),
        ({"project_id": "a/b"}, "project_id: expected"),
        ({"connections": 0}, "connections"),
        ({"colour": "red"}, "colour"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_section_says_which_key(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert({**SECTION, **fields}, Config)


# --- the file -----------------------------------------------------------------------------------


def test_a_service_account_is_read(tmp_path: Path) -> None:
    account = load_service_account(Config(service_account_file=write_service_account(tmp_path)))

    assert account.project_id == "shop-1"
    assert account.token_uri == "https://oauth2.googleapis.com/token"
    assert "PRIVATE" not in repr(account)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"type": "authorized_user"}, "is not a service account"),
        ({"client_email": None}, "has no `client_email`"),
        ({"private_key": None}, "has no `private_key`"),
        ({"private_key": 7}, "has no `private_key`"),
        ({"token_uri": None}, "has no `token_uri`"),
        ({"private_key": "-----BEGIN PRIVATE KEY-----\ngeheim\n-----END PRIVATE KEY-----\n"}, "cannot be read"),
        ({"private_key": ENCRYPTED}, "`private_key` is encrypted"),
        ({"private_key": OF_ANOTHER_KIND}, "is not an RSA key"),
        ({"token_uri": "https://[::1"}, "`token_uri` is not a URL"),
        ({"token_uri": "https://host:port/token"}, "`token_uri` is not a URL"),
        ({"token_uri": "oauth2.googleapis.com/token"}, "`token_uri` is not a URL"),
        ({"project_id": None}, "names no project"),
        ({"project_id": "a/../b"}, "names no project"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_cannot_be_used_is_refused_with_the_remedy(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    path = write_service_account(tmp_path, **changes)
    config = Config(service_account_file=path)
    with pytest.raises(CredentialError, match=says) as caught:
        load_service_account(config)

    assert caught.value.path == path
    assert caught.value.remedy
    assert "geheim" not in str(caught.value)
    assert [finding.level for finding in check(config)] == ["error"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_file_that_is_no_service_account_at_all(tmp_path: Path, content: bytes) -> None:
    config = Config(service_account_file=write(tmp_path / "sa.json", content))

    with pytest.raises(CredentialError, match="is not"):
        load_service_account(config)


def test_a_missing_file_names_the_key_of_the_configuration() -> None:
    (finding,) = check(Config(service_account_file="/no/such.json"))

    assert (finding.level, finding.remedy) == ("error", "correct `service_account_file`")


def test_a_service_account_that_cannot_be_read_hides_no_other_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://proxy")
    found = check(Config(service_account_file="/no/such.json", ca_file="/no/ca.pem"))
    assert [each.level for each in found] == ["error"] * 3
    assert "/no/such.json" in found[0].what
    assert "HTTPS_PROXY" in found[1].what
    assert "/no/ca.pem" in found[2].what


def test_a_good_file_is_ok_and_what_looks_wrong_is_pointed_out(tmp_path: Path) -> None:
    good = write_service_account(tmp_path)
    assert [finding.level for finding in check(Config(service_account_file=good))] == ["ok"]

    other = check(Config(service_account_file=good, project_id="other"))
    assert [finding.level for finding in other] == ["ok", "warning"]
    assert "belongs to another project than other" in other[1].what

    plain = write_service_account(tmp_path, token_uri="http://127.0.0.1:1/token")
    Path(plain).chmod(0o644)
    found = check(Config(service_account_file=plain, ca_file="/no/ca.pem"))
    assert [finding.level for finding in found] == ["ok", "warning", "warning", "error"]
    assert all(finding.remedy for finding in found[1:])


# --- token requests -----------------------------------------------------------------------------


class _Answer:
    """What google-auth expects of its HTTP client."""

    def __init__(self, status: int, data: bytes) -> None:
        self.status = status
        self.data = data
        self.headers: dict[str, str] = {}


class _Asked(list[dict[str, Any]]):
    """Token requests, answered one after the other without a network."""

    def __init__(self, *answers: _Answer | Exception) -> None:
        super().__init__()
        self._answers = list(answers)

    def __call__(self, *args: Any, **kwargs: Any) -> _Answer:
        self.append(kwargs)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _asked(monkeypatch: pytest.MonkeyPatch, *answers: _Answer | Exception) -> _Asked:
    asked = _Asked(*answers)
    monkeypatch.setattr(google_requests.Request, "__call__", lambda self, *args, **kwargs: asked(*args, **kwargs))
    return asked


def test_a_token_is_asked_for_where_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _asked(monkeypatch, _Answer(200, json.dumps({"access_token": "ya29.x", "expires_in": 3599}).encode()))
    path = write_service_account(tmp_path, token_uri="https://127.0.0.1:9/token")
    config = Config(service_account_file=path, ca_file="/ca.pem")

    token, life = load_service_account(config, timeout=7.0).fetch()

    assert token == "ya29.x"
    assert 3500 < life <= 3599
    (request,) = asked
    assert (request["url"], request["timeout"], request["verify"]) == ("https://127.0.0.1:9/token", 7.0, "/ca.pem")
    form = dict(part.split("=") for part in request["body"].decode().split("&"))
    claims = jwt.decode(form["assertion"], options={"verify_signature": False})
    assert claims["iss"] == "push@shop-1.iam.gserviceaccount.com"
    assert "https://www.googleapis.com/auth/firebase.messaging" in claims["scope"].split() or (
        "https://www.googleapis.com/auth/cloud-platform" in claims["scope"].split()
    )
    assert datetime.datetime.fromtimestamp(claims["exp"], datetime.UTC) > datetime.datetime.now(datetime.UTC)


def _transport_error(cause: object) -> Exception:
    error: Exception = exceptions.TransportError(cause)  # type: ignore[no-untyped-call]  # google-auth leaves it bare
    return error


@pytest.mark.parametrize(
    ("answer", "reason", "final", "says"),
    [
        (
            _Answer(400, b'{"error":"invalid_grant","error_description":"Invalid JWT Signature."}'),
            "invalid_grant",
            True,
            "127.0.0.1:9 refuses the service account: invalid_grant: Invalid JWT Signature.",
        ),
        (
            _Answer(400, b'{"error":"invalid_grant"}'),
            "invalid_grant",
            True,
            "127.0.0.1:9 refuses the service account: invalid_grant",
        ),
        (_Answer(403, b"<html>" + b"x" * 5000), "token_refused", True, "refuses the service account: <html>xxx"),
        (_Answer(200, b"{}"), "token_refused", True, "No access token"),
        (_transport_error("long text"), "token_endpoint_unreachable", False, "cannot be reached"),
        (
            _transport_error(ConnectionRefusedError("secret")),
            "token_endpoint_unreachable",
            False,
            "127.0.0.1:9 cannot be reached: ConnectionRefusedError",
        ),
        (
            _transport_error(ConnectionRefusedError(111, "Connection refused")),
            "token_endpoint_unreachable",
            False,
            "127.0.0.1:9 cannot be reached: connection refused",
        ),
        (
            _transport_error(ReadTimeout("secret")),
            "token_endpoint_unreachable",
            False,
            "127.0.0.1:9 accepts the connection, but has not answered within 10 s",
        ),
    ],
    ids=["invalid_grant", "no description", "html", "no token", "transport", "refused connection", "words", "silence"],
)
def test_a_token_that_is_not_given_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, reason: str, final: bool, says: str
) -> None:
    _asked(monkeypatch, answer)
    path = write_service_account(tmp_path, token_uri="https://127.0.0.1:9/token")
    account = load_service_account(Config(service_account_file=path))

    with pytest.raises(TokenRefusedError) as caught:
        account.fetch()

    assert (caught.value.reason, caught.value.final) == (reason, final)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 300
