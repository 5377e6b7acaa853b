"""FoReaL-Decoding: who writes which token."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.core.types import Prompt
from outrider.drafters import NoDrafter
from outrider.guidance.recipe import Parts
from outrider.guidance.routing.foreal import Foreal
from outrider.guidance.routing.sentences import SentencePlace, SentencePlaces, pieces
from outrider.models.tabular import TabularModel
from outrider.protocols import LanguageModel
from outrider.testing.searches import LetterCodec
from tests.exactness.setups.rigs import outputs, run, stage

pytestmark = pytest.mark.method("foreal")

STRONG, WEAK = (TabularModel.random(vocab_size=7, order=2, seed=seed) for seed in (4, 5))
PROMPT = Prompt(token_ids=(1, 2))
STOP = 3


class Codec(LetterCodec):
    """Token 3 ends a sentence."""

    def encode(self, text: str) -> tuple[int, ...]:
        return (1,)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(" end." if i == STOP else " word" for i in ids)


def built(**options: Any) -> LanguageModel:
    recipe = Foreal(weak=WEAK, **options)
    return recipe.build(Parts(target=STRONG, models={"weak": WEAK}, codec=Codec()))


def text(model: LanguageModel, count: int = 40) -> tuple[int, ...]:
    [found] = outputs(run(stage(model, NoDrafter()), [PROMPT], max_new_tokens=count))
    return found


def by_hand(lead: int, count: int = 40) -> tuple[int, ...]:
    """Algorithm of the paper, share 1."""
    found: list[int] = []
    written = 0
    for _ in range(count):
        model = STRONG if written < lead else WEAK
        token = int(model.logits_after([*PROMPT.token_ids, *found]).argmax())
        found.append(token)
        written = 0 if token == STOP else written + 1
    return tuple(found)


@pytest.mark.parametrize("lead", [1, 2, 3])
def test_the_strong_model_writes_the_first_tokens_of_each_sentence(lead: int) -> None:
    found = text(built(lead=lead, longest=1000))
    assert found == by_hand(lead)
    assert len({text(STRONG), text(WEAK), found}) == 3


def test_a_lead_without_end_is_the_strong_model_and_a_share_of_zero_the_weak_one() -> None:
    assert text(built(lead=10**6)) == text(STRONG)
    assert text(built(share=0.0, lead=3)) == text(WEAK)
    assert text(built(lead=0)) == text(WEAK)


def test_strong_tokens_are_at_most_the_lead_for_each_sentence() -> None:
    lead, reads = 2, 0

    class Counted(TabularModel):
        def forward(self, segments: Any, want: Any) -> Any:
            nonlocal reads
            reads += sum(map(len, want))
            return super().forward(segments, want)

    strong = Counted(STRONG.table)
    recipe = Foreal(weak=WEAK, lead=lead)
    model = recipe.build(Parts(target=strong, models={"weak": WEAK}, codec=Codec()))
    found = text(model)
    assert 0 < reads <= lead * (found.count(STOP) + 1) < len(found)


def test_the_gate_is_a_function_of_the_seed_and_follows_the_share() -> None:
    texts = [text(built(lead=1, share=0.5, seed=seed)) for seed in (1, 1, 2, 3, 4)]
    assert texts[0] == texts[1] and len(set(texts)) > 1
    model = built(lead=1, share=0.3).mixer  # type: ignore[attr-defined]
    sentences = [tuple([STOP] * n) for n in range(400)]
    led = sum(model._leads(one) for one in sentences)
    assert 0.22 < led / 400 < 0.38


def test_a_weak_run_is_no_longer_than_its_limit() -> None:
    places_of = SentencePlaces(pieces(Codec()), longest=5)
    places = [places_of.after((1,) * n) for n in range(11)]
    assert [place.written for place in places] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]
    assert places[-1].sentence == 2


@pytest.mark.parametrize(
    ("parts", "sentences"),
    [
        (["It is", " 3.", "14", " now."], 1),
        (["See", " page", " 7.", " Then"], 1),
        (["He said", ' "no."', " Then"], 1),
        (["Why", "?", " So", "!", " Yes", "..."], 3),
        (["Wait", ".", ".", "."], 1),
        (["a", "\n", "b", "\n\n"], 2),
        (["```", "py", "\n", "a.b()", "\n", "```", "\n"], 1),
        (["Let $x", " = 1.", " y$", " be", "."], 1),
        (["It costs $5", " now", "\n", "So", "."], 2),
    ],
)
def test_where_sentences_end(parts: list[str], sentences: int) -> None:
    place = SentencePlace()
    for part in parts:
        place = place.after(part, 1000)
    assert place.sentence == sentences


@given(st.lists(st.integers(0, 6), max_size=30), st.randoms())
def test_places_do_not_depend_on_what_was_asked_before(tokens: list[int], order: Any) -> None:
    ends = list(range(len(tokens) + 1))
    shared = SentencePlaces(pieces(Codec()), longest=9)
    order.shuffle(ends)
    for end in ends:
        fresh = SentencePlaces(pieces(Codec()), longest=9).after(tuple(tokens[:end]))
        assert shared.after(tuple(tokens[:end])) == fresh


def test_it_needs_a_tokenizer_and_valid_options() -> None:
    with pytest.raises(OptionError, match="looks for the ends of sentences"):
        Foreal(weak=WEAK).build(Parts(target=STRONG, models={"weak": WEAK}))
    for options in ({"lead": -1}, {"share": 1.5}, {"longest": 0}):
        with pytest.raises(OptionError):
            Foreal(weak=WEAK, **options)
