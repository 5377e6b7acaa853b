"""Grammars as text: the part of Lark's form that llguidance reads too.

Names in small letters are rules, those in capital letters are terminals; `start` is the rule of
whole texts. Right sides have names, `"texts"`, `/regular expressions/`, groups, `[...]` for
what may be left out, `|`, `?`, `*`, `+`. In terminals, `A & B` are texts of both, and `A & ~B` are
those of A that are none of B. Directives (`%ignore`) are refused: white space is written out.

A text belongs to the grammar if it can be split into terminals in any way. A lexer would take the
longest terminal each time; write identifiers without keywords as `NAME & ~KEYWORD`.
"""

import json
import re
from typing import NamedTuple

from outrider.constraints.cfg.expressions import (
    EMPTY,
    Both,
    Expression,
    Repeat,
    Without,
    choice,
    literal,
    sequence,
)
from outrider.constraints.cfg.grammar import Grammar, Rules, Symbol
from outrider.constraints.cfg.regex import parse_regex
from outrider.core.errors import OptionError

_TOKEN = re.compile(
    r"""(?P<space>[\s]+|//[^\n]*)
      | (?P<name>[A-Za-z_][A-Za-z_0-9]*)
      | (?P<text>"(?:[^"\\\n]|\\.)*")
      | (?P<regex>/(?:[^/\\\n]|\\.)+/)
      | (?P<sign>[:|()\[\]?*+&~])""",
    re.VERBOSE,
)
_REPEATS = {"?": (0, 1), "*": (0, None), "+": (1, None)}


class _Piece(NamedTuple):
    kind: str
    text: str


def read_grammar(text: str) -> Grammar:
    """Return the grammar of a text.

    Raises:
        OptionError: it is not valid, or uses what is not read here.
    """
    definitions = _definitions(_pieces(text))
    if "start" not in definitions:
        raise OptionError("the grammar has no rule start", hint="Write start: ...")
    terminals = _Terminals(definitions)
    rules = Rules()
    known = {name: rules.new() for name in definitions if not name.isupper()}
    for name, symbol in known.items():
        reader = _RuleReader(definitions[name], name, rules, known, terminals)
        reader.read(symbol)
        reader.finish()
    return rules.build(known["start"])


def _pieces(text: str) -> list[_Piece]:
    found, place = list[_Piece](), 0
    while place < len(text):
        one = _TOKEN.match(text, place)
        if one is None:
            shown = text[place : place + 20].split("\n")[0]
            raise OptionError(f"the grammar is refused at {shown!r}", hint="See text_form.py")
        place = one.end()
        if one.lastgroup != "space":
            found.append(_Piece(one.lastgroup or "", one.group()))
    return found


def _definitions(pieces: list[_Piece]) -> dict[str, list[_Piece]]:
    """Return the right side of each name."""
    begins = [
        place
        for place in range(len(pieces) - 1)
        if pieces[place].kind == "name" and pieces[place + 1].text == ":"
    ]
    if not begins or begins[0]:
        raise OptionError("the grammar does not begin with a name and a colon")
    found = dict[str, list[_Piece]]()
    for begin, end in zip(begins, [*begins[1:], len(pieces)], strict=True):
        name = pieces[begin].text
        if name in found:
            raise OptionError(f"the grammar defines {name} twice")
        if name.upper() != name and name.lower() != name:
            raise OptionError(f"{name} of the grammar has small and capital letters")
        found[name] = pieces[begin + 2 : end]
    return found


class _Reader:
    """Reads one right side from left to right."""

    def __init__(self, pieces: list[_Piece], name: str) -> None:
        self.pieces, self.name, self.place = pieces, name, 0

    def peek(self) -> str:
        return self.pieces[self.place].text if self.place < len(self.pieces) else ""

    def take(self) -> _Piece:
        if self.place >= len(self.pieces):
            raise self.wrong("it ends too early")
        self.place += 1
        return self.pieces[self.place - 1]

    def wrong(self, why: str) -> OptionError:
        return OptionError(f"{self.name} of the grammar is refused: {why}")

    def close(self, sign: str) -> None:
        if self.take().text != sign:
            raise self.wrong(f"{sign} is missing")

    def finish(self) -> None:
        if self.place < len(self.pieces):
            raise self.wrong(f"unexpected {self.peek()!r}")

    def ends(self, *more: str) -> bool:
        return self.peek() in ("", "|", ")", "]", *more)


class _Terminals:
    """The expressions of terminals, by name."""

    def __init__(self, definitions: dict[str, list[_Piece]]) -> None:
        self.definitions = definitions
        self.known = dict[str, Expression]()
        self.open = list[str]()

    def of(self, name: str) -> Expression:
        """Return the expression of a name. Raises `OptionError`."""
        if name not in self.known:
            if name not in self.definitions:
                raise OptionError(f"the grammar does not define {name}")
            if name in self.open:
                raise OptionError(f"the terminal {name} uses itself", hint="Make it a rule")
            self.open.append(name)
            reader = _TerminalReader(self.definitions[name], name, self)
            self.known[name] = reader.alternatives()
            reader.finish()
            self.open.pop()
        return self.known[name]


def piece_expression(piece: _Piece) -> Expression:
    """Return the expression of a text or a regular expression."""
    if piece.kind == "text":
        try:
            return literal(str(json.loads(piece.text)))
        except ValueError:
            raise OptionError(f"the text {piece.text} of the grammar is not valid") from None
    return parse_regex(piece.text[1:-1].replace("\\/", "/"))


class _TerminalReader(_Reader):
    """Reads the right side of a terminal."""

    def __init__(self, pieces: list[_Piece], name: str, terminals: _Terminals) -> None:
        super().__init__(pieces, name)
        self.terminals = terminals

    def alternatives(self) -> Expression:
        found = [self.both()]
        while self.peek() == "|":
            self.place += 1
            found.append(self.both())
        return choice(found)

    def both(self) -> Expression:
        if self.peek() == "~":
            raise self.wrong("~ stands behind & only")
        found = self.sequence()
        while self.peek() == "&":
            self.place += 1
            refused = self.peek() == "~"
            self.place += refused
            other = self.sequence()
            found = Without(found, other) if refused else Both(found, other)
        return found

    def sequence(self) -> Expression:
        found = list[Expression]()
        while not self.ends("&"):
            part = self.atom()
            while self.peek() in _REPEATS:
                part = Repeat(part, *_REPEATS[self.take().text])
            found.append(part)
        return sequence(*found) if found else EMPTY

    def atom(self) -> Expression:
        piece = self.take()
        if piece.kind in ("text", "regex"):
            return piece_expression(piece)
        if piece.text in ("(", "["):
            found = self.alternatives()
            self.close(")" if piece.text == "(" else "]")
            return found if piece.text == "(" else Repeat(found, 0, 1)
        if piece.kind != "name" or not piece.text.isupper():
            raise self.wrong(f"unexpected {piece.text!r}")
        return self.terminals.of(piece.text)


class _RuleReader(_Reader):
    """Reads the right side of a rule."""

    def __init__(
        self,
        pieces: list[_Piece],
        name: str,
        rules: Rules,
        known: dict[str, Symbol],
        terminals: _Terminals,
    ) -> None:
        super().__init__(pieces, name)
        self.rules, self.known, self.terminals = rules, known, terminals

    def read(self, head: Symbol) -> None:
        """Add all alternatives to a nonterminal."""
        self.rules.add(head, self.sequence())
        while self.peek() == "|":
            self.place += 1
            self.rules.add(head, self.sequence())

    def sequence(self) -> list[Symbol]:
        found = list[Symbol]()
        while not self.ends():
            symbol = self.atom()
            while (sign := self.peek()) in _REPEATS:
                self.place += 1
                repeat = {"?": self.rules.optional, "*": self.rules.star, "+": self.rules.plus}
                symbol = repeat[sign](symbol)
            found.append(symbol)
        return found

    def atom(self) -> Symbol:
        piece = self.take()
        if piece.kind in ("text", "regex"):
            return self.rules.terminal(piece_expression(piece), piece.text)
        if piece.text in ("(", "["):
            inner = self.rules.new()
            self.read(inner)
            self.close(")" if piece.text == "(" else "]")
            return inner if piece.text == "(" else self.rules.optional(inner)
        if piece.kind != "name":
            raise self.wrong(f"unexpected {piece.text!r}")
        if piece.text.isupper():
            return self.rules.terminal(self.terminals.of(piece.text), piece.text)
        if piece.text not in self.known:
            raise self.wrong(f"{piece.text} is not defined")
        return self.known[piece.text]
