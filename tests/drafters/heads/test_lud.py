"""Lexical Unit Decoding (arXiv 2405.15208): guesses behind pads, verified or accepted."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outrider.acceptance import Fuzzy, Lud, Match
from outrider.acceptance.lud import chances, confident
from outrider.core.errors import CheckpointError, OptionError, StrategyError
from outrider.core.types import Budget, Prompt, Rows, Verdict, Verified, as_ids
from outrider.decoding import Generation, generate
from outrider.drafters.given import Costs, Given
from outrider.drafters.heads.lud import METHOD
from outrider.drafters.heads.lud import Lud as Drafter
from outrider.drafters.heads.prompt_tokens import PAD_FORMAT, PAD_KIND, PromptTokens
from outrider.drafters.heads.prompted import PromptState
from outrider.kernels import available
from outrider.models.caches.attaching import attach
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.policies import CostSurface
from outrider.protocols import LanguageModel, Needs, Request, Segment
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import Strategy
from outrider.testing.rigs import tabular_family
from outrider.training.core.state import save_tensors, write_json
from tests.acceptance.hand import view
from tests.models.setups.invariants import assert_equals_fresh_prefill
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = [pytest.mark.method("lud"), pytest.mark.usefixtures("unchecked")]

TEXT = tuple(range(40, 60))
K, VOCAB = 4, 288
BETA = 0.012
"""About the median probability of the best token of the random model."""
compiled = pytest.mark.skipif(not available(), reason="no compiled kernels")
Runners = Callable[[str], LanguageModel]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runners:
    """A random model with a window of 256."""
    source = make_checkpoint(tmp_path_factory.mktemp("lud") / "small", "llama")

    @cache
    def loaded(name: str) -> LanguageModel:
        if name == "readable":
            return Decoder.load(source, dtype=torch.float64)
        return NativeDecoder.load(source, dtype=torch.float32, threads=1)

    return loaded


@cache
def pad() -> PromptTokens:
    embedding = torch.randn(32, generator=torch.Generator().manual_seed(1))
    rates = torch.tensor([[0.5], [0.4], [0.3]])
    return PromptTokens.of_pad(embedding, rates, VOCAB)


def written(
    drafter: Drafter | None,
    target: LanguageModel,
    ids: tuple[int, ...] = TEXT,
    rule: Any = None,
    **how: Any,
) -> Generation:
    params = SamplingParams(**{"max_new_tokens": 32, "seed": 3, **how})
    given = {} if drafter is None else {"drafter": drafter, "policy": METHOD.policy}
    strategy = Strategy(target=target, rule=rule or Match(), **given)
    sampler = Sampler(params, prompt_ids=ids, end_ids=target.info.end_ids)
    generation = Generation(Request(Prompt(token_ids=ids), sampler))
    for _ in generate(strategy.stage, [generation]):
        pass
    return generation


def of_the_paper(
    target: LanguageModel, ids: tuple[int, ...], beta: float, k: int = K, count: int = 32
) -> tuple[list[int], list[int]]:
    """The algorithm of the paper, with a fresh prefill in each pass: tokens, and each span."""
    text, spans = list(ids), list[int]()
    while len(text) - len(ids) < count:
        [cache] = target.start([Prompt(token_ids=tuple(text))])
        segment = Segment(cache, as_ids([-1] * (k - 1)), prompts=pad().rows)
        [rows] = target.forward([segment], [as_ids(range(-1, k - 1))])
        probs = chances(rows.logits)
        tokens, span = probs.argmax(-1).tolist(), 0
        for row, token in enumerate(tokens):
            if not confident(token, float(probs[row, token]), ([text[-1], *tokens])[row], beta):
                break
            span = row + 1
        spans.append(max(1, span))
        text += tokens[: spans[-1]]
    return text[len(ids) :][:count], spans


@pytest.mark.parametrize("beta", [0.0, 0.01, BETA, 0.05])
def test_texts_and_passes_are_those_of_the_paper(beta: float, runner: Runners) -> None:
    """Confident guesses are committed a round later, with equal texts and as many forwards."""
    target = runner("readable")
    found = written(Drafter(pad=pad(), beta=beta), target, rule=Lud(beta=beta))
    tokens, spans = of_the_paper(target, TEXT, beta)
    assert len(found.output) == 32
    # Where the answer reaches its limit, drafts are shorter, and the last token is the target's.
    assert list(found.output)[: 32 - K] == tokens[: 32 - K]
    assert found.counters.rounds - len(spans) in (0, 1)
    if beta == BETA:
        assert 1 in spans and max(spans) > 1
        own = of_the_paper(target, TEXT, 2.0)[0]
        assert tokens != own  # unverified guesses change the text


@pytest.mark.parametrize("how", [{"k": 1}, {"beta": 1.1}, {}])
def test_k_1_or_beta_above_1_is_greedy_decoding_of_the_tuned_model(
    how: dict[str, Any], runner: Runners
) -> None:
    target = runner("readable")
    own = written(None, target).output
    for rule in (Match(), Lud(beta=1.1)):
        found = written(Drafter(pad=pad(), **how), target, rule=rule)
        assert found.output == own and found.counters.changed == 0
        if how:  # nothing is drafted: each pass commits one token
            assert found.counters.rounds == 32 and not found.counters.accepted
    assert bool(found.counters.probed) == (how.get("k") != 1)
    found = written(Drafter(pad=pad(), k=1), target, rule=Lud(beta=0.0))
    assert found.output == own


@pytest.mark.parametrize("beta", [0.0, BETA])
def test_each_pass_commits_1_to_k_tokens_and_no_pad(beta: float, runner: Runners) -> None:
    """After each round the cache equals a fresh prefill of the text."""
    target = runner("readable")
    drafter, rule = Drafter(pad=pad(), beta=beta).bind(Needs(reference=True), 1), Lud(beta=beta)
    sampler = Sampler(SamplingParams(temperature=0.0), prompt_ids=TEXT)
    [state] = drafter.begin([Request(Prompt(token_ids=TEXT), sampler)])
    [cache] = target.start([Prompt(token_ids=TEXT)])
    sizes: list[int] = []
    for _ in range(8):
        [draft] = drafter.propose([state], [as_ids(())], [Budget(depth=16, nodes=32)])
        assert draft.num_probes == K - 1 and len(draft) <= 2 * (K - 1)
        segment, want = attach(cache, as_ids(()), draft)
        [rows] = target.forward([segment], [want])
        output = list(cache.text)[len(TEXT) :]
        verdict = rule(draft, view(draft, rows.logits, generated=output, temperature=0.0))
        drafter.observe([state], [Verified("target", as_ids(()), draft, rows, verdict)])
        emitted = as_ids(verdict.emitted)
        cache.commit(emitted)
        drafter.commit([state], [emitted])
        sizes.append(len(emitted))
        assert min(cache.text) >= 0  # no pad
        assert_equals_fresh_prefill(target, cache, tolerance=1e-8)
    assert min(sizes) >= 1 and max(sizes) <= K and max(sizes) > 1


@pytest.mark.parametrize(
    "how",
    [{}, {"temperature": 0.9, "top_p": 0.9}, {"temperature": 0.7, "repetition_penalty": 1.3}],
)
@pytest.mark.parametrize("beta", [None, 0.0, BETA])
def test_verified_guesses_leave_the_text_as_it_is(
    beta: float | None, how: dict[str, Any], runner: Runners
) -> None:
    target = runner("compiled" if available() else "readable")
    drafted = written(Drafter(pad=pad(), beta=beta), target, **how)
    assert drafted.output == written(None, target, **how).output
    assert drafted.counters.probed and drafted.counters.drafted


def test_edges(runner: Runners) -> None:
    target = runner("readable")
    for ids in ((5,), tuple(range(2, 252))):  # one token; a window that is almost full
        own = written(None, target, ids).output
        assert written(Drafter(pad=pad()), target, ids).output == own
        lossy = written(Drafter(pad=pad(), beta=0.0), target, ids, rule=Lud(beta=0.0))
        assert len(lossy.output) == len(own)
    tokens = written(Drafter(pad=pad(), beta=0.0), target, rule=Lud(beta=0.0)).output
    for place in (1, 2, 3, 4, 9):  # an end token that is a guess, or follows one
        stop = {"stop_token_ids": (tokens[place],)}
        cut = written(Drafter(pad=pad(), beta=0.0), target, rule=Lud(beta=0.0), **stop)
        assert cut.output == tokens[: tokens.index(tokens[place]) + 1]


def test_a_lossy_text_counts_its_changes(runner: Runners) -> None:
    target = runner("readable")
    found = written(Drafter(pad=pad(), beta=0.0), target, rule=Lud(beta=0.0))
    assert found.counters.changed > 0
    changes = 0
    for place, token in enumerate(found.output):
        [cache] = target.start([Prompt(token_ids=(*TEXT, *found.output[:place]))])
        [rows] = target.forward([Segment(cache, as_ids(()))], [as_ids((-1,))])
        changes += int(rows.logits.argmax()) != token
    assert found.counters.changed == changes
    bounded = written(Drafter(pad=pad(), beta=0.0), target, rule=Lud(beta=0.0, max_changed=0.1))
    assert 0 < bounded.counters.changed <= 3


def test_the_span_ends_at_the_first_guess_below_beta(runner: Runners) -> None:
    """Its first token is that of the text, of which the model must be confident as well."""
    drafter = Drafter(pad=pad(), beta=0.5)
    [draft] = drafter.propose([PromptState(frozenset())], [as_ids(())], [Budget(depth=8, nodes=8)])
    assert draft.tokens.tolist() == [-1, -2, -3] and draft.num_probes == 3
    for sure, next_token, last, count in (
        ((3, 3, 3, 3), 7, 6, 3),
        ((3, 3, 0, 3), 7, 6, 1),
        ((0, 3, 3, 3), 7, 6, 0),  # the next token itself
        ((3, 3, 3, 3), 7, 7, 0),  # it repeats the last token of the text
        ((9, 3, 3, 3), 7, 7, 3),  # but with more than 0.99
        ((3, 3, 3, 3), 8, 6, 0),  # a sample of which the model is not confident
    ):
        logits = torch.zeros(4, 20)
        for row, boost in enumerate(sure):
            logits[row, 7 + row] = 2.0 * boost
        state = PromptState(frozenset(), last=last)
        verdict = Verdict(next_token=next_token)
        drafter.observe([state], [Verified("target", as_ids(()), draft, Rows(logits), verdict)])
        assert state.guesses == [[8], [9], [10]][:count], (sure, next_token, last)
    repeated = torch.zeros(4, 20)
    repeated[0, 7] = repeated[1, 8] = repeated[2, 8] = repeated[3, 9] = 6.0
    state = PromptState(frozenset(), last=6)
    verdict = Verdict(next_token=7)
    drafter.observe([state], [Verified("target", as_ids(()), draft, Rows(repeated), verdict)])
    assert state.guesses == [[8]]  # 8 8 repeats


def test_pads_are_one_embedding_and_stand_behind_the_last_guess() -> None:
    drafter = Drafter(pad=pad(), beta=0.5)
    assert torch.equal(drafter.trained.rows, pad().rows[:1].expand(3, -1))
    state = PromptState(frozenset(), [[30], [31]], torch.zeros(2, VOCAB))
    [draft] = drafter.propose([state], [as_ids(())], [Budget(depth=16, nodes=32)])
    assert draft.tokens.tolist() == [30, 31, -1, -2, -3]
    assert draft.parents.tolist() == [-1, 0, 1, 2, 3]
    assert draft.probe is not None and draft.probe.tolist() == [False] * 2 + [True] * 3
    spread = Drafter(pad=pad(), nodes=15)
    state = PromptState(frozenset(), [[30], [31], [32]])
    [draft] = spread.propose([state], [as_ids(())], [Budget(depth=16, nodes=32)])
    assert draft.num_probes == 12 and len(draft) == 15  # behind the text and behind each guess


def test_references_are_the_rows_of_the_pads(runner: Runners) -> None:
    target = runner("readable")
    drafter = Drafter(pad=pad()).bind(Needs(reference=True), 1)
    state = PromptState(frozenset())
    [first] = drafter.propose([state], [as_ids(())], [Budget(depth=16, nodes=32)])
    [cache] = target.start([Prompt(token_ids=TEXT)])
    segment, want = attach(cache, as_ids(()), first)
    [rows] = target.forward([segment], [want])
    verdict = Verdict(next_token=int(rows.logits[0].argmax()))
    drafter.observe([state], [Verified("target", as_ids(()), first, rows, verdict)])
    [draft] = drafter.propose([state], [as_ids(())], [Budget(depth=16, nodes=32)])
    assert draft.reference is not None and draft.probe is not None
    for node in np.flatnonzero(~draft.probe):
        row = draft.reference[node]
        assert row is not None and int(row.argmax()) == draft.tokens[node]
        torch.testing.assert_close(row.double(), rows.logits[node + 1], rtol=1e-5, atol=1e-5)
    assert all(draft.reference[node] is None for node in np.flatnonzero(draft.probe))
    fuzzy = written(Drafter(pad=pad()), target, rule=Fuzzy("js", 2.0))
    assert fuzzy.counters.changed > 0  # other rules that need references can read them


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weights = {"pad": pad().rows[0].clone(), "rates": pad().rates.clone()}
    save_tensors(tmp_path / f"{PAD_KIND}.safetensors", weights)
    write_json(tmp_path / f"{PAD_KIND}.json", {"format": PAD_FORMAT, "vocab_size": VOCAB})
    return tmp_path


def test_measured_times_set_the_trees(folder: Path, runner: Runners) -> None:
    sizes: list[int] = []
    for seconds in ({1: 1e-3, 64: 1e-3}, {1: 1e-3, 64: 64e-3}):
        costs = Costs(target=CostSurface.of(seconds), overhead=0.0)
        given = Given(target=runner("readable"), costs=costs)
        made = METHOD.drafter(given, (), {"pad": str(folder)})
        state = PromptState(frozenset())
        [first] = made.propose([state], [as_ids(())], [Budget(depth=16, nodes=64)])
        sizes.append(len(first))
        one = METHOD.drafter(given, (), {"pad": str(folder), "k": 1})
        assert not len(one.propose([state], [as_ids(())], [Budget(depth=16, nodes=64)])[0])
    assert sizes == [3, 0]  # where rows cost as much as rounds, nothing is drafted


def test_what_is_refused(folder: Path, runner: Runners) -> None:
    with pytest.raises(StrategyError, match="drafter lud puts"):
        pad().check_target(tabular_family().target)
    with pytest.raises(StrategyError, match="lud without a qualifier"):
        Drafter(pad=pad()).bind(Needs(), 2)
    numbers: list[tuple[dict[str, Any], str]] = [
        ({"k": 0}, "k is 0"),
        ({"beta": -0.1}, "beta is -0.1"),
    ]
    for how, problem in numbers:
        with pytest.raises(OptionError, match=problem):
            Drafter(pad=pad(), **how)
    for name, value in (("rates", pad().rates + 1), ("pad", pad().rates.clone()), ("pad", None)):
        weights = {"pad": pad().rows[0].clone(), "rates": pad().rates.clone()}
        weights = weights | {name: value} if value is not None else {"rates": weights["rates"]}
        save_tensors(folder / f"{PAD_KIND}.safetensors", weights)
        with pytest.raises(CheckpointError, match="train lud"):
            Drafter(pad=folder)
