"""Range checks for numeric options, declared per field of a record."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real

from outrider.core.errors import OptionError

_INF = float("inf")
_UNNAMED = 1e6
"""Bounds of this size or more only guard against overflow, so hints do not mention them."""
_LONG = 10**60
"""Whole numbers of this size or more are not written out in messages."""


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that an option accepts. No range contains NaN, and a bool does not count as a
    number.

    Attributes:
        low: the smallest number.
        high: the largest number.
        above: `low` itself is excluded.
        below: `high` itself is excluded; with an infinite `high`, numbers must be finite.
        whole: only whole numbers (`numbers.Integral`) are in the range.
        optional: None is accepted as well.
        hint: the hint for a number outside the range; if empty, the hint states the bounds.
    """

    low: float = -_INF
    high: float = _INF
    _: KW_ONLY
    above: bool = False
    below: bool = False
    whole: bool = False
    optional: bool = False
    hint: str = ""

    def check(self, name: str, value: object) -> None:
        """Raise an error unless `value` is in the range.

        Args:
            name: the name of the option in the message.
            value: the value that was given.

        Raises:
            OptionError: `value` is not a number or not in the range. The problem is "`name` is
                `value`".
        """
        if value is None and self.optional:
            return
        kind = Integral if self.whole else Real
        if isinstance(value, bool) or not isinstance(value, kind):
            hint = "Give a whole number" if self.whole else "Give a number"
            raise OptionError(f"{name} is {shown(value)}", hint=hint)
        # An int is compared without conversion, because a large int has no float.
        number = value if isinstance(value, int) else float(value)
        inside = self.low <= number <= self.high
        if (
            not inside
            or (self.above and number == self.low)
            or (self.below and number == self.high)
        ):
            raise OptionError(
                f"{name} is {shown(value if isinstance(value, Integral) else number)}",
                hint=self.hint or f"Give a value {self}",
            )

    def __str__(self) -> str:
        lower = f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        if self.high >= _UNNAMED:
            return lower
        return f"{lower} and {'below' if self.below else 'at most'} {self.high:g}"


def shown(value: object) -> str:
    """Return a value as text of at most 60 characters, for a message.

    Python refuses to write whole numbers of thousands of digits.
    """
    if isinstance(value, int) and abs(value) >= _LONG:
        return "a whole number of more than 60 digits"
    try:
        return f"{value!r:.60}"
    except ValueError:
        return f"a {type(value).__name__} of large numbers"


AT_LEAST_ONE = Range(1, hint="Give at least 1")
ZERO_OR_MORE = Range(0, hint="Give 0 or more")
SHARE = Range(0.0, 1.0, hint="Give a share from 0 to 1")


def check_ranges(record: object, ranges: Mapping[str, Range]) -> None:
    """Raise an error unless the fields of `record` are in their ranges. Fields are checked in
    order.

    Args:
        record: any object, usually a dataclass in its `__post_init__`.
        ranges: name of a field -> the numbers that it accepts.

    Raises:
        OptionError: describes the first field that is not in its range.
    """
    for name, allowed in ranges.items():
        allowed.check(name, getattr(record, name))
