"""Self-hosted push-notification delivery over APNs and FCM."""

__version__ = "0.1.0"
