"""Where a text ends, and what is noted on the way: the same with and without drafting (I4, I6)."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MaxLengthCriteria,
    NoRepeatNGramLogitsProcessor,
    StoppingCriteria,
    SuppressTokensLogitsProcessor,
)

from outrider.acceptance import Fuzzy
from outrider.core.types import FinishReason
from outrider.decoding import generate
from outrider.decoding.generation import Generation
from outrider.drafters import ModelDrafter, NoDrafter, Qualified
from outrider.engine.result import spans
from outrider.protocols import Drafter
from outrider.sampling.text import TextStream
from tests.exactness.setups.rigs import PROMPTS, generation, nests, run, stage, tabular_family
from tests.matrix import matrix

pytestmark = pytest.mark.usefixtures("unchecked")

FAMILY: Any = tabular_family(seed=4)
NESTS = nests(FAMILY)
TWIN = Qualified(drafter=ModelDrafter(model=FAMILY.target), qualifier=FAMILY.target)
"""Always right: every round emits a full window."""
DRAFTED = {"three": NESTS["three"], "four": NESTS["four"], "twin": TWIN}


def letters(ids: Sequence[int]) -> str:
    return "".join("abcdefg"[i] for i in ids)


def write(
    drafter: Drafter, prompts: Sequence[Sequence[int]] = PROMPTS[:4], **options: Any
) -> list[Generation]:
    """Run with a tokenizer of seven letters."""
    stop = options.get("stop", ())
    gs = [generation(p, **{"temperature": 0.9, "max_new_tokens": 24, **options}) for p in prompts]
    for g in gs:
        g.stream = TextStream(letters, (stop,) if isinstance(stop, str) else stop)
    for _ in generate(stage(FAMILY.target, drafter), gs):
        pass
    return gs


def seen(g: Generation) -> tuple[Any, ...]:
    """All that must not depend on the drafter."""
    return g.output, g.text, g.finish, g.ends, g.logprobs


def check_books(g: Generation) -> None:
    """I6, and a record for each token."""
    c, written = g.counters, len(g.output)
    assert len(g.sources) == len(g.changed) == len(g.ends) == len(g.token_times) == written
    assert c.tokens == written == sum(c.sources.values())
    assert c.sources == {s: g.sources.count(s) for s in c.sources} and set(g.sources) <= {
        *c.sources
    }
    assert c.changed == sum(g.changed)
    assert c.drafted == sum(c.drafted_at) and c.accepted == sum(c.accepted_at)
    assert c.rounds == c.forwards and c.next_tokens <= c.rounds <= max(written, 1)
    assert c.undrafted_rounds <= c.rounds and c.refused <= c.next_tokens
    assert g.ends == sorted(g.ends) or g.finish is FinishReason.STOP
    assert "".join(piece for piece, _ in spans(g.text, g.ends, g.sources)) == g.text


# -- every way to end --------------------------------------------------------------------------


class Total(StoppingCriteria):
    """Ends the text once the ids of prompt and output add up to `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return input_ids.sum(-1) >= self.limit


ENDS: dict[str, dict[str, Any]] = {
    "limit": {"max_new_tokens": 13},
    "one": {"max_new_tokens": 1},
    "eos": {"end_ids": (0,)},
    "eos list": {"end_ids": (0, 3, 6)},
    "stop token": {"stop_token_ids": (2,)},
    "both": {"end_ids": (0,), "stop_token_ids": [2, 5]},
    "ignored": {"end_ids": (0, 1), "ignore_eos": True},
    "ignored but one": {"end_ids": (0, 1), "ignore_eos": True, "stop_token_ids": 4},
    "not yet": {"end_ids": (0, 3), "stop_token_ids": (5,), "min_new_tokens": 11},
    "stop string": {"stop": "ca"},
    "stop strings": {"stop": ("bb", "gf", "edd"), "end_ids": (0,)},
    "overlapping": {"stop": ("abcd", "bc", "dde", "d")},
    "criterion": {"stopping_criteria": [Total(40)]},
    "criteria": {"stopping_criteria": [MaxLengthCriteria(12), Total(90)], "end_ids": (0,)},
    "forced": {"forced_tokens": {0: 3, 4: 6, 5: 6, 9: 0}, "end_ids": (0,)},
    "forced end": {"forced_tokens": {7: 1}, "end_ids": (1,), "min_new_tokens": 7},
    "banned": {"banned_tokens": (1, 2), "logit_bias": {3: 2.0}},
    "processors": {
        "logits_processors": LogitsProcessorList(
            [NoRepeatNGramLogitsProcessor(2), SuppressTokensLogitsProcessor([4])]
        ),
        "max_new_tokens": 15,
    },
}


@cache
def ended(end: str, nest: str) -> list[Generation]:
    return write({**DRAFTED, "none": NoDrafter()}[nest], logprobs=2, **ENDS[end])


@pytest.mark.parametrize(("end", "nest"), matrix(ENDS, DRAFTED))
def test_drafted_ends_where_undrafted_does(end: str, nest: str) -> None:
    drafted, plain = ended(end, nest), ended(end, "none")
    assert [seen(g) for g in drafted] == [seen(g) for g in plain]
    for g in (*drafted, *plain):
        check_books(g)


def test_the_ways_to_end_are_all_met() -> None:
    """The matrix proves nothing if every text runs into its limit."""
    finishes = {name: [g.finish for g in ended(name, "none")] for name in ENDS}
    unlimited = {"eos list", "both", "ignored but one", "stop strings", "overlapping"}
    for name in (*unlimited, "criterion", "criteria", "forced", "forced end"):
        assert FinishReason.STOP in finishes[name], name
    for name in ("limit", "one", "ignored", "banned", "processors"):
        assert set(finishes[name]) == {FinishReason.LENGTH}, name


def test_what_each_way_means() -> None:
    for g in write(TWIN, end_ids=(0,), stop_token_ids=(2,), max_new_tokens=200):
        assert g.output[-1] in (0, 2) and not {0, 2} & {*g.output[:-1]}
        assert g.text == letters(g.output[:-1]), "an end token is no text"
    for g in ended("ignored", "twin"):
        assert len(g.output) == 24 and {0, 1} & {*g.output}
    for g in ended("not yet", "twin"):
        assert len(g.output) > 11 and not {0, 3, 5} & {*g.output[:11]}
    for g in ended("forced", "twin"):
        forced = ENDS["forced"]["forced_tokens"]
        assert all(g.output[i] == t for i, t in forced.items() if i < len(g.output))
    for g in ended("forced end", "twin"):
        assert len(g.output) == 8 and g.output[-1] == 1
    for g in ended("banned", "twin"):
        assert not {1, 2} & {*g.output}
    for g in ended("processors", "twin"):
        text = [*g.request.prompt.token_ids, *g.output]
        new = list(pairwise(text))[len(g.request.prompt) - 1 :]
        assert len({*new}) == len(new) and 4 not in g.output
    for g in ended("criterion", "twin"):
        so_far = sum(g.request.prompt.token_ids) + sum(g.output)
        assert so_far >= 40 > so_far - g.output[-1] or len(g.output) == 1


# -- stop strings in the middle of a round -----------------------------------------------------


@settings(max_examples=8)
@given(
    stop=st.lists(st.text("abcdefg", min_size=1, max_size=3), min_size=1, max_size=3),
    nest=st.sampled_from(["three", "four", "twin"]),
    seed=st.integers(0, 99),
)
def test_any_stop_strings(stop: list[str], nest: str, seed: int) -> None:
    options = {"stop": stop, "seed": seed, "max_new_tokens": 16}
    drafted = write(DRAFTED[nest], PROMPTS[:2], **options)
    assert [seen(g) for g in drafted] == [
        seen(g) for g in write(NoDrafter(), PROMPTS[:2], **options)
    ]
    for g in drafted:
        check_books(g)
        assert not any(s in g.text for s in stop)
        assert letters(g.output).startswith(g.text)


def test_a_stop_string_in_the_middle_of_an_accepted_run() -> None:
    """One round writes seven tokens; the third and fourth of the second round are the stop."""
    [whole] = write(TWIN, PROMPTS[:1], max_new_tokens=21)
    assert whole.counters.rounds == 3
    stop = letters(whole.output[9:11])
    at = letters(whole.output).index(stop)
    [g] = write(TWIN, PROMPTS[:1], stop=stop, max_new_tokens=21)
    assert g.text == letters(whole.output[:at]) and g.output == whole.output[: at + 2]
    assert g.counters.rounds == -(-(at + 2) // 7)
    assert g.counters.cut == g.counters.rounds * 7 - len(g.output) > 0
    check_books(g)


def test_changes_that_were_cut_are_not_counted() -> None:
    """All is accepted, so every round has changes, and the criterion cuts somewhere among them."""
    rule, cut = Fuzzy("js", float("inf")), 0
    whole = stage(FAMILY.target, NESTS["two"], rule)
    for limit in range(12, 60, 6):
        for g in run(whole, PROMPTS[:3], temperature=1.0, stopping_criteria=[Total(limit)]):
            assert g.counters.changed == sum(g.changed) and len(g.changed) == len(g.output)
            assert g.counters.tokens == len(g.output) == sum(g.counters.sources.values())
            cut += g.counters.cut
    assert cut > 20


def test_pieces_are_the_same_text_however_many_tokens_a_round_has() -> None:
    def released(drafter: Drafter) -> list[str]:
        g = generation(PROMPTS[0], temperature=0.9, stop="ca")
        g.stream = TextStream(letters, ["ca"])
        taken = [g.stream.take() for _ in generate(stage(FAMILY.target, drafter), [g])]
        return [*taken, g.stream.take()]

    one_by_one, in_bursts = released(NoDrafter()), released(TWIN)
    assert "".join(one_by_one) == "".join(in_bursts) and len(in_bursts) < len(one_by_one)


# -- log-probabilities -------------------------------------------------------------------------


@pytest.mark.parametrize("nest", ["none", "three", "twin"])
def test_logprobs_are_of_the_targets_raw_distribution(nest: str) -> None:
    """No temperature, warp, penalty or bias in them, and no draft."""
    options = {"temperature": 0.6, "top_k": 3, "repetition_penalty": 1.3, "logit_bias": {2: 3.0}}
    for g in write({**NESTS, "twin": TWIN}[nest], logprobs=3, **options):
        assert len(g.logprobs) == len(g.output)
        text = [*g.request.prompt.token_ids, *g.output]
        for i, (token, noted) in enumerate(zip(g.output, g.logprobs, strict=True)):
            logits = FAMILY.target.logits_after(text[: len(text) - len(g.output) + i])
            probs = torch.log_softmax(logits, -1)
            assert (noted.token, noted.logprob) == (token, float(probs[token]))
            assert [p for _, p in noted.top] == sorted(probs.tolist(), reverse=True)[:3]
            assert all(float(probs[t]) == p for t, p in noted.top)


@pytest.mark.parametrize("asked", [None, 0, 99])
def test_how_many_logprobs(asked: int | None) -> None:
    [g] = write(TWIN, PROMPTS[:1], logprobs=asked)
    assert len(g.logprobs) == (0 if asked is None else len(g.output))
    assert all(len(noted.top) == min(asked or 0, 7) for noted in g.logprobs)


# -- together ----------------------------------------------------------------------------------


def test_two_requests_end_in_the_same_round() -> None:
    prompts = [(1, 2, 3), (4,), (1, 2, 3), (4,)]
    gs = [generation(p, max_new_tokens=n) for p, n in zip(prompts, (14, 30, 14, 30), strict=True)]
    sizes = [len(active) for active in generate(stage(FAMILY.target, TWIN), gs)]
    assert sizes == [4, 4, 2, 2, 2]
    assert [len(g.output) for g in gs] == [14, 30, 14, 30]
    for g in gs:
        limit = g.request.sampler.params.max_new_tokens
        prompt = g.request.prompt.token_ids
        [alone] = run(stage(FAMILY.target, NoDrafter()), [prompt], max_new_tokens=limit)
        assert g.output == alone.output


@pytest.mark.parametrize("nest", ["none", "three"])
def test_cancelled_before_the_first_round(nest: str) -> None:
    gs = [generation(p, max_new_tokens=9) for p in PROMPTS[:2]]
    gs[0].cancel()
    for active in generate(stage(FAMILY.target, NESTS[nest]), gs):
        assert active == [gs[1]]
    assert (gs[0].finish, gs[0].output, gs[0].counters.rounds) == (FinishReason.CANCELLED, [], 0)
    assert gs[1].finish is FinishReason.LENGTH and gs[0].ended >= gs[0].begun


def test_cancelled_in_the_first_round() -> None:
    """The round in which somebody cancels still counts; the next does not begin."""
    [whole] = run(stage(FAMILY.target, NoDrafter()), PROMPTS[:1])
    g = generation(PROMPTS[0])
    g.stream = TextStream(letters)
    rounds = 0
    for _ in generate(stage(FAMILY.target, TWIN), [g]):
        rounds += 1
        g.cancel()
    assert rounds == 1 and g.finish is FinishReason.CANCELLED
    assert g.output == whole.output[:7] and g.text == letters(g.output)
    check_books(g)


def test_a_cancellation_after_the_end_changes_nothing() -> None:
    [g] = write(TWIN, PROMPTS[:1], max_new_tokens=3)
    g.cancel()
    assert not g.running and g.finish is FinishReason.LENGTH


def test_a_character_broken_at_the_end_belongs_to_the_last_token() -> None:
    g = generation(PROMPTS[0], max_new_tokens=8)
    g.stream = TextStream(lambda ids: bytes([0xF0] * len(ids)).decode("utf-8", errors="replace"))
    for _ in generate(stage(FAMILY.target, TWIN), [g]):
        pass
    assert g.text == "\ufffd" * 8
    assert g.ends == [0] * 7 + [8]
