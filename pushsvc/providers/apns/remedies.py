"""What an operator can do if APNs refuses the identity, or a push. Pure; the reasons are those of `classify.py`."""

from __future__ import annotations

from functools import partial
from typing import Final

from ...model.finding import Explained
from .. import reasons
from .classify import BROADCASTS, TOO_MANY_TOKENS

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
    BROADCASTS: "look at network, firewall, proxy and `broadcast_endpoint`; all else continues",
    # https://developer.apple.com/forums/thread/702056
    TOO_MANY_TOKENS: "it is probed; APNs takes a new provider token of a team every 20 minutes at most, and several "
    "processes or hosts make them: look for other senders with a key of this team, let them share one token, or run "
    "fewer `dispatch` processes",
}

_TOPIC: Final = "Correct `apns-topic` in the overrides of the push, or `topic` of the account; then replay."
_FIELD: Final = "Correct this field in the overrides of the push, then send it again."

_EXPLAINED: Final[dict[str, Explained]] = {
    "BadTopic": Explained("Apple does not know the topic.", _TOPIC),
    "MissingTopic": Explained("The push has no topic, and the certificate has several.", _TOPIC),
    "TopicDisallowed": Explained("The key or certificate may not send to this topic.", _TOPIC),
    "TopicMismatch": Explained("The key or certificate is for other topics.", _TOPIC),
    "DeviceTokenNotForTopic": Explained(
        "The token belongs to another app than the topic.", "Check which app registers with this account."
    ),
    "BadDeviceToken": Explained(
        "The token is not valid here; often it is one of the other environment.",
        "Check `environment` of the account and of the device.",
    ),
    "Unregistered": Explained("The token is no longer valid for the topic that the push names.", _TOPIC),
    "ExpiredToken": Explained("The token has expired.", "The app registers a new one at its next start."),
    "PayloadTooLarge": Explained(
        "The payload is larger than Apple accepts.", "Send less: 4,096 bytes, 5,120 for VoIP."
    ),
    "PayloadEmpty": Explained("The payload is empty.", "Give the push a `notification` or `data`."),
    "BadMessageId": Explained("`apns-id` is not a UUID.", "Leave `apns-id` out of the overrides."),
    "BadCollapseId": Explained("`apns-collapse-id` is longer than 64 bytes.", "Shorten `collapse`."),
    "BadExpirationDate": Explained("`apns-expiration` is not a time in Unix seconds.", _FIELD),
    "BadPriority": Explained("`apns-priority` is not 10, 5 or 1.", _FIELD),
    "InvalidPushType": Explained("Apple does not know the `apns-push-type`.", _FIELD),
    "MissingPushType": Explained("The push has no `apns-push-type`.", _FIELD),
    "BadChannelId": Explained("Apple cannot read the id of the broadcast channel.", "Correct the id of the channel."),
    "MissingChannelId": Explained("The push names no broadcast channel.", "Name the channel that it is for."),
    "TooManyRequests": Explained(
        "Too many pushes were sent to one device.", "Send less to it, then replay.", retryable=True
    ),
    "InternalServerError": reasons.later("Apple had an internal error."),
    "ServiceUnavailable": reasons.later("Apple could not accept pushes."),
}

explain: Final = partial(reasons.explain, known=_EXPLAINED)
"""Returns what the reason of a failed delivery means, and what to do about it, from the reason and the status."""
remedy: Final = partial(reasons.remedy, known=_REMEDIES, timed=_CLOCK)
"""Returns the remedy for a refusal, from its reason and the seconds that the provider's clock is ahead of ours."""
