"""A gate: free text, and a part of it that follows a grammar."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.constraints.gates import GateGrammar, TokenBytes
from outrider.constraints.grammars import Grammars
from outrider.constraints.validation import validated
from outrider.core.errors import GrammarError, OptionError
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.sampling.constraint import Constraint, Gate
from outrider.sampling.walk import Allowed, Walk
from tests.constraints.test_walk import generator, grammars
from tests.exactness.setups.rigs import (
    PROMPTS,
    SAMPLINGS,
    outputs,
    run,
    stage,
    tabular_family,
    undrafted,
)
from tests.exactness.setups.roster import roster
from tests.matrix import matrix

TEXTS = (b"", b"a", b"b", b"<", b">", b"<>a", b"b<")
"""The tokens of the tabular models; token 0 ends a text."""
WORDS = TokenBytes(TEXTS, (), (0,))


@dataclass
class Finite:
    """A grammar of a few texts."""

    texts: tuple[bytes, ...]

    def begin(self) -> "FiniteMatcher":
        return FiniteMatcher(self)


@dataclass
class FiniteMatcher:
    grammar: Finite
    read: list[int] = field(default_factory=list[int])

    def _begins(self, tokens: Sequence[int]) -> bool:
        text = b"".join(TEXTS[t] for t in (*self.read, *tokens))
        return 0 not in tokens and any(one.startswith(text) for one in self.grammar.texts)

    @property
    def accepting(self) -> bool:
        return b"".join(TEXTS[t] for t in self.read) in self.grammar.texts

    def admits(self, tokens: Sequence[int]) -> int:
        sizes = range(len(tokens), -1, -1)
        return next(n for n in sizes if self._begins(tokens[:n]))

    def advance(self, tokens: Sequence[int]) -> int:
        count = self.admits(tokens)
        self.read += tokens[:count]
        return count

    def retreat(self, count: int) -> None:
        assert count <= len(self.read)
        del self.read[len(self.read) - count :]

    def allowed(self) -> Allowed:
        return np.array([self.admits([t]) == 1 for t in range(len(TEXTS))])

    def forced(self) -> list[int]:
        fitting = np.flatnonzero(self.allowed())
        return [] if self.accepting or len(fitting) != 1 else [int(fitting[0])]

    def fork(self) -> "FiniteMatcher":
        return replace(self, read=list(self.read))


ENDLESS = (b"ab", b"ba", b"aab<b")
GRAMMARS = {
    "to the end": GateGrammar(Finite(ENDLESS), Gate(open="<>"), WORDS),
    "required": GateGrammar(Finite(ENDLESS), Gate(open="<", required=True), WORDS),
    "once": GateGrammar(Finite((b"aa>", b"b>")), Gate(open="<>", close=">"), WORDS),
    "repeat": GateGrammar(
        Finite((b"a>", b"b<b>", b"ab>")), Gate(open="<>", close=">", repeat=True), WORDS
    ),
}


def read(grammar: GateGrammar, tokens: Sequence[int]) -> bool | None:
    """The definition: whether a text may end here; None if it is not allowed."""
    gate, inner = grammar.gate, grammar.inner
    assert isinstance(inner, Finite)
    mark, free, inside, opened = gate.open.encode(), b"", None, False
    for token in tokens:
        if token == 0:
            return None
        if inside is None:
            free += TEXTS[token]
            _, found, rest = free.partition(mark)
            if not found or (opened and not gate.repeat):
                continue
            inside, opened = rest, True
        else:
            inside += TEXTS[token]
        if not any(text.startswith(inside) for text in inner.texts):
            return None
        if gate.close is not None and inside in inner.texts:
            free, inside = b"", None
    if inside is not None:
        return gate.close is None and inside in inner.texts
    return opened or not gate.required


@pytest.mark.parametrize("name", GRAMMARS)
def test_the_language_is_as_defined(name: str) -> None:
    """All texts of up to four tokens."""
    grammar = GRAMMARS[name]
    for size in range(5):
        for tokens in product(range(1, len(TEXTS)), repeat=size):
            matcher, wanted = grammar.begin(), read(grammar, tokens)
            whole = matcher.advance(tokens) == len(tokens)
            assert whole == (wanted is not None), tokens
            if whole:
                assert matcher.accepting == wanted
                fitting = [read(grammar, (*tokens, t)) is not None for t in range(len(TEXTS))]
                assert matcher.allowed().tolist() == fitting, tokens


@pytest.mark.parametrize("name", GRAMMARS)
@given(texts=st.lists(st.lists(st.integers(0, 6), max_size=9), max_size=8))
def test_a_moved_matcher_is_a_new_one(name: str, texts: list[list[int]]) -> None:
    grammar = GRAMMARS[name]
    walk = Walk(grammar.begin())
    for text in texts:
        new = Walk(grammar.begin())
        ours, theirs = walk.after(text), new.after(text)
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert ours.tokens.tolist() == theirs.tokens.tolist()
            assert (ours.accepting, ours.single) == (theirs.accepting, theirs.single)
        assert walk.forced(text) == Walk(grammar.begin()).forced(text)
        assert walk.admits(text, [3, 4, 1]) == Walk(grammar.begin()).admits(text, [3, 4, 1])
        walk = walk.fork()


@dataclass
class Limited(Finite):
    """A grammar whose engine reaches a limit behind the letter b."""

    def begin(self) -> "LimitedMatcher":
        return LimitedMatcher(self)


class LimitedMatcher(FiniteMatcher):
    def advance(self, tokens: Sequence[int]) -> int:
        if 2 in self.read:
            raise GrammarError("the grammar cannot be followed")
        return super().advance(tokens)


def test_a_draft_that_fails_does_not_move_the_walk() -> None:
    """Part of the draft was read when the grammar fails; the text before is as it was."""
    grammar = GateGrammar(Limited((b"aba", b"baa")), Gate(open="<>"), WORDS)
    walk = Walk(grammar.begin())
    for text, draft in (([1, 3], [4, 1, 2, 1]), ([1], [3, 4, 1, 2, 1]), ([3, 4], [1, 2, 1])):
        for ask in (partial(walk.admits, text, draft), partial(walk.after, [*text, *draft])):
            with pytest.raises(GrammarError):
                ask()
            ours, new = walk.after(text), Walk(grammar.begin()).after(text)
            assert ours is not None and new is not None
            assert ours.tokens.tolist() == new.tokens.tolist()
            assert ours.accepting == new.accepting


def test_free_text_costs_no_mask() -> None:
    """One array for all places where no token can complete the opening text wrongly."""
    matcher = GRAMMARS["to the end"].begin()
    first = matcher.allowed()
    assert first.tolist() == [False, *[True] * 6]
    matcher.advance([1, 2, 4, 3, 2])
    assert matcher.allowed() is first


FAMILY = tabular_family()
ROSTER = roster(FAMILY)


@pytest.mark.parametrize("name", ["repeat", "required"])
@pytest.mark.parametrize(("drafter", "sampling"), matrix(ROSTER, ("greedy", "t0.7", "top_p")))
def test_drafted_equals_undrafted(drafter: str, sampling: str, name: str) -> None:
    options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 20, "end_ids": (0,)}
    options["grammar"] = GRAMMARS[name]
    whole = stage(FAMILY.target, ROSTER[drafter]())
    plain = run(undrafted(whole), PROMPTS, **options)
    assert outputs(run(whole, PROMPTS, **options)) == outputs(plain)
    assert any(g.output.count(3) for g in plain)


# -- with the engine --------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
PIECES = ("Hello ", "<", "</", "</think", ">", "</think>", '</think>{"', '{"a"', ": 1", "}", "\n")
GATES = {
    "rest": Gate(open="</think>", required=True),
    "part": Gate(open="<", close="<|end|>", repeat=True),
    "word": Gate(open=" the", close=">", repeat=True),
}


@cache
def tokenizer() -> Tokenizer:
    found = generator().tokenizer
    assert isinstance(found, Tokenizer)
    return found


@pytest.mark.parametrize("name", GATES)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=8), cuts=st.lists(st.integers(0, 20)))
def test_matchers_of_the_engine(name: str, pieces: list[str], cuts: list[int]) -> None:
    """Any tokens, and moves back: masks are those of a new matcher, and say what is admitted."""
    grammar = grammars().of(Constraint.json_schema(SCHEMA).within(GATES[name]))
    ids = list(tokenizer().encode_plain("".join(pieces)))
    walk = Walk(grammar.begin())
    for cut in (len(ids), *cuts, len(ids)):
        options, new = walk.after(ids[:cut]), grammar.begin()
        whole = new.advance(ids[:cut])
        assert (options is not None) == (whole == len(ids[:cut]))
        if options is not None:
            assert options.tokens.tolist() == new.allowed().tolist()
            assert options.accepting == new.accepting
            for token in ids[cut : cut + 1]:
                assert options.tokens[token] == (new.admits([token]) == 1)


def tokens_of(text: str) -> list[int]:
    return list(tokenizer().encode_plain(text))


def reads(constraint: Constraint, text: str) -> bool | None:
    """Whether a text may end; None if it is not allowed."""
    matcher, ids = grammars().of(constraint).begin(), tokens_of(text)
    return matcher.accepting if matcher.advance(ids) == len(ids) else None


def test_a_constrained_answer_after_reasoning() -> None:
    constraint = Constraint.json_schema(SCHEMA).within(Gate(open="</think>", required=True))
    assert reads(constraint, "I think {") is False
    assert reads(constraint, 'so.</think>{"a": 1}') is True
    assert reads(constraint, 'so.</think>{"a"') is False
    assert reads(constraint, 'so.</think>{"a": 1}x') is None
    assert reads(constraint, "so.</think>Hello") is None
    may = Constraint.json_schema(SCHEMA).within(Gate(open="</think>"))
    assert reads(may, "I think {") is True


def test_a_constrained_part_ends_with_its_mark() -> None:
    """The mark may be the text of a special token, which is one token then."""
    for mark in ("</call>", "<|user|>"):
        gate = Gate(open="<call>", close=mark, repeat=True)
        constraint = Constraint.regex("[0-9]+").within(gate)
        assert reads(constraint, f"a <call>12{mark} b") is True
        assert reads(constraint, f"a <call>12{mark}<call>3{mark}") is True
        assert reads(constraint, "a <call>12") is False
        assert reads(constraint, f"a <call>12{mark}<call>x") is None
        once = constraint.within(replace(gate, repeat=False))
        assert reads(once, f"a <call>12{mark}<call>x") is True


def test_bytes_behind_the_opening_text_are_read_by_the_grammar() -> None:
    """Each token that holds the last byte of the opening text and more is allowed exactly if the
    grammar begins with the rest."""
    grammar = grammars().of(Constraint.regex("[a-e]+").within(Gate(open="+th", required=True)))
    matcher, own = grammar.begin(), TokenBytes(token_bytes(grammars()), (), ())
    matcher.advance(tokens_of("1+"))
    allowed = matcher.allowed()
    behind = [t for t in own.beginning_with(b"th") if own.texts[t] != b"th"]
    assert any(allowed[t] for t in behind) and not all(allowed[t] for t in behind)
    for token in behind:
        assert allowed[token] == (set(own.texts[token][2:]) <= set(b"abcde"))


def test_a_byte_of_no_text_ends_the_opening_text() -> None:
    """The byte 255 is a token of vocabularies of bytes, and llguidance gives it no bytes."""
    grammar = grammars().of(Constraint.regex("[0-9]+").within(Gate(open="<call>")))
    odd = token_bytes(grammars()).index(b"\xff")
    for between, free in (([odd], True), ([], False)):
        matcher = grammar.begin()
        ids = [*tokens_of("<ca"), *between, *tokens_of("ll>")]
        assert matcher.advance(ids) == len(ids)
        assert (matcher.admits(tokens_of("x")) == 1) == free


def test_bytes_of_tokens_are_those_of_their_texts() -> None:
    """Also of tokens that are parts of a character."""
    known = token_bytes(grammars())
    for text in ("Hello  you,\n\n\t1,000 {x}", "Köln 東京 🙂", "<|user|>"):
        assert b"".join(known[token] for token in tokenizer().encode(text)) == text.encode()


def token_bytes(known: Grammars) -> tuple[bytes, ...]:
    return known._token_bytes().texts  # pyright: ignore[reportPrivateUsage]


def test_texts_are_spelled_by_other_tokens() -> None:
    assert WORDS.spelled(b"ab<>aa") == [1, 6, 4, 1, 1]
    assert WORDS.spelled(b"ax") is None
    assert set(WORDS.beginning_with(b"<")) == {3, 5} and set(WORDS.holding(b"<")) == {3, 5, 6}


def test_what_is_only_coerced_is_checked_between_the_marks() -> None:
    gate = Gate(open="<call>", close="</call>", repeat=True)
    loose = Constraint.json_schema({"type": "integer"}, unsupported="lenient").within(gate)
    assert validated(loose, "x <call>1</call> <call>2</call> y") is True
    assert validated(loose, 'x <call>1</call> <call>"b"</call>') is False
    assert validated(loose, "no call") is None


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"open": ""}, "open of the gate is ''"),
        ({"open": "<", "close": ""}, "close of the gate"),
        ({"open": "<", "repeat": True}, "has no close"),
    ],
)
def test_wrong_gates(given_: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Gate(**given_)
