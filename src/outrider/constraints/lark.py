"""Terms of Lark grammars, in the syntax of llguidance."""

import json
from collections.abc import Mapping


def quoted(text: str) -> str:
    """Return the term of a text."""
    return json.dumps(text, ensure_ascii=False)


def literal(text: str, special: Mapping[int, str]) -> str:
    """Return the term of a text, which is that of a special token where there is one.

    Args:
        text: the text.
        special: the texts of special tokens, by their ids.
    """
    token = next((token for token, own in special.items() if own == text), None)
    return quoted(text) if token is None else f"<[{token}]>"


def pattern(text: str) -> str:
    """Return the term of a regular expression."""
    return f"/{text.replace('/', chr(92) + '/')}/"
