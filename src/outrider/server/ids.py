"""Identifiers of answers and of their parts."""

import secrets


def new_id(kind: str) -> str:
    """Return a new identifier, such as `chatcmpl-...`."""
    return f"{kind}-{secrets.token_hex(12)}"
