"""The pure parts of the benchmarks of long inputs: what is needed when, and how it is counted."""

import random
from typing import Any

import numpy as np
import pytest
from benchmarks.long_inputs.context_ablation import parsed, read_again
from benchmarks.long_inputs.inputs.babi import needed_facts
from benchmarks.long_inputs.inputs.known_tasks import (
    case_of,
    copied,
    line_with,
    lines_in_order,
    turned_keys,
    without_lines,
)
from benchmarks.long_inputs.inputs.needs import (
    Case,
    Need,
    Want,
    chunks_of,
    delay,
    judge,
    length_needed,
    need_of,
)
from benchmarks.long_inputs.inputs.planted import cases, people, plant
from benchmarks.long_inputs.selecting import begun, write

from outrider.context.config import ContextConfig
from outrider.context.rankers.cosine import CosineRanker
from outrider.context.rankers.first import first
from outrider.context.selection import Decision
from tests.bench.long_input_rigs import Words, context, passages

FACTS = (
    "Mary moved to the office.",
    "Mary got the football there.",
    "John went to the garden.",
    "Mary travelled to the kitchen.",
    "Mary dropped the football.",
    "John journeyed to the kitchen.",
    "John picked up the football there.",
    "John went back to the bedroom.",
    "John gave the football to Mary.",
)


def case(written: str, *wants: Want) -> Case:
    return Case(name="x", task="t", document="x", text="", asked="", written=written, wants=wants)


# -- which chunks, and when --------------------------------------------------------------------


def test_spans_are_in_the_chunks_that_hold_their_characters():
    chunks = passages("abcd", "efg", "hijkl")
    assert chunks_of([(0, 4)], chunks) == {0}
    assert chunks_of([(3, 5)], chunks) == {0, 1}
    assert chunks_of([(4, 7), (11, 12)], chunks) == {1, 2}
    assert chunks_of([(0, 12)], chunks) == {0, 1, 2}
    assert chunks_of([], chunks) == frozenset()


def test_a_stated_need_holds_from_the_first_choice_to_the_end_of_the_answer():
    chunks = passages("abcd", "efg")
    want = Want(spans=((0, 1),), begin=0, end=21)
    assert need_of(want, chunks, lambda at: at, 10) == Need(frozenset({0}), 0, 2)
    assert need_of(want, chunks, lambda at: at, 0) == Need(frozenset({0}), 0, 0)
    short = Want(spans=((0, 1),), begin=0, end=10)
    assert need_of(short, chunks, lambda at: at, 10).last == 0  # tokens 0 to 9: no look yet


def test_a_turn_has_its_looks_first():
    chunks = passages("abcd", "efg")
    want = Want(spans=((5, 6),), begin=14, end=30, decisions=2)
    # Written from token 14 on, after look 1; looks 2 and 3 are what it has.
    assert need_of(want, chunks, lambda at: at, 10) == Need(frozenset({1}), 3, 3)
    assert length_needed(case("", want), lambda at: at, 10) == 30
    assert length_needed(case("", Want(spans=(), end=7)), lambda at: at, 10) == 7


def test_a_need_is_met_only_if_all_its_chunks_are_read_all_the_time():
    needs = [Need(frozenset({1, 2}), 0, 1), Need(frozenset({3}), 2, 2)]
    assert judge(needs, [(1, 2), (1, 2), (2, 3)]) == (True, 1.0)
    assert judge(needs, [(1, 2), (2,), (3,)]) == (False, 2 / 3)
    assert judge(needs, [(1, 2), (1, 2)]) == (False, 2 / 3)  # what was read last stays
    assert judge([], [()]) == (True, 1.0)


def test_the_delay_is_counted_from_the_turn():
    need = Need(frozenset({4}), 3, 3)
    assert delay(need, 1, [(0,), (0,), (0,), (4,)]) == 2
    assert delay(need, 1, [(0,), (4,)]) == 0
    assert delay(need, 1, [(4,), (0,), (0,)]) is None


# -- known tasks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "answer", "facts"),
    [
        ("Where is John?", "bedroom", (7,)),
        ("Is Mary in the kitchen?", "yes", (3,)),
        ("Is John in the kitchen?", "no", (7,)),
        ("Where is the football?", "kitchen", (3, 8)),
        ("Where was the football before the bedroom?", "kitchen", (5, 6, 7)),
        ("Where was the football before the kitchen?", "bedroom", (3, 6, 7, 8)),
        ("What is Mary carrying?", "football", (1, 4, 8)),
        ("How many objects is John carrying?", None, (6, 8)),
    ],
)
def test_the_facts_an_answer_rests_on(question: str, answer: str | None, facts: tuple[int, ...]):
    assert needed_facts(FACTS, question) == (answer, facts)


def test_questions_that_a_story_does_not_answer_are_refused():
    for question in ("Where is Sandra?", "Why did Mary go?"):
        with pytest.raises(ValueError, match=r"answer|no rule"):
            needed_facts(FACTS, question)


def test_lines_are_found_in_order_and_as_whole_paragraphs():
    text = "A went.\n\nSaid A went. And so.\n\nB ran.\n\nA went."
    assert [text[a:b] for a, b in lines_in_order(text, ["A went.", "B ran.", "A went."])] == [
        "A went.",
        "B ran.",
        "A went.",
    ]
    assert lines_in_order(text, ["B ran.", "A went."])[1] == (len(text) - 7, len(text))
    with pytest.raises(ValueError, match="no line"):
        lines_in_order(text, ["B ran.", "B ran."])


def test_a_line_must_be_in_one_place():
    text = "One.\nVAR X = 5\nVAR Y = 5"
    assert text[slice(*line_with(text, "VAR X"))] == "VAR X = 5"
    assert text[slice(*line_with(text, "VAR Y"))] == "VAR Y = 5"
    with pytest.raises(ValueError, match="just one place"):
        line_with(text, "VAR ")


def test_each_sentence_of_a_copy_is_needed_while_it_is_written():
    text = "Before. This is one. That is two! After."
    wants = copied(text, "This is one. That is two!")
    assert [text[slice(*want.spans[0])].strip() for want in wants] == [
        "This is one.",
        "That is two!",
    ]
    assert wants[0].begin == 0 and wants[0].end == wants[1].begin and wants[1].end == 25


MULTIKEY: dict[str, Any] = {
    "id": "m-1",
    "task": "niah_multikey",
    "context": "So.\n\nThe magic number of the old bell is 12.\n\nYes.\n\n"
    "The magic number of the red hat is 34.\n\nNo.",
    "question": "What is the magic number of the red hat?",
    "answers": ["34"],
}


def test_items_become_cases_and_turn_to_another_key():
    found = case_of(MULTIKEY)
    assert found.text[slice(*found.wants[0].spans[0])].endswith("red hat is 34.")
    assert found.written == "34" and found.wants[0].decisions == 0
    turned = turned_keys(MULTIKEY, lambda name: f"Now {name}.")
    assert turned is not None and turned.written.endswith("is 34. Now the old bell.")
    [want] = turned.wants
    assert turned.text[slice(*want.spans[0])] == "The magic number of the old bell is 12."
    assert turned.written[want.begin :] == "Now the old bell." and want.decisions == 2
    assert without_lines(MULTIKEY["context"]) == "So.\n\nYes.\n\nNo."


# -- own documents -----------------------------------------------------------------------------


def test_lines_are_planted_as_paragraphs_and_nothing_is_lost():
    haystack = "\n\n".join(f"Paragraph {i} says little." for i in range(40))
    lines = [f"Line {i}." for i in range(6)]
    text, spans = plant(haystack, lines, random.Random(3))
    assert [text[a:b] for a, b in spans] == lines
    assert len(text) == len(haystack) + sum(len(line) + 2 for line in lines)
    for a, b in spans:
        assert text[a - 2 : a] == "\n\n" and text[b : b + 2] in ("\n\n", "")
    bare = text
    for line in lines:
        bare = bare.replace(f"\n\n{line}", "")
    assert bare == haystack


def test_places_are_spread_over_the_whole_text():
    haystack = "\n\n".join("x" * 50 for _ in range(100))
    depths = [plant(haystack, ["y"], random.Random(seed))[1][0][0] for seed in range(300)]
    shares = np.array(depths) / len(haystack)
    assert shares.min() < 0.05 and shares.max() > 0.95 and abs(shares.mean() - 0.5) < 0.06


def test_the_cases_of_a_document():
    haystack = "\n\n".join(f"Paragraph {i} says little." for i in range(40))
    found = {one.task: one for one in cases("d", haystack, 5)}
    assert list(found) == ["own_single", "own_multi", "turn_named", "turn_generic"]
    assert len({one.text for one in found.values()}) == 1
    assert len(found["own_multi"].wants[0].spans) == 4
    for task in ("turn_named", "turn_generic"):
        one = found[task]
        [want] = one.wants
        line = one.text[slice(*want.spans[0])]
        name = line.partition(",")[0]
        assert name not in one.asked and name not in one.written[: want.begin]
        assert name in one.written[want.begin : want.begin + 80]
        assert line.split(" keeps ")[1] not in one.written  # the fact itself is not given away
    again = {one.task: one for one in cases("d", haystack, 5)}
    assert again == found
    assert len({person.name for person in people(7, random.Random(1))}) == 7


def test_a_paragraph_of_the_document_is_copied_if_there_is_one():
    long = " ".join(f"Word{i} is said. So." for i in range(25))
    haystack = "\n\n".join(["Short."] * 9 + [long] + ["Short."] * 9)
    found = {one.task: one for one in cases("d", haystack, 5)}
    copy = found["own_copy"]
    assert copy.written == long and '"Word0 is said. So. Word1 is said. So."' in copy.asked
    assert "".join(copy.text[slice(*want.spans[0])] for want in copy.wants) == long
    others = {one.task: one for one in cases("d", haystack.replace(long, "Short."), 5)}
    assert "own_copy" not in others and others["turn_named"].written == found["turn_named"].written


# -- selections --------------------------------------------------------------------------------


def test_what_is_written_moves_the_selection():
    own = context("a a", "b b", "c c", "d d")
    config = ContextConfig(keep_ratio=0.25, refresh=4, query_mix=0.2, pin_ends=False)
    ranker = CosineRanker(Words(), window=None)
    decisions = write(begun(own, ranker, config), list(map(ord, "a a c c ")))
    assert [decision.generated for decision in decisions] == [0, 4, 8]
    assert decisions[0].chosen == (0,) and len(decisions[-1].chosen) == 1
    more = write(begun(own, ranker, config), list(map(ord, " c c" * 3)))
    assert more[-1].chosen == (2,)
    still = write(begun(own, first(), config), list(map(ord, " c c" * 3)))
    assert {decision.chosen for decision in still} == {(0,)}


def test_tokens_read_again_by_each_way_to_recompute():
    own = context("aaaa", "bbbb", "cccc", "dddd")
    scores = np.zeros(4)
    decisions = [
        Decision(0, scores, (0, 2), (), (0, 2)),
        Decision(8, scores, (1,), (0,), (1, 2)),
        Decision(16, scores, (), (), (1, 2)),
    ]
    suffix = read_again(own, decisions, ContextConfig(recompute="suffix"))
    assert suffix == 4 + 4 + 8  # the new chunk, the one after it, what was written
    assert read_again(own, decisions, ContextConfig(recompute="new_only")) == 4
    partial = ContextConfig(recompute="partial", recompute_share=0.25)
    assert read_again(own, decisions, partial) == 4 + 3
    assert read_again(own, decisions[1:], ContextConfig()) == 0


def test_settings_are_read_from_a_line():
    assert parsed("chunk_size=128,hysteresis=0.05") == {"chunk_size": 128, "hysteresis": 0.05}
    assert parsed("") == {}
    with pytest.raises(ValueError, match="not one of"):
        parsed("chunks=3")
