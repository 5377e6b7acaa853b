"""Which numbers an option takes, as records say it of their fields."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real

from outrider.core.errors import OptionError

_INF = float("inf")
_UNNAMED = 1e6
"""An upper bound from here on is a guard against overflow, and no hint names it."""


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that an option takes. NaN is in no range, and a bool is no number.

    Attributes:
        low: the least number.
        high: the largest number.
        above: `low` itself is excluded.
        below: `high` itself is excluded; with an infinite `high`, numbers must be finite.
        whole: only whole numbers (`numbers.Integral`) are in the range.
        optional: None is allowed too.
        hint: what to say of a number outside the range; empty says the bounds.
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
        """Raise unless `value` is in the range.

        Args:
            name: what the message calls the option.
            value: what was given for it.

        Raises:
            OptionError: it is no number, or not in the range. The problem is "`name` is `value`".
        """
        if value is None and self.optional:
            return
        kind = Integral if self.whole else Real
        if isinstance(value, bool) or not isinstance(value, kind):
            hint = "Give a whole number" if self.whole else "Give a number"
            raise OptionError(f"{name} is {value!r}", hint=hint)
        # An int is compared as it is: a large one has no float.
        number = value if isinstance(value, int) else float(value)
        inside = self.low <= number <= self.high
        if (
            not inside
            or (self.above and number == self.low)
            or (self.below and number == self.high)
        ):
            raise OptionError(f"{name} is {value}", hint=self.hint or f"Give a value {self}")

    def __str__(self) -> str:
        lower = f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        if self.high >= _UNNAMED:
            return lower
        return f"{lower} and {'below' if self.below else 'at most'} {self.high:g}"


AT_LEAST_ONE = Range(1, hint="Give at least 1")
ZERO_OR_MORE = Range(0, hint="Give 0 or more")
SHARE = Range(0.0, 1.0, hint="Give a share from 0 to 1")


def check_ranges(record: object, ranges: Mapping[str, Range]) -> None:
    """Raise unless the fields of `record` are in their ranges; they are checked in order.

    Args:
        record: any object, as a dataclass in its `__post_init__`.
        ranges: name of a field -> the numbers that it takes.

    Raises:
        OptionError: of the first field that is not in its range.
    """
    for name, allowed in ranges.items():
        allowed.check(name, getattr(record, name))
