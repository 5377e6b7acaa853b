"""Architectures that `TransformersModel` runs beside those of `test_rounds.py`, and whole texts."""

import pytest
import torch

from outrider.core.types import Prompt
from outrider.decoding import generate
from outrider.decoding.generation import Generation
from outrider.models.transformers.model import TransformersModel
from outrider.protocols import Request
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import pyramid
from tests.models.setups.built import ALSO_RUNS, RUNS, BuiltReference, build
from tests.models.setups.drafts import TREE_PARENTS, TREE_TOKENS
from tests.models.setups.reference import begin, close, next_logits, random_ids, tree_logits


@pytest.mark.parametrize("kind", RUNS)
def test_forwards_leave_no_hook_on_the_head(kind: str) -> None:
    model = build(*RUNS[kind])
    runner = TransformersModel(model)
    next_logits(runner, begin(runner, random_ids(3)))
    assert not model.get_output_embeddings()._forward_pre_hooks


@pytest.mark.parametrize("kind", ALSO_RUNS)
def test_other_architectures(kind: str) -> None:
    model = build(*ALSO_RUNS[kind])
    runner, reference = TransformersModel(model), BuiltReference(model)
    text = random_ids(12)
    cache = begin(runner, text)
    logits = tree_logits(runner, cache, TREE_TOKENS, TREE_PARENTS)
    close(logits, reference.node_logits(text, TREE_TOKENS, TREE_PARENTS))
    cache.commit([12, 15, 20, 99])
    close(next_logits(runner, cache), reference.logits([*text, 12, 15, 20, 99])[-1])


@pytest.mark.parametrize("kind", ["gpt2", "mistral window", "qwen2 window"])
def test_drafted_text_is_what_transformers_generates(kind: str) -> None:
    """Through whole rounds, with a draft model that is sometimes right."""
    settings = (RUNS[kind][0], RUNS[kind][1] | {"vocab_size": 40})
    target, near = build(*settings).double(), build(*settings).double()
    with torch.no_grad():
        for weight in near.parameters():
            weight += 0.06 * torch.randn_like(weight)
    prompt = list(random_ids(9, vocab_size=40))
    options = {"do_sample": False, "max_new_tokens": 30, "pad_token_id": 0}
    ids = torch.tensor([prompt])
    expected = target.generate(ids, attention_mask=torch.ones_like(ids), **options)
    strategy = pyramid(TransformersModel(target, name="target"), TransformersModel(near))
    sampler = Sampler(SamplingParams(max_new_tokens=30), prompt_ids=prompt)
    generation = Generation(Request(Prompt(token_ids=tuple(prompt)), sampler))
    for _ in generate(strategy.stage, [generation]):
        pass
    assert generation.output == expected[0, len(prompt) :].tolist()
    assert 0 < generation.counters.accepted < generation.counters.drafted
