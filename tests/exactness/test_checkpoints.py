"""I1 on real architectures: float64 checkpoints drafted, undrafted, and by `transformers`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from outrider import kernels
from outrider.decoding import generate, settle
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.models.transformers.model import TransformersModel
from tests.exactness.setups.rigs import SAMPLINGS, Family, generation, nests, outputs, run, stage
from tests.models.invariants import assert_equals_fresh_prefill
from tests.models.make_checkpoints import make_checkpoint

KINDS = ("llama", "qwen2", "qwen3")
PROMPTS = [(5, 9, 40, 3), (7,), (11, 12, 13, 14, 15, 16, 17), (1, 2), (30, 31, 32)]
SHAPE: dict[str, Any] = {"vocab_size": 48, "std": 0.25}


def noisy(path: Path, seed: int, amount: float) -> None:
    """Shake the weights of the checkpoint at `path`: a smaller tier that often agrees."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(amount * weight.std() * torch.randn_like(weight))
    model.save_pretrained(path)


@pytest.fixture(scope="module", params=KINDS)
def folders(request: Any, tmp_path_factory: Any) -> list[Path]:
    """Target, qualifier, small and draft: each further from the target."""
    root = tmp_path_factory.mktemp(request.param)
    made = []
    for i, amount in enumerate((0.0, 0.15, 0.25, 0.35)):
        path = make_checkpoint(root / str(i), request.param, dtype=torch.float64, **SHAPE)
        if amount:
            noisy(path, i, amount)
        made.append(path)
    return made


DTYPES = {"float64": torch.float64}
if kernels.available():
    DTYPES |= {"native float32": torch.float32, "native int8": torch.int8}


@pytest.fixture(scope="module", params=DTYPES)
def family(folders: list[Path], request: Any) -> Family:
    """The compiled runner needs no float64: its rows do not depend on one another at all."""
    runner = NativeDecoder if "native" in request.param else Decoder
    return Family(*(runner.load(path, dtype=DTYPES[request.param]) for path in folders))


def skip_int8(family: Family) -> None:
    if family.target.dtype == torch.int8:
        pytest.skip("other weights, other texts")


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("nest", ["two", "three", "four"])
def test_drafted_equals_undrafted(family: Family, nest: str, sampling: str) -> None:
    options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 16, "end_ids": (0,)}
    drafters = nests(family)
    whole = stage(family.target, drafters[nest])
    plain = run(stage(family.target, drafters["none"]), PROMPTS, **options)
    assert outputs(run(whole, PROMPTS, **options)) == outputs(plain)
    assert outputs(run(whole, PROMPTS[2:3], **options)) == outputs(plain[2:3])


def test_drafts_are_accepted_and_refused(family: Family) -> None:
    skip_int8(family)
    for nest in ("two", "three", "four"):
        [g] = run(stage(family.target, nests(family)[nest]), PROMPTS[:1], max_new_tokens=60)
        assert 3 < g.counters.accepted < g.counters.drafted


def test_greedy_equals_transformers_generate(folders: list[Path], family: Family) -> None:
    skip_int8(family)
    judge = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float64)
    drafted = run(stage(family.target, nests(family)["three"]), PROMPTS, max_new_tokens=24)
    for prompt, g in zip(PROMPTS, drafted, strict=True):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        theirs = judge.generate(
            ids, attention_mask=mask, max_new_tokens=24, do_sample=False, pad_token_id=0
        )
        assert tuple(theirs[0, len(prompt) :].tolist()) == tuple(g.output)


def test_runners_may_be_mixed(folders: list[Path], family: Family) -> None:
    """A draft model that runs through `transformers` under a target that does not."""
    built = AutoModelForCausalLM.from_pretrained(folders[3], dtype=torch.float64)
    mixed = Family(family.target, family.qualifier, family.small, TransformersModel(built))
    options: dict[str, Any] = {"temperature": 0.8, "max_new_tokens": 16}
    plain = run(stage(family.target, nests(family)["none"]), PROMPTS[:3], **options)
    drafted = run(stage(family.target, nests(mixed)["three"]), PROMPTS[:3], **options)
    assert outputs(drafted) == outputs(plain)


def tiers(lane: Any) -> list[tuple[Any, str]]:
    """The caches of one request, outermost first, with the family member that owns each."""
    found, names = [(lane.cache, "target")], ["qualifier", "small"]
    state = lane.state
    while hasattr(state, "lane"):
        found.append((state.lane.cache, names.pop(0)))
        state = state.lane.state
    return [*found, (state.cache, "draft")]


@pytest.mark.parametrize("nest", ["two", "three", "four"])
def test_every_cache_is_fresh_after_every_round(family: Family, nest: str) -> None:
    """I3, at every tier."""
    gs = [generation(p, max_new_tokens=14, temperature=0.8, end_ids=(0,)) for p in PROMPTS[:2]]
    whole = stage(family.target, nests(family)[nest])
    for active in generate(whole, gs):
        settle(whole, [g.lane for g in active])
        for g in active:
            for cache, member in tiers(g.lane):
                assert_equals_fresh_prefill(getattr(family, member), cache)
                assert list(cache.text) == [*g.request.prompt.token_ids, *g.output]
