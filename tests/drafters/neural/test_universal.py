"""Drafts of a model with another vocabulary: the text is the target's, and the model always reads
the text as it is."""

import itertools
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.acceptance import Fuzzy
from outrider.core.errors import OptionError, StrategyError
from outrider.core.types import NO_IDS, Budget, IntArray, Prompt, ReadingRows, as_ids
from outrider.decoding import Session
from outrider.drafters import Fallback, Lookup, Universal
from outrider.drafters.given import Given
from outrider.drafters.neural.universal import METHOD, UniversalState
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.tabular import TabularModel
from outrider.policies import FixedLength
from outrider.protocols import Request
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import Strategy
from outrider.testing import check_drafter
from tests.drafters.neural.foreign_rigs import (
    CORPUS,
    byte_level,
    foreign,
    letters,
    pair_model,
    paired,
    pairs,
)
from tests.exactness.setups.rigs import (
    finish,
    generation,
    outputs,
    run,
    stage,
    tabular_family,
    undrafted,
)

pytestmark = pytest.mark.method("universal")
FAMILY = tabular_family()


def test_the_contract() -> None:
    """Texts for all samplings, batches, samples, turns, tails below a qualifier, and the
    distribution under a rule that reads probabilities."""
    report = check_drafter(paired)
    assert report.accepted > 20
    assert report.distribution is not None


def test_in_a_combination() -> None:
    copies = Fallback(first=Lookup(min_ngram=2), second=paired(FAMILY))
    whole = stage(FAMILY.target, copies)
    options: dict[str, Any] = {"temperature": 0.7, "max_new_tokens": 30}
    drafted = run(whole, [(1, 2, 3), (4,)], **options)
    assert outputs(drafted) == outputs(run(undrafted(whole), [(1, 2, 3), (4,)], **options))
    assert all({"universal", "lookup"} <= set(g.counters.sources) for g in drafted)


# -- the draft model reads the text as it is ----------------------------------------------------


def request(ids: Sequence[int], ends: Sequence[int] = ()) -> Request:
    sampler = Sampler(SamplingParams(temperature=0.0, seed=0), end_ids=ends)
    return Request(Prompt(token_ids=tuple(ids)), sampler)


def drafter_of(target: Tokenizer, own: Tokenizer, **options: Any) -> Universal:
    model = TabularModel.random(vocab_size=len(own.table), order=1, seed=3)
    return Universal(model=foreign(model, own=own, target=target), **options)


def asked(drafter: Universal, state: UniversalState, tail: IntArray = NO_IDS, depth: int = 4):
    return drafter.propose([state], [tail], [Budget.chain(depth)])[0]


def spelled(drafter: Universal, state: UniversalState) -> str:
    return drafter.model.own.decode_all(state.inner.cache.text)


def steps() -> st.SearchStrategy[list[tuple[int, int, int]]]:
    """Tokens that are emitted, tokens of a tail, and the depth that is asked for."""
    one = st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 5))
    return st.lists(one, min_size=1, max_size=12)


@settings(max_examples=20, deadline=None)
@given(
    text=st.sampled_from(CORPUS),
    turns=steps(),
    sizes=st.sampled_from([(260, 420), (420, 260)]),
    lookbehind=st.integers(1, 10),
    parts=st.booleans(),
)
def test_the_cache_spells_the_text(
    text: str,
    turns: list[tuple[int, int, int]],
    sizes: tuple[int, int],
    lookbehind: int,
    parts: bool,
) -> None:
    """Of what is emitted and of the tail; while a character is incomplete, nothing is drafted."""
    target, own = byte_level(sizes[0]), byte_level(sizes[1], texts=2)
    drafter = drafter_of(target, own, lookbehind=lookbehind)
    ids = target.encode(text)
    done = min(3, len(ids) - 1)
    made = request(ids[:done])
    made.in_parts = parts
    [state] = drafter.begin([made])
    for emitted, tail, depth in turns:
        budget = Budget(depth=depth, nodes=depth, reading=ReadingRows(6) if parts else None)
        after = as_ids(ids[done : done + tail])
        [draft] = drafter.propose([state], [after], [budget])
        written = target.decode([*ids[:done], *after.tolist()])
        whole = not written.endswith("\ufffd")
        assert len(draft) <= depth and (whole or not len(draft))
        if depth and whole:
            ahead = own.decode_all(state.inner.ahead.tolist())
            read = own.decode_all([*state.inner.cache.text, *state.inner.ahead.tolist()])
            assert read == written, ahead
            assert parts or len(state.inner.ahead) == 0
        new = as_ids(ids[done : done + emitted])
        drafter.commit([state], [new])
        done += len(new)


def test_rows_of_accepted_drafts_stay() -> None:
    """The draft model reads again only what differs from its draft."""
    drafter = drafter_of(letters(), letters())
    [state] = drafter.begin([request((1, 2, 3))])
    draft = asked(drafter, state)
    forwards = state.inner.counters.forwards
    drafter.commit([state], [draft.tokens])
    asked(drafter, state, depth=1)
    assert len(state.inner.cache.pending) == 1 + (len(draft) == forwards)
    assert state.inner.cache.length >= 3 + len(draft) - 1


def test_the_next_turn_reads_only_what_is_new() -> None:
    drafter = paired(FAMILY)
    [state] = drafter.begin([request((1, 2, 3, 4, 5))])
    cache = state.inner.cache
    [later] = drafter.begin([request((1, 2, 3, 4, 5, 6, 1))], [state])
    assert later.inner.cache is cache
    assert spelled(drafter, later) == "bcdefgb"


def test_a_text_of_which_no_token_stays() -> None:
    drafter = paired(FAMILY, lookbehind=9)
    [state] = drafter.begin([request((1,))])
    drafter.commit([state], [as_ids((2, 3, 4))])  # `b` becomes `bcde`
    asked(drafter, state)
    assert spelled(drafter, state) == "bcde"


def test_a_character_in_two_tokens() -> None:
    target, own = byte_level(260), byte_level(420)
    drafter = drafter_of(target, own)
    first, *rest = target.encode_plain("é")
    [state] = drafter.begin([request(target.encode("caf"))])
    drafter.commit([state], [as_ids((first,))])
    assert not len(asked(drafter, state))
    assert spelled(drafter, state) == "caf"
    drafter.commit([state], [as_ids(rest)])
    assert len(asked(drafter, state))
    assert spelled(drafter, state) == "café"
    [cut] = drafter.begin([request((*target.encode("caf"), first))])  # a prompt may end so as well
    assert not len(asked(drafter, cut)) and spelled(drafter, cut) == "caf"
    drafter.commit([cut], [as_ids(rest)])
    assert len(asked(drafter, cut)) and spelled(drafter, cut) == "café"


def test_control_tokens_of_the_target_are_left_out() -> None:
    target, own = byte_level(260), byte_level(420)
    drafter = drafter_of(target, own)
    mark = target.tokenizer.convert_tokens_to_ids("<mark>")
    [state] = drafter.begin([request((mark, *target.encode("Lily"), mark))])
    asked(drafter, state)
    assert spelled(drafter, state) == "Lily"


def test_a_prompt_without_text() -> None:
    target = byte_level(260)
    drafter = drafter_of(target, byte_level(420))
    [state] = drafter.begin([request((target.eos_id or 0,))])
    assert state.inner.cache.text == [drafter.model.own.eos_id]
    drafter.commit([state], [as_ids(target.encode("Lily"))])
    asked(drafter, state)
    assert spelled(drafter, state) == "<end>Lily"


# -- what is drafted ----------------------------------------------------------------------------


def writing(own: Tokenizer, target: Tokenizer, tokens: Sequence[int], ends: Sequence[int] = ()):
    """A drafter whose model writes `tokens`, each after the one before, from any other token on."""
    table = torch.full((len(own.table), len(own.table)), -9.0, dtype=torch.float64)
    table[:, tokens[0]] = 0.0
    for before, after in itertools.pairwise(tokens):
        table[before] = -9.0
        table[before, after] = 0.0
    model = TabularModel(table)
    model.info = replace(model.info, end_ids=tuple(ends))
    return Universal(model=foreign(model, own=own, target=target))


def test_drafts_are_texts_in_tokens_of_the_target() -> None:
    target, own = byte_level(420), byte_level(260)
    drafter = writing(own, target, own.encode_plain(" upon"))
    once, upon, *_ = target.encode_plain("Once upon a time")
    [state] = drafter.begin([request((once,))])
    draft = asked(drafter, state, depth=2).tokens.tolist()
    assert draft[0] == upon and len(draft) == 2
    assert target.decode(draft).startswith(" upon ")


def test_the_last_token_is_left_out_if_its_text_may_go_on() -> None:
    target, own = letters(), pairs()
    drafter = writing(own, target, [own.encode_plain(text)[0] for text in "afb"])
    prompt = target.encode("bcdebcde")  # two tokens of the draft model: it writes 3 for 8
    [state] = drafter.begin([request(prompt)])
    assert asked(drafter, state, depth=8).tokens.tolist() == [0, 5]
    [again] = drafter.begin([request(prompt)])
    kept = replace(drafter, keep_last=True)
    assert asked(kept, again, depth=8).tokens.tolist() == [0, 5, 1]


def test_an_end_of_the_draft_model_is_that_of_the_target() -> None:
    target, own = byte_level(260), byte_level(420)
    end = own.eos_id or 0
    drafter = writing(own, target, [*own.encode_plain("!"), end], ends=(end,))
    text = list(target.encode_plain("!"))
    mark = target.tokenizer.convert_tokens_to_ids("<mark>")
    for ends, last in (((target.eos_id, mark), [target.eos_id]), ((mark,), [mark]), ((), [])):
        [state] = drafter.begin([request(target.encode("Lily"), ends)])
        assert asked(drafter, state).tokens.tolist() == [*text, *last]


def test_the_end_token_of_the_tokenizer_is_preferred() -> None:
    own, other = byte_level(420), deepcopy(byte_level(260).tokenizer)
    other.eos_token = "<mark>"
    target, end = Tokenizer(other), own.eos_id or 0
    drafter = writing(own, target, [*own.encode_plain("!"), end], ends=(end,))
    [state] = drafter.begin([request(target.encode("Lily"), (0, target.eos_id or 0))])
    assert asked(drafter, state).tokens.tolist()[-1] == target.eos_id != 0


def test_special_tokens_of_the_draft_model_are_not_drafted() -> None:
    target, own = byte_level(260), byte_level(420)
    mark = own.tokenizer.convert_tokens_to_ids("<mark>")
    drafter = writing(own, target, [*own.encode_plain("!?"), mark, *own.encode_plain("abc")])
    [state] = drafter.begin([request(target.encode("Lily"))])
    assert target.decode(asked(drafter, state, depth=9).tokens.tolist()) == "!"


def test_ids_beyond_the_logits_of_the_target_are_not_drafted() -> None:
    drafter = paired(FAMILY)
    drafter.model.target_size = 1
    [state] = drafter.begin([request((1, 2, 3))])
    assert set(asked(drafter, state).tokens.tolist()) <= {0}


# -- drafting ends, and the text goes on --------------------------------------------------------


def same_text(drafter: Universal, **options: Any):
    whole = stage(FAMILY.target, drafter)
    options = {"temperature": 0.8, "max_new_tokens": 30} | options
    [drafted] = run(whole, [(1, 2, 3)], **options)
    [plain] = run(undrafted(whole), [(1, 2, 3)], **options)
    assert drafted.output == plain.output
    return drafted


def test_the_window_of_the_draft_model_is_full() -> None:
    drafted = same_text(paired(FAMILY, context_length=9))
    assert drafted.counters.drafted > 0
    inner = drafted.open_sequence.drafting.inner.inner
    assert "outgrown the window of pairs with its own tokenizer" in (inner.off or "")


def test_a_prompt_beyond_the_window() -> None:
    drafted = same_text(paired(FAMILY, context_length=2))
    assert drafted.counters.drafted == 0


def test_nan_of_the_draft_model() -> None:
    drafter = paired(FAMILY)
    model = pair_model(FAMILY.draft)
    model.table[:, pairs().encode_plain("d")[0]] = float("nan")
    drafted = same_text(replace(drafter, model=foreign(model, own=pairs(), target=letters())))
    inner = drafted.open_sequence.drafting.inner.inner
    assert inner.off is not None and "pairs" in inner.off


def test_prompts_in_parts() -> None:
    """Where a server limits what draft models read in a step."""
    drafter = paired(FAMILY)
    prompt = tuple(np.random.default_rng(1).integers(0, 7, 50).tolist())
    options: dict[str, Any] = {"temperature": 0.7, "max_new_tokens": 40}
    made = [generation(prompt, **options), generation((1, 2), **options)]
    for one in made:
        one.request.in_parts = True
    whole = stage(FAMILY.target, drafter, policy=FixedLength(3))
    session = Session(whole)
    session.add(made, chunk=7)
    while session.pending:
        session.step(draft_rows=5)
    plain = finish(undrafted(whole), [generation(prompt, **options), generation((1, 2), **options)])
    assert outputs(made) == outputs(plain)
    assert all(one.counters.accepted > 0 for one in made)


def test_a_few_new_tokens_are_read_at_once() -> None:
    """Although the step has no rows left for reading."""
    drafter = paired(FAMILY)
    made = request((0, 0, 0))
    made.in_parts = True
    [state] = drafter.begin([made])
    drafter.propose([state], [NO_IDS], [Budget.chain(3)])
    drafter.commit([state], [as_ids((0, 5))])
    [draft] = drafter.propose([state], [NO_IDS], [Budget(depth=3, nodes=3, reading=ReadingRows(0))])
    assert len(draft) == 3


def test_counters_are_those_of_the_draft_model() -> None:
    drafter = paired(FAMILY)
    [state] = drafter.begin([request((1, 2, 3))])
    asked(drafter, state)
    counted = drafter.counters(state)["universal"]
    assert counted.forwards == counted.drafted > 0


# -- what is refused ----------------------------------------------------------------------------


def test_rules_that_compare_models_are_refused() -> None:
    with pytest.raises(StrategyError, match="logits of each drafted token"):
        Strategy(
            target=FAMILY.target, drafter=paired(FAMILY), rule=Fuzzy(divergence="js", threshold=0.3)
        )


def test_a_draft_model_without_a_tokenizer() -> None:
    with pytest.raises(OptionError, match="needs a draft model with a tokenizer"):
        METHOD.drafter(Given(target=FAMILY.target, below=(FAMILY.draft,)), (), {})
    with pytest.raises(OptionError, match="lookbehind"):
        paired(FAMILY, lookbehind=0)
