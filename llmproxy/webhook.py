"""
Events as signed webhooks: which there are, where they go, and how a receiver knows that they are ours.

Signed as Standard Webhooks says (standardwebhooks.com), for which there are libraries in many languages: an HMAC over
the event's id, the moment of this try and the body.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from datetime import datetime

from llmproxy.api_log.http_receiver import HttpReceiver
from llmproxy.api_log.logging_url import HttpTarget, parse_logging_url
from llmproxy.egress import Egress

KINDS = BUDGET_THRESHOLD, TOKEN_EXPIRES_SOON, MODEL_UNPRICED, KEY_REFUSED = (
    "budget.threshold", "token.expires_soon", "model.unpriced", "upstream.key_refused",
)  # fmt: skip

PREFIX = "whsec_"
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64
# Less than for records: while one event waits, so do all others.
READ_TIMEOUT_S = 15.0


def webhook_target(url: str) -> HttpTarget:
    """Where events go. ValueError says what is wrong with the URL, and quotes nothing of it."""
    target = parse_logging_url(url) if url.startswith(("https://", "http://")) else None
    if isinstance(target, HttpTarget):
        return target
    raise ValueError("must begin with https:// or http://")


def kinds_of(raw: str) -> tuple[str, ...]:
    """The kinds of events in a list with commas. ValueError says which there are."""
    kinds = tuple(kind.strip() for kind in raw.split(","))
    if not set(kinds) <= set(KINDS):
        raise ValueError(f"must be some of {', '.join(KINDS)}, with commas")
    return kinds


def signing_key(secret: str) -> bytes:
    """The bytes that a secret stands for. ValueError says what it must be."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(f"must be {PREFIX} and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in Base64")
    return key


def signature(key: bytes, event_id: str, at_s: int, body: bytes) -> str:
    """What `webhook-signature` says of an event."""
    signed = f"{event_id}.{at_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


class Webhook:
    """The receiver of events. Not shared between threads."""

    def __init__(self, url: str, secret: str, *, egress: Egress | None = None) -> None:
        self._key = signing_key(secret)
        names = ("ALERT_URL", "ALERT_SECRET")
        target = webhook_target(url)
        self._receiver = HttpReceiver(target, settings=names, read_timeout_s=READ_TIMEOUT_S, egress=egress)

    @property
    def name(self) -> str:
        """Where it is, as may be shown."""
        return self._receiver.origin

    def close(self) -> None:
        """Close the connection to it."""
        self._receiver.close()

    def deliver(self, event_id: str, body: bytes, now: datetime) -> None:
        """Hand over one event. Raises SinkUnavailable when it must be sent again, BatchRefused when never."""
        at_s = int(now.timestamp())
        headers = {
            "webhook-id": event_id,
            "webhook-timestamp": str(at_s),
            "webhook-signature": signature(self._key, event_id, at_s, body),
        }
        self._receiver.check(self._receiver.post(body, headers))
