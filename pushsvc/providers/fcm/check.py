"""Checks of a Firebase account without asking Google: the file, its fields, its key."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from ...errors import CredentialError
from ...model.finding import Finding
from ..endpoint import check_ca, check_proxy
from ..files import as_finding, check_private
from .config import Config
from .credentials import load_service_account


def check(config: Config) -> list[Finding]:
    """Return the findings on an account. Reads its files, uses no network. Service-account keys do not expire."""
    try:
        account = load_service_account(config)
    except CredentialError as error:
        return [
            as_finding(error),
            *check_proxy(config.endpoint, config.proxy, os.environ),
            *check_ca(config.ca_file),
        ]
    path = config.service_account_file
    found = [Finding("ok", f"{path} is the service account {account.email} for the project {account.project_id}")]
    if urlsplit(account.token_uri).scheme != "https":
        text = f"{path}: its token_uri is {account.token_uri}, so access tokens travel in the clear"
        found.append(Finding("warning", text, "use an https:// token_uri"))
    domain = account.email.rpartition("@")[2]
    if domain.endswith(".iam.gserviceaccount.com") and domain.partition(".")[0] != account.project_id:
        text = f"{account.email} belongs to another project than {account.project_id}"
        remedy = "correct `project_id`, or grant the account the role Firebase Cloud Messaging API Admin there"
        found.append(Finding("warning", text, remedy))
    for url in (config.endpoint, account.token_uri):
        found += check_proxy(url, config.proxy, os.environ)
    return [*found, *check_private(path), *check_ca(config.ca_file)]
