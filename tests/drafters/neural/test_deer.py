"""DEER (arXiv 2512.15176): blocks of masked tokens from one forward of a draft model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from outrider.acceptance import Match, Rejection
from outrider.core.errors import CheckpointError, OptionError, StrategyError
from outrider.core.types import NO_IDS, Budget, Draft, IntArray, Prompt, as_ids
from outrider.drafters import ModelDrafter
from outrider.drafters.given import Costs, Given
from outrider.drafters.neural.deer import METHOD, Deer
from outrider.drafters.neural.model_state import ModelState
from outrider.kernels import available
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.policies import CostSurface, FixedLength
from outrider.policies.confidence import BelowThreshold
from outrider.protocols import LanguageModel, Needs, Request, Segment
from outrider.protocols.masks import FORMAT, KIND
from outrider.sampling import Sampler, SamplingParams
from outrider.testing import check_drafter
from outrider.testing.distribution import TARGET, VOCAB, Trial
from outrider.training.core.state import save_tensors, write_json
from tests.constraints.automaton import Automaton
from tests.exactness.setups.rigs import (
    SAMPLINGS,
    Family,
    generation,
    outputs,
    run,
    stage,
    tabular_family,
    undrafted,
)
from tests.models.setups.invariants import assert_equals_fresh_prefill
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = [pytest.mark.method("deer"), pytest.mark.usefixtures("unchecked")]

BLOCK, HIDDEN = 8, 32
TEXT = tuple(range(40, 60))
Models = Callable[..., LanguageModel]
ways = pytest.mark.parametrize("both", [True, False])


_FOLDERS: dict[int, Path] = {}
"""The folders of loaded models."""


def masked(folder: Path, both: bool, **how: Any) -> Path:
    """A random checkpoint with masks."""
    make_checkpoint(folder, "llama", **how)
    embedding = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(1))
    save_tensors(folder / f"{KIND}.safetensors", {"mask": embedding})
    write_json(folder / f"{KIND}.json", {"format": FORMAT, "block": BLOCK, "both": both})
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Draft models by vocabulary, way and runner; their first tokens are those of a target with
    the same vocabulary and runner."""

    @cache
    def loaded(vocab_size: int = 288, both: bool = True, compiled: bool = False) -> LanguageModel:
        folder = tmp_path_factory.mktemp("deer") / "draft"
        masked(folder, both, vocab_size=vocab_size, std=0.15 if vocab_size > 7 else 0.4)
        if compiled:
            return NativeDecoder.load(folder, dtype=torch.float32, threads=1)
        model = Decoder.load(folder, dtype=torch.float64)
        _FOLDERS[id(model)] = folder
        return model

    return loaded


def test_the_contract(models: Models) -> None:
    """Texts for all samplings, batches, samples, turns, tails below a qualifier, and the
    distribution under a rule that reads probabilities."""

    def made(family: Family) -> Deer:
        return Deer(model=models(family.target.info.vocab_size))

    report = check_drafter(made)
    assert report.accepted > 5
    assert report.distribution is not None


@ways
@pytest.mark.parametrize(
    "compiled",
    [False, pytest.param(True, marks=pytest.mark.skipif(not available(), reason="no kernels"))],
)
def test_texts_are_those_of_the_target(both: bool, compiled: bool, models: Models) -> None:
    target = models(both=not both, compiled=compiled)
    for k in (1, 2, 5, 8):
        drafter = Deer(model=models(both=both, compiled=compiled), k=k)
        whole = stage(target, drafter, policy=FixedLength(8))
        for name in ("greedy", "top_p", "penalties"):
            options = {**SAMPLINGS[name], "max_new_tokens": 24}
            drafted = run(whole, [TEXT, (5,)], **options)
            assert outputs(drafted) == outputs(run(undrafted(whole), [TEXT, (5,)], **options))
            # the row of the last token reads no mask: it is that of the target
            assert all(g.counters.accepted_at[0] == g.counters.drafted_at[0] for g in drafted)
            assert all(len(g.counters.drafted_at) == k for g in drafted)


@ways
def test_a_block_is_one_forward_of_masks_behind_the_text(both: bool, models: Models) -> None:
    """Its distributions are those of a model of `transformers` with the mask matrix of the paper,
    and no row of a mask stays in the cache."""
    model = models(both=both)
    drafter = Deer(model=model).bind(Needs(probs=True, reference=True), 1)
    sampler = Sampler(SamplingParams(temperature=1.0, seed=2), prompt_ids=TEXT)
    request = Request(Prompt(token_ids=TEXT), sampler)
    [state] = drafter.begin([request])
    for emitted in ((), (9, 8), (7,), (200, 100, 50)):
        if emitted:
            request.output.extend(emitted)
            drafter.commit([state], [as_ids(emitted)])
        before = state.counters.forwards
        [draft] = drafter.propose([state], [NO_IDS], [Budget.chain(6)])
        assert state.counters.forwards == before + 1
        assert len(draft) == 6 and draft.probs is not None and draft.reference is not None
        text = (*TEXT, *request.output)
        for place, row in enumerate(_rows(model, text, 6, both)):
            found, reference = draft.probs[place], draft.reference[place]
            assert found is not None and reference is not None
            torch.testing.assert_close(reference.double(), row, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(found.double(), row.softmax(-1), rtol=1e-5, atol=1e-6)
        assert min(state.cache.text) >= 0
    drafter.commit([state], [as_ids((1, 2))])
    assert_equals_fresh_prefill(model, state.cache, tolerance=1e-8)


def _rows(model: LanguageModel, text: Sequence[int], count: int, both: bool) -> torch.Tensor:
    """The logits of a block, from attention that is written out here."""
    assert isinstance(model, Decoder)
    mask = model.info.mask
    assert mask is not None and model.embed is not None
    x = torch.cat((model.embed(list(text)), mask.embedding.double().expand(count - 1, -1)))
    rows, length = len(x), len(text)
    seen = torch.ones(rows, rows).tril().bool()
    if both:
        seen[length:, length:] = True
    config = model.config
    half = config.head_dim // 2
    angles = torch.arange(rows)[:, None] * 10000.0 ** (-torch.arange(half) / half).double()
    cos, sin = (f(angles).repeat(1, 2)[:, None] for f in (torch.cos, torch.sin))

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + config.norm_eps).rsqrt() * weight

    def turned(x: torch.Tensor) -> torch.Tensor:
        x = x.view(rows, -1, config.head_dim)
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    weights = _stored(model)
    for i in range(config.num_layers):
        own = {n: w for n, w in weights.items() if n.startswith(f"model.layers.{i}.")}

        def of(name: str, own: dict[str, torch.Tensor] = own) -> torch.Tensor:
            return next(w for n, w in own.items() if n.endswith(f"{name}.weight"))

        h = norm(x, of("input_layernorm"))
        q, k = turned(h @ of("q_proj").T), turned(h @ of("k_proj").T)
        v = (h @ of("v_proj").T).view(rows, -1, config.head_dim)
        shared = config.num_heads // config.num_kv_heads
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        scores = torch.einsum("ihd,jhd->hij", q, k) * config.head_dim**-0.5
        shares = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        x = x + torch.einsum("hij,jhd->ihd", shares, v).reshape(rows, -1) @ of("o_proj").T
        h = norm(x, of("post_attention_layernorm"))
        gate, up = h @ of("gate_proj").T, h @ of("up_proj").T
        x = x + (torch.nn.functional.silu(gate) * up) @ of("down_proj").T
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return norm(x, weights["model.norm.weight"])[length - 1 :] @ head.T


def _stored(model: Decoder) -> dict[str, torch.Tensor]:
    path = _FOLDERS[id(model)]
    return {n: w.double() for n, w in load_file(path / "model.safetensors").items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lying(Deer):
    """Misreports the probabilities: each token has the probability of the one before it."""

    def propose(
        self, states: Sequence[ModelState], tails: Sequence[IntArray], budgets: Sequence[Budget]
    ) -> list[Draft]:
        drafts = Deer.propose(self, states, tails, budgets)
        return [
            replace(d, probs=tuple(p if p is None else p.roll(1) for p in d.probs or ()))
            for d in drafts
        ]


@pytest.mark.parametrize(
    ("both", "warps"),
    [
        (True, {"temperature": 0.9}),
        (False, {"temperature": 1.0, "top_k": 2}),
        (True, {"temperature": 0.8, "presence_penalty": 1.0}),
    ],
)
def test_the_distribution_under_rejection(
    both: bool, warps: dict[str, Any], models: Models
) -> None:
    """It is the target's, though with `top_k` the support of a row may lack the target's tokens;
    a drafter that misreports its probabilities is found."""
    model, trial = models(VOCAB, both), Trial(target=TARGET, warps=warps)
    assert trial.surplus(Deer(model=model), 600, Rejection()) < 4
    if "top_k" not in warps:
        assert trial.surplus(Lying(model=model), 600, Rejection()) > 8


def test_edges(models: Models) -> None:
    """Blocks longer than what is left, a window that is nearly full, a text of one token, an end
    token inside a block."""
    target = drafting = models()
    whole = stage(target, Deer(model=drafting), policy=FixedLength(8))
    alone = undrafted(whole)
    window = target.info.context_length
    for prompt in ((5,), tuple(3 + i % 200 for i in range(window - 3))):
        for count in (1, 2, 3, 40):
            found = run(whole, [prompt], max_new_tokens=count)
            assert outputs(found) == outputs(run(alone, [prompt], max_new_tokens=count))
    [plain] = run(alone, [TEXT], max_new_tokens=30)
    for place in (1, 2, 3, 9):
        ends = (plain.output[place],)
        found = run(whole, [TEXT], max_new_tokens=30, end_ids=ends)
        assert outputs(found) == outputs(run(alone, [TEXT], max_new_tokens=30, end_ids=ends))


def test_a_block_ends_with_an_end_token_or_where_it_is_stopped(models: Models) -> None:
    drafter = Deer(model=models())
    full = proposed(drafter).tokens.tolist()
    assert len(full) == 8
    distinct = next(i for i in range(1, 8) if full[i] not in full[:i])
    ended = proposed(drafter, end_ids=(full[distinct],))
    assert ended.tokens.tolist() == full[: distinct + 1]
    assert proposed(drafter, Budget.chain(3)).tokens.tolist()[:1] == full[:1]
    stop = replace(Budget.chain(8), stop=BelowThreshold(0.9))
    assert proposed(drafter, stop).tokens.tolist() == full[:1]
    assert len(proposed(Deer(model=models(), k=2))) == 2


def proposed(drafter: Deer, budget: Budget | None = None, **how: Any) -> Draft:
    sampler = Sampler(SamplingParams(temperature=0.0), prompt_ids=TEXT, **how)
    [state] = drafter.begin([Request(Prompt(token_ids=TEXT), sampler)])
    return drafter.propose([state], [NO_IDS], [budget or Budget.chain(8)])[0]


def test_blocks_follow_a_grammar(models: Models) -> None:
    """Each token of a block is drawn from those that the grammar allows after the ones before."""
    family = tabular_family()
    steps = {i: {(3 * i + 1) % 6 + 1: i + 1, (5 * i + 2) % 6 + 1: i + 1} for i in range(12)}
    grammar = Automaton({**steps, 12: {}}, frozenset((12,)), size=7)
    whole = stage(family.target, Deer(model=models(7)), policy=FixedLength(6))
    for temperature in (0.0, 0.9):
        how: dict[str, Any] = {
            "temperature": temperature,
            "end_ids": (0,),
            "grammar": grammar,
            "max_new_tokens": 20,
        }
        [drafted] = run(whole, [(1, 2, 3)], **how)
        [plain] = run(undrafted(whole), [(1, 2, 3)], **how)
        assert drafted.output == plain.output and len(plain.output) == 13
        assert drafted.counters.drafted == 0 or drafted.counters.accepted > 0
    request = generation((1, 2, 3), end_ids=(0,), grammar=grammar, temperature=0.9).request
    drafter = Deer(model=models(7))
    [state] = drafter.begin([request])
    [draft] = drafter.propose([state], [NO_IDS], [Budget.chain(8)])
    assert [t in steps[i] for i, t in enumerate(draft.tokens.tolist())] == [True] * 8


def test_two_requests_share_a_forward(models: Models) -> None:
    """Each draft is that of its request alone; one without room is left out."""
    drafter = Deer(model=models())
    prompts = (TEXT, (7, 8, 9), (5,))
    requests = [
        Request(Prompt(token_ids=p), Sampler(SamplingParams(seed=i), prompt_ids=p))
        for i, p in enumerate(prompts)
    ]
    states = drafter.begin(requests)
    budgets = [Budget.chain(8), Budget.chain(3), Budget.chain(0)]
    together = drafter.propose(states, [NO_IDS] * 3, budgets)
    assert [len(draft) for draft in together] == [8, 3, 0]
    for request, budget, draft in zip(requests, budgets, together, strict=True):
        [state] = drafter.begin([request])
        [alone] = drafter.propose([state], [NO_IDS], [budget])
        assert alone.tokens.tolist() == draft.tokens.tolist()


def test_masks_in_both_directions_of_one_segment(models: Models) -> None:
    """A mask sees the masks behind it; tokens of the same segment do not."""
    model = models()
    mask = model.info.mask
    assert mask is not None

    def logits(ids: tuple[int, ...], rows: range, both: bool) -> torch.Tensor:
        [cache] = model.start([Prompt(token_ids=TEXT)])
        segment = Segment(cache, as_ids(ids), prompts=mask.embedding[None], both=both)
        return model.forward([segment], [as_ids(rows)])[0].logits

    short, long = logits((3, 4, -1), range(-1, 3), True), logits((3, 4, -1, -1), range(-1, 4), True)
    torch.testing.assert_close(short[:3], long[:3], rtol=1e-9, atol=1e-9)
    assert (short[3] - long[3]).abs().max() > 1e-3
    short, long = logits((-1,), range(-1, 1), False), logits((-1, -1), range(-1, 2), False)
    torch.testing.assert_close(short, long[:2], rtol=1e-9, atol=1e-9)


def test_the_chance_of_a_later_token_does_not_depend_on_those_before(models: Models) -> None:
    """The rows of a block are the same whatever is drawn; only its own seed changes the tokens."""
    drafter = Deer(model=models()).bind(Needs(reference=True), 1)
    rows: list[list[torch.Tensor]] = []
    drawn: list[list[int]] = []
    for seed in range(3):
        sampler = Sampler(SamplingParams(temperature=1.5, seed=seed), prompt_ids=TEXT)
        [state] = drafter.begin([Request(Prompt(token_ids=TEXT), sampler)])
        [draft] = drafter.propose([state], [NO_IDS], [Budget.chain(8)])
        assert draft.reference is not None
        rows.append([row for row in draft.reference if row is not None])
        drawn.append(draft.tokens.tolist())
    assert len({tuple(tokens) for tokens in drawn}) == 3
    for other in rows[1:]:
        assert all(torch.equal(a, b) for a, b in zip(rows[0], other, strict=True))


def test_what_is_refused(models: Models, tmp_path: Path) -> None:
    plain = tabular_family().draft
    with pytest.raises(OptionError, match="trained on masked blocks"):
        Deer(model=plain)
    with pytest.raises(OptionError, match="blocks of at most 8"):
        Deer(model=models(), k=16)
    with pytest.raises(OptionError, match="k is 0"):
        Deer(model=models(), k=0)
    with pytest.raises(OptionError, match="needs a draft model"):
        METHOD.drafter(Given(target=plain), (), {})
    wrapped = models(both=True)
    info = replace(wrapped.info, reads_prompts=False)

    class Wrapped:
        def __init__(self) -> None:
            self.info = info

    with pytest.raises(StrategyError, match="does not read as it is"):
        Deer(model=Wrapped())  # pyright: ignore[reportArgumentType]
    folder = masked(tmp_path / "draft", True)
    good = torch.zeros(HIDDEN)
    for facts, tensors, problem in (
        ({"format": "other"}, {"mask": good}, "its format is"),
        ({"format": FORMAT, "both": True}, {"mask": good}, "block is None"),
        ({"format": FORMAT, "both": True, "block": 65}, {"mask": good}, "block is 65"),
        ({"format": FORMAT, "both": 1, "block": 8}, {"mask": good}, "both is 1"),
        ({"format": FORMAT, "both": True, "block": 8}, {"mask": good[1:]}, "has shape"),
        ({"format": FORMAT, "both": True, "block": 8}, {"mask": good / 0}, "not finite"),
        ({"format": FORMAT, "both": True, "block": 8}, {"other": good}, "no tensor"),
    ):
        write_json(folder / f"{KIND}.json", facts)
        save_tensors(folder / f"{KIND}.safetensors", tensors)
        with pytest.raises(CheckpointError, match=problem) as caught:
            Decoder.load(folder)
        assert "\n" not in str(caught.value) and "outrider train deer" in str(caught.value)
    (folder / f"{KIND}.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no deer\.safetensors"):
        Decoder.load(folder)
    (folder / f"{KIND}.json").unlink()
    assert Decoder.load(folder).info.mask is None


def test_priors_count_one_forward_for_a_block(models: Models) -> None:
    costs = Costs(target=CostSurface.of({1: 1e-3, 64: 2e-3}), overhead=1e-4)
    given = Given(target=tabular_family().target, below=(models(),), costs=costs)
    made = METHOD.drafter(given, (), {"k": 4})
    [source] = METHOD.priors(made, given)
    assert source.longest == 4 and source.name == "deer"
    assert source.fixed > source.seconds >= 0
    drafted = run(stage(models(), made, Match(), policy=FixedLength(8)), [TEXT], max_new_tokens=8)
    chain = ModelDrafter(model=models())
    chained = run(stage(models(), chain, Match(), policy=FixedLength(4)), [TEXT], max_new_tokens=8)
    assert outputs(drafted) == outputs(chained)
