"""What an operator can do if APNs refuses the identity. Pure; the reasons are those of `classify.py`."""

from __future__ import annotations

from typing import Final

from ..clocks import SIGNIFICANT, clock_hint

_CLOCK: Final = frozenset({"ExpiredProviderToken", "InvalidProviderToken"})

_REMEDIES: Final[dict[str, str]] = {
    "ExpiredProviderToken": "the signed token is too old or from the future",
    "InvalidProviderToken": "correct `key_file`, `key_id` or `team_id`",
    "MissingProviderToken": "give `key_file`, `key_id` and `team_id`, or a certificate",
    "UnrelatedKeyIdInToken": "`key_id` is of another team or topic than the connection was opened with: correct it",
    "BadEnvironmentKeyIdInToken": "the key is for the other environment: correct `environment` or `key_file`",
    "BadCertificate": "replace `cert_file`: export the certificate again, with its key",
    "BadCertificateEnvironment": "the certificate is for the other environment: correct `environment` or `cert_file`",
    "TopicMismatch": "the key or certificate is not for this `topic`: correct one of them",
    "BadTopic": "correct `topic`: it is the app's bundle id",
    "MissingTopic": "give `topic`: it is the app's bundle id",
    "TopicDisallowed": "the account may not send to this `topic`: correct it",
    "Forbidden": "look at the account's rights at developer.apple.com",
    "FeatureNotEnabled": "switch broadcasts on for the app at developer.apple.com",
}


def remedy(reason: str, skew: float) -> str:
    """Return the remedy; `skew` is how many seconds APNs' clock is ahead of ours, as far as is known."""
    words = [_REMEDIES.get(reason, "look at the credentials with `pushsvc check`")]
    if reason in _CLOCK or abs(skew) >= SIGNIFICANT:
        words.append(clock_hint(skew))
    return "; ".join(words)
