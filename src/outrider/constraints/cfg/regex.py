"""Regular expressions as text, read as trees over bytes.

The syntax is the common part of Rust's and Python's: literals, `.`, classes, groups, `|`, `*`, `+`,
`?`, `{2,5}`, and the escapes `\\d \\w \\s` (of ASCII), `\\n \\r \\t \\f \\v \\0`, `\\xHH`,
`\\uHHHH`. Look-around, back references, anchors and lazy repeats are refused.
"""

from outrider.constraints.cfg.expressions import (
    EMPTY,
    MOST,
    Expression,
    Ranges,
    Repeat,
    choice,
    code_points,
    complement,
    sequence,
)
from outrider.core.errors import OptionError

_DIGIT = ((48, 57),)
_WORD = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE = ((9, 13), (32, 32))
_CLASSES: dict[str, Ranges] = {
    "d": _DIGIT,
    "w": _WORD,
    "s": _SPACE,
    "D": complement(_DIGIT),
    "W": complement(_WORD),
    "S": complement(_SPACE),
}
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
_ANY = complement([(10, 10)])
_SPECIAL = "|*+?{}()[]^$.\\"
_MOST_REPEATS = 10_000


def parse_regex(text: str) -> Expression:
    """Return the tree of a regular expression, which whole texts match.

    Raises:
        OptionError: it is not valid, or uses more than what is read here.
    """
    reader = _Reader(text)
    found = reader.alternatives()
    if reader.place < len(text):
        raise reader.wrong(f"unexpected {text[reader.place]!r}")
    return found


class _Reader:
    """Reads one expression from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0

    def wrong(self, why: str) -> OptionError:
        return OptionError(
            f"the regular expression {self.text[:60]!r} is refused at {self.place}: {why}",
            hint="Read are literals, classes, groups, |, *, +, ? and {m,n}",
        )

    def peek(self) -> str:
        return self.text[self.place : self.place + 1]

    def take(self) -> str:
        if self.place >= len(self.text):
            raise self.wrong("it ends here")
        self.place += 1
        return self.text[self.place - 1]

    def alternatives(self) -> Expression:
        found = [self.sequence()]
        while self.peek() == "|":
            self.place += 1
            found.append(self.sequence())
        return choice(found)

    def sequence(self) -> Expression:
        found = list[Expression]()
        while self.peek() not in ("", "|", ")"):
            found.append(self.repeated(self.atom()))
        return sequence(*found) if found else EMPTY

    def repeated(self, part: Expression) -> Expression:
        while True:
            match self.peek():
                case "*":
                    low, high = 0, None
                case "+":
                    low, high = 1, None
                case "?":
                    low, high = 0, 1
                case "{":
                    low, high = self.bounds()
                case _:
                    return part
            self.place += 1
            if self.peek() == "?":
                raise self.wrong("lazy repeats are not read")
            part = Repeat(part, low, high)

    def bounds(self) -> tuple[int, int | None]:
        end = self.text.find("}", self.place)
        inner = self.text[self.place + 1 : end] if end > 0 else ""
        first, comma, last = inner.partition(",")
        fits = first.isdecimal() and (not last or last.isdecimal())
        low = int(first) if fits else 0
        high = (int(last) if last else None) if comma else low
        if not fits or (high is not None and high < low) or max(low, high or 0) > _MOST_REPEATS:
            raise self.wrong(f"the repeat {{{inner[:20]}}} is not valid")
        self.place = end
        return low, high

    def atom(self) -> Expression:
        letter = self.take()
        if letter == "(":
            if self.text.startswith("?:", self.place):
                self.place += 2
            elif self.peek() == "?":
                raise self.wrong("only groups (?:...) are read")
            found = self.alternatives()
            if self.take() != ")":
                raise self.wrong("a group does not end")
            return found
        if letter == "[":
            return code_points(self.members())
        if letter == ".":
            return code_points(_ANY)
        if letter == "\\":
            return code_points(self.escape())
        if letter in _SPECIAL:
            raise self.wrong(f"{letter!r} is not read here")
        return code_points([(ord(letter), ord(letter))])

    def members(self) -> Ranges:
        negated = self.peek() == "^"
        self.place += negated
        found = list[tuple[int, int]]()
        first = True
        while first or self.peek() != "]":
            low = self.member()
            if self.peek() == "-" and self.text[self.place + 1 : self.place + 2] not in ("]", ""):
                self.place += 1
                high = self.member()
                if len(low) != 1 or len(high) != 1 or low[0][0] > high[0][0]:
                    raise self.wrong("a range of a class is not valid")
                low = ((low[0][0], high[0][1]),)
            found += low
            first = False
        self.place += 1
        return complement(found) if negated else tuple(found)

    def member(self) -> Ranges:
        letter = self.take()
        if letter == "\\":
            return self.escape()
        if letter == "[":
            raise self.wrong("a class inside a class is not read")
        return ((ord(letter), ord(letter)),)

    def escape(self) -> Ranges:
        letter = self.take()
        if letter in _CLASSES:
            return _CLASSES[letter]
        if letter in ("x", "u"):
            size = 2 if letter == "x" else 4
            digits = self.text[self.place : self.place + size]
            if len(digits) < size or not all(c in "0123456789abcdefABCDEF" for c in digits):
                raise self.wrong(f"\\{letter} needs {size} digits")
            self.place += size
            letter = chr(int(digits, 16))
        elif letter in _CONTROLS:
            letter = _CONTROLS[letter]
        elif letter.isalnum():
            raise self.wrong(f"the escape \\{letter} is not read")
        point = min(ord(letter), MOST)
        return ((point, point),)
