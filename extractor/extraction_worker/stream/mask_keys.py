"""What a plan and a manifest say of a mask's key. Light: who only plans doesn't load what masks rows."""

import hmac

_LABEL = b"extraction-operator/mask-key-id/v1\0"
"""No text of PostgreSQL holds a NUL, so no value is ever hashed to a key's id."""


def key_id(key: bytes) -> str:
    """Return 16 hexadecimal digits that tell a key from others and say nothing of it: a MAC of a fixed text."""
    return hmac.digest(key, _LABEL, "sha256").hex()[:16]
