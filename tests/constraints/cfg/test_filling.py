"""Answers of tokens that are filled in any order."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.constraints.cfg.completion import shortest_fill
from outrider.constraints.cfg.emptiness import completable
from outrider.constraints.cfg.filling import GrammarFilling, checker_of, grammar_of
from outrider.constraints.cfg.pattern import Pattern
from outrider.constraints.cfg.text_form import read_grammar
from outrider.constraints.cfg.vocabulary import Vocabulary
from outrider.core.errors import OptionError
from outrider.sampling.constraint import Constraint, Gate
from tests.constraints.cfg.brute import random_grammar
from tests.constraints.cfg.vocabularies import BYTES, END, MASK, SPECIAL, masked, text_of

NESTED = read_grammar('start: "(" start ")" start | "x" | ""')


def filling(grammar: str | None = None, *, closed: bool = True) -> GrammarFilling:
    return GrammarFilling(NESTED if grammar is None else read_grammar(grammar), BYTES, MASK, closed)


@pytest.mark.parametrize(
    ("answer", "allowed"),
    [
        (masked(3), True),
        (masked(b"(", 1), True),
        (masked(b"("), False),
        (masked(b"(", 1, b"x"), True),
        (masked(b")", 2), False),
        (masked(1, b")", 1), True),
        ([*masked(b"(x)"), END], True),
        ([*masked(b"(x"), END, *masked(b")")], False),
        ([*masked(b"(x)"), END, *masked(b")))")], True),  # what follows the end is ignored
        ([*masked(b"(x)"), END, SPECIAL, MASK, END], True),
        ([*masked(b"(x", 1), END], True),
        ([*masked(1, b"(x"), END], False),
        ([END], True),
        ([MASK, END, *masked(b"(")], True),
        ([*masked(b"(x)"), SPECIAL], False),
        ([SPECIAL, *masked(2)], False),
        ([], True),
    ],
)
def test_which_answers_are_allowed(answer: list[int], allowed: bool) -> None:
    one = filling()
    for _ in range(2):  # the second one is known
        assert one.allows(answer) == allowed
        assert one.allows(np.asarray(answer, dtype=np.int64)) == allowed
    found = one.complete(answer)
    assert (found is not None) == allowed


def test_an_open_answer_may_go_on_behind_its_end() -> None:
    one = filling(closed=False)
    assert one.allows(masked(b"((")) and not one.allows([*masked(b"(("), END])
    found = one.complete(masked(b"(("))
    assert found is not None and found.tolist() == [*masked(b"(("), *masked(b"))")]
    assert not one.allows(masked(b")"))


def test_completions_keep_tokens_and_end() -> None:
    one = filling('start: "{" NAME ":" ("true" | "12") "}"\nNAME: /"name"/')
    answer = masked(b"{", 9, b"}", 2)
    found = one.complete(answer)
    assert found is not None
    assert found.dtype == np.int64
    name = BYTES.tokens[b'"name']
    assert found.tolist()[:4] == [ord("{"), name, BYTES.tokens[b'":'], BYTES.tokens[b"12"]]
    assert found.tolist()[4:] == [ord("}"), END]
    short = one.complete(masked(1, b"}"))
    assert short is not None and text_of(short.tolist()) == b'{"name":12}' and len(short) == 5
    given = [ord("{"), MASK, BYTES.tokens[b"true"], ord("}"), END, 65, MASK]
    kept = one.complete(given)
    assert kept is not None and text_of(kept.tolist()) == b'{"name":true}'
    assert kept.tolist()[-1] == END and len(kept) == 6
    exact = one.complete([ord("{"), MASK, MASK, MASK, ord("}")])
    assert exact is not None and exact.tolist() == [*found.tolist()[:4], ord("}")]
    marked = one.complete([ord("{"), MASK, ord("}"), END])
    assert marked is not None and marked.tolist() == [*exact.tolist(), END]


def test_a_text_without_tokens_is_not_completed() -> None:
    few = Vocabulary(lambda token: (b"a", b"")[token], 2)
    one = GrammarFilling(read_grammar('start: "ab"'), few, 2)
    assert one.allows([0, 2]) and one.complete([0, 2]) is None
    assert not one.allows([1, 2])
    blocks = GrammarFilling(read_grammar('start: "ab"'), few, 2, closed=False)
    assert blocks.allows([0]) and blocks.complete([0]) is None


def test_a_text_is_written_with_the_fewest_tokens() -> None:
    texts = [b"a", b"b", b"c", b"ab", b"bcc", b"abc", b"cc", b"ab"]
    one = Vocabulary(texts.__getitem__, len(texts), frozenset((2,)))
    assert one.spelled(b"") == []
    assert one.spelled(b"abcc") == [3, 6]  # behind the longest token, none spells the rest
    assert one.spelled(b"abab") == [3, 3]  # the first of equal texts
    assert one.spelled(b"abcab") == [5, 3]
    assert one.spelled(b"c") is None  # an end token spells nothing
    assert one.spelled(b"ax") is None


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_the_completions_are_never_empty_after_a_commit(seed: int, length: int) -> None:
    """Random tokens at random places, as a sampler proposes them: what is refused stays open."""
    rng = random.Random(seed)
    small = random_grammar(rng)
    one = GrammarFilling(small.grammar, BYTES, MASK)
    answer, places = [MASK] * length, list(range(length))
    rng.shuffle(places)
    tokens = [ord("a"), ord("b"), BYTES.tokens[b"ab"], END]
    for place in places:
        for token in rng.sample(tokens, len(tokens)):
            asked = [*answer]
            asked[place] = token
            if one.allows(asked):
                answer = asked
                break
        found = one.complete(answer)
        assert found is not None, (small.text, answer)
        text = text_of(found.tolist())
        assert completable(small.grammar, Pattern(text)), (small.text, text)
        kept = one.pattern(answer)
        assert kept is not None and completable(read_grammar(f"start: /{text.decode()}/"), kept)
    if MASK not in answer:
        assert completable(small.grammar, Pattern(text_of(answer)))


@given(st.lists(st.integers(0, MASK).filter(lambda token: token != SPECIAL), max_size=20))
def test_the_grammar_of_all_texts_allows_everything(answer: list[int]) -> None:
    every = filling("start: BYTE*\nBYTE: /[^a]|a/")
    known = text_of([token for token in answer if token != MASK])
    try:
        known.decode()
    except UnicodeDecodeError:
        return  # gaps may hold what is missing, or not
    assert every.allows(answer)


def test_one_byte_at_a_time() -> None:
    """A text is allowed as a prefix exactly if some word begins with it."""
    checker = checker_of(NESTED)
    assert checker.ok(b"((x") and not checker.ok(b"())") and not checker.ok(b"xx")
    assert checker.complete(b"(x)") and not checker.complete(b"(x")


def test_grammars_of_constraints() -> None:
    regex = grammar_of(Constraint.regex("a+b"))
    assert completable(regex, Pattern.of([b"", b"ab"])) and not completable(regex, Pattern(b"b"))
    choice = grammar_of(Constraint.choice(["yes", "no", 'a "b"']))
    quote = Pattern.of([b"", b'"', b""])
    assert quote.filled(shortest_fill(choice, quote) or {}) == b'a "b"'
    schema = grammar_of(Constraint.json_schema({"const": 1}))
    assert completable(schema, Pattern(b"1")) and not completable(schema, Pattern(b"2"))


@pytest.mark.parametrize(
    ("constraint", "why"),
    [
        (Constraint(kind="gbnf", source='root ::= "a"'), "GBNF"),
        (Constraint.regex("a").within(Gate(open="<")), "gate"),
        (Constraint.regex("a" * 300_000), "bytes"),
        (Constraint.json_schema({"type": "string", "pattern": "a"}), "'pattern'"),
    ],
)
def test_what_is_not_read_is_refused(constraint: Constraint, why: str) -> None:
    with pytest.raises(OptionError, match=why):
        grammar_of(constraint)
