"""What a text answers: the part of it by which texts are compared."""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from outrider.core.checks import shown
from outrider.core.errors import OptionError

Extract = Callable[[str], str | None]
"""`text -> its answer`; None: it has none."""

# A minus sign after a letter or a digit is a hyphen or a subtraction.
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_BOXED = re.compile(r"\\boxed\s*\{")


def last_number(text: str) -> str | None:
    """Return the last number, without separators of thousands and trailing zeros."""
    found = _NUMBER.findall(text)
    return number_of(found[-1]) if found else None


def number_of(text: str) -> str:
    """Return the usual form of a number: `18` for `18.00`; other texts are returned unchanged."""
    plain = text.replace(",", "")
    try:
        value = Decimal(plain)
    except InvalidOperation:
        return text
    short = format(value, "f")
    short = short.rstrip("0").rstrip(".") if "." in short else short
    return "0" if short == "-0" else short


def last_line(text: str) -> str | None:
    """Return the last line that is not blank."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


def boxed(text: str) -> str | None:
    r"""Return what the last `\boxed{}` contains; a number in its usual form."""
    starts = [match.end() for match in _BOXED.finditer(text)]
    if not starts:
        return None
    depth = 1
    for i in range(starts[-1], len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return number_of(text[starts[-1] : i].strip()) or None
    return None


def whole(text: str) -> str | None:
    """Return the text without space around it."""
    return text.strip() or None


ANSWERS: dict[str, Extract] = {
    "number": last_number,
    "line": last_line,
    "boxed": boxed,
    "text": whole,
}
"""Ways to find the answer in a text, by name."""


def extract_of(answer: str | Extract) -> Extract:
    """Return the function of this name, or the function itself.

    Raises:
        OptionError: there is no such name.
    """
    if callable(answer):
        return answer
    if answer not in ANSWERS:
        raise OptionError(
            f"answer is {shown(answer)}", hint=f"Give a function, or one of {', '.join(ANSWERS)}"
        )
    return ANSWERS[answer]
