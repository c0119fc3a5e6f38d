"""Signatures of webhooks."""

import hashlib
import hmac


def sign(secret: bytes, body: bytes | bytearray) -> str:
    """Returns the value of `X-Hub-Signature-256` for a body."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def is_signed(secret: bytes, body: bytes | bytearray, header: str | None) -> bool:
    """Whether a body was signed with our secret; in constant time.

    Compared as bytes: `compare_digest` raises for text that is not ASCII, which a forger
    could send to cause a server error instead of a rejection.

    Args:
        secret: The webhook's secret; an empty one signs nothing.
        body: Exactly the bytes that were received.
        header: `X-Hub-Signature-256`, None if missing.
    """
    if not secret or header is None:
        return False
    received = header.encode("utf-8", "surrogateescape")
    return hmac.compare_digest(sign(secret, body).encode(), received)
