"""Terminals of JSON.

White space stands beside the signs of JSON and belongs to their terminals, so that each white space
can be read in one way only. A key is one terminal with its colon.
"""

import json

from outrider.constraints.cfg.expressions import (
    Byte,
    Choice,
    Expression,
    Repeat,
    Sequence,
    Without,
    choice,
    code_points,
    complement,
    literal,
    sequence,
)
from outrider.constraints.cfg.grammar import Rules, Symbol
from outrider.constraints.cfg.regex import parse_regex
from outrider.constraints.json_schema import WHITESPACE
from outrider.core.values import JsonValue

_HEX = parse_regex("[0-9a-fA-F]")
_PLAIN = code_points(complement([(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)]))
_ESCAPE = choice(
    [parse_regex(r'\\["\\/bfnrt]'), Sequence((literal("\\u"), *[_HEX] * 4))],
)
_QUOTE = literal('"')
_SHORT = {'"': '"', "\\": "\\", "/": "/", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}

CHARACTER = choice([_PLAIN, _ESCAPE])
STRING = Sequence((_QUOTE, Repeat(CHARACTER), _QUOTE))
INTEGER = parse_regex("-?(0|[1-9][0-9]*)")
NUMBER = parse_regex(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
BOOLEAN = choice([literal("true"), literal("false")])
NULL = literal("null")


class JsonTerminals:
    """The terminals of JSON with one form of white space.

    Attributes:
        rules: the grammar that they belong to.
    """

    def __init__(self, rules: Rules, whitespace: str | None = None) -> None:
        """Make no terminal yet.

        Args:
            rules: the grammar.
            whitespace: see `Constraint`.

        Raises:
            OptionError: the regular expression of the white space is not valid.
        """
        known = {None: WHITESPACE, "compact": "", "flexible": r"[ \n\t\r]*"}
        self.rules = rules
        self._white = parse_regex(known.get(whitespace, whitespace or ""))

    def of(self, expression: Expression, name: str) -> Symbol:
        """Return the symbol of a value without parts."""
        return self.rules.terminal(expression, name)

    def open(self, sign: str) -> Symbol:
        """Return the symbol of `{` or `[` with the white space behind it."""
        return self.of(sequence(literal(sign), self._white), sign)

    def close(self, sign: str) -> Symbol:
        """Return the symbol of `}` or `]` with the white space before it."""
        return self.of(sequence(self._white, literal(sign)), sign)

    def empty(self, signs: str) -> Symbol:
        """Return the symbol of `{}` or `[]` with white space inside."""
        return self.of(sequence(literal(signs[0]), self._white, literal(signs[1])), signs)

    def comma(self) -> Symbol:
        """Return the symbol of a comma."""
        return self.of(sequence(self._white, literal(","), self._white), ",")

    def key(self, name: str | None = None, others: tuple[str, ...] = ()) -> Symbol:
        """Return the symbol of a key with its colon.

        Args:
            name: the key; None: any but `others`, however these are spelled.
            others: keys with a symbol of their own.
        """
        if name is not None:
            own = spelled(name)
        else:
            own = STRING
            if others:
                own = Without(STRING, choice([any_spelling(other) for other in others]))
        colon = sequence(self._white, literal(":"), self._white)
        return self.of(sequence(own, colon), f"{json.dumps(name) if name is not None else 'key'}:")


def spelled(value: JsonValue) -> Expression:
    """Return the expression of the usual spelling of a value without parts."""
    return literal(json.dumps(value, ensure_ascii=False))


def any_spelling(text: str) -> Expression:
    """Return the expression of all spellings of a string."""
    return sequence(_QUOTE, *(_spellings(letter) for letter in text), _QUOTE)


def _spellings(letter: str) -> Expression:
    """Return the expression of one character of a string, written as itself or escaped."""
    found = list[Expression]()
    point = ord(letter)
    if point > 0x1F and letter not in '"\\':
        found.append(literal(letter))
    if letter in _SHORT:
        found.append(literal("\\" + _SHORT[letter]))
    halves = letter.encode("utf-16-be").hex()
    units = [halves[at : at + 4] for at in range(0, len(halves), 4)]
    found.append(Sequence(tuple(part for unit in units for part in (literal("\\u"), _cases(unit)))))
    return choice(found)


def _cases(digits: str) -> Expression:
    return Sequence(
        tuple(Byte(1 << ord(digit) | 1 << ord(digit.upper())) for digit in digits.lower())
    )


def any_value(terminals: JsonTerminals) -> tuple[Symbol, Symbol, Symbol]:
    """Add the rules of all JSON; return the symbols of any value, any object and any array."""
    rules = terminals.rules
    scalar = terminals.of(Choice((STRING, NUMBER, BOOLEAN, NULL)), "scalar")
    value, whole, array = rules.new((scalar,)), rules.new(), rules.new()
    rules.add(value, (whole,))
    rules.add(value, (array,))
    pair = rules.new((terminals.key(), value))
    add_members(terminals, whole, rules.plus(pair, terminals.comma()))
    add_elements(terminals, array, rules.plus(value, terminals.comma()))
    return value, whole, array


def add_members(terminals: JsonTerminals, whole: Symbol, members: Symbol) -> None:
    """Add to the symbol of an object that it is empty, or has these members."""
    terminals.rules.add(whole, (terminals.empty("{}"),))
    terminals.rules.add(whole, (terminals.open("{"), members, terminals.close("}")))


def add_elements(terminals: JsonTerminals, array: Symbol, elements: Symbol) -> None:
    """Add to the symbol of an array that it is empty, or has these elements."""
    terminals.rules.add(array, (terminals.empty("[]"),))
    terminals.rules.add(array, (terminals.open("["), elements, terminals.close("]")))
