"""Parses numbers as users type them: 0.02 or 2%."""

from outrider.core.errors import OptionError


def share(name: str, text: str) -> float:
    """Parse a share: `0.02` and `2%` are equal."""
    number = _percent(text)
    number = _number(text) if number is None else number / 100
    if number is None or not 0 <= number <= 1:
        raise OptionError(f"{name} is {text!r}", hint="Give a share such as 0.02 or 2%")
    return number


def share_or_count(name: str, text: str) -> float:
    """Parse a share such as `0.25` or `25%`, or a number above 1 such as `1024`."""
    number = _percent(text)
    number = _number(text) if number is None else number / 100
    if number is None:
        raise OptionError(
            f"{name} is {text!r}", hint="Give a share such as 0.25 or 25%, or a number such as 1024"
        )
    return number


def _percent(text: str) -> float | None:
    text = text.strip()
    return _number(text[:-1]) if text.endswith("%") else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
