"""What an operator can do if FCM refuses the identity, or a push. Pure; the reasons are those of `classify.py` and
OAuth."""

from __future__ import annotations

from functools import partial
from typing import Final

from ...model.finding import Explained
from .. import reasons

_CLOCK: Final = frozenset({"invalid_grant", "UNAUTHENTICATED"})
_PART: Final = (
    "the Firebase project's APNs key (or web push key) is missing or refused: correct it in the Firebase console, "
    "project settings, Cloud Messaging. Android is not concerned"
)

_REMEDIES: Final[dict[str, str]] = {
    "invalid_grant": "the key of `service_account_file` was revoked or is not the account's: download it again",
    "invalid_client": "the service account is unknown: correct `service_account_file`",
    "invalid_scope": "the service account may not ask for messaging: correct `service_account_file`",
    "unauthorized_client": "the service account may not ask for tokens: look at it in the Google Cloud console",
    "UNAUTHENTICATED": "the access token is refused: look at `service_account_file`",
    "PERMISSION_DENIED": "give the service account the role for Firebase Cloud Messaging, and enable its API",
    "NOT_FOUND": "there is no such project: correct `project_id` or `service_account_file`",
    "THIRD_PARTY_AUTH_ERROR": _PART,
    "APNS_AUTH_ERROR": _PART,
}

_EXPLAINED: Final[dict[str, Explained]] = {
    "INVALID_ARGUMENT": Explained(
        "Google refuses a field of the message.", "Look at `data` and the overrides of the push, then send it again."
    ),
    "SENDER_ID_MISMATCH": Explained(
        "The token belongs to another Firebase project.", "Check `service_account_file` against the app's project."
    ),
    "THIRD_PARTY_AUTH_ERROR": Explained(
        "Firebase cannot reach APNs for this project.", "Give the APNs key to Firebase, or send to APNs directly."
    ),
    **dict.fromkeys(
        ("QUOTA_EXCEEDED", "RESOURCE_EXHAUSTED"),
        Explained(
            "The project, or one device, was sent more messages than Google accepts.",
            "Lower the rate, or ask Google for more; then replay.",
            retryable=True,
        ),
    ),
    "UNSPECIFIED_ERROR": Explained(
        "Google names no cause.", "Replay one of them; if it fails again, ask Firebase.", retryable=True
    ),
    "UNAVAILABLE": reasons.later("Google could not accept messages."),
    "INTERNAL": reasons.later("Google had an internal error."),
    "DEADLINE_EXCEEDED": reasons.later("Google did not finish in time."),
}

explain: Final = partial(reasons.explain, known=_EXPLAINED)
"""Returns what the reason of a failed delivery means, and what to do about it, from the reason and the status."""
remedy: Final = partial(reasons.remedy, known=_REMEDIES, timed=_CLOCK)
"""Returns the remedy for a refusal, from its reason and the seconds that the provider's clock is ahead of ours."""
