"""Conformance tests of guidance methods: what must hold of each, whatever it mixes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.decoding import Stage
from outrider.drafters import Lookup, ModelDrafter, NoDrafter, Qualified
from outrider.drafters.neural.growth import Eagle2
from outrider.drafters.neural.tree import TreeDrafter
from outrider.policies import FixedLength, FixedTree
from outrider.protocols import Drafter, DraftPolicy, LanguageModel, Segment
from outrider.testing.errors import require
from outrider.testing.rigs import SAMPLINGS, check_counters, outputs, run, samples, stage

_SAMPLED = ("greedy", "t1.3", "penalties")


@dataclass(frozen=True, slots=True)
class GuidanceReport:
    """The results of a check of a guidance method.

    Attributes:
        drafted: number of drafted tokens.
        accepted: number of them that were accepted.
        changed: number of prompts whose guided text differs from the unguided one.
    """

    drafted: int
    accepted: int
    changed: int


def check_guidance(
    guided: LanguageModel,
    base: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    neutral: LanguageModel | None = None,
    tolerance: float = 1e-9,
) -> GuidanceReport:
    """Check a guided model against the contract.

    Rows do not depend on how a text is read: at once, token by token, as a branch of a tree, or
    beside other texts. Drafts by lookup, by the base as chains and trees, and below a guided
    qualifier change no text, for several samplings, in a batch, for samples of one prompt, and for
    the next turn. With neutral options the logits are those of the base (bit for bit, if its
    rows do not depend on what else is read). At least one
    text differs from the unguided one.

    Args:
         guided: the guided model, in float64.
         base: the model without guidance.
         prompts: some of which are guided.
         neutral: the same method with options that guide nothing; None: it has none.
         tolerance: largest difference of two logits.

     Raises:
         ConformanceError: the first violated point of the contract, in one line.
    """
    _check_readings(guided, prompts, tolerance)
    if neutral is not None:
        _check_neutral(neutral, base, prompts)
    drafted = accepted = 0
    plain = stage(guided, NoDrafter())
    for number, (name, (drafter, policy)) in enumerate(_drafters(guided, base).items()):
        sampling = _SAMPLED[number % len(_SAMPLED)]
        options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 12}
        alone = [text for prompt in prompts for text in _texts(plain, prompt, options)]
        found = run(stage(guided, drafter, policy=policy), prompts, **options)
        require(outputs(found) == alone, f"drafts by {name} change a text ({sampling})")
        for g in found:
            check_counters(g.counters, len(g.output))
            drafted += g.counters.drafted
            accepted += g.counters.accepted
    _check_turns(guided, base, prompts[0])
    own, unguided = (outputs(run(stage(m, NoDrafter()), prompts)) for m in (guided, base))
    changed = sum(a != b for a, b in zip(own, unguided, strict=True))
    require(changed > 0, "no text differs from the unguided one")
    return GuidanceReport(drafted, accepted, changed)


def _texts(whole: Stage, prompt: Prompt, options: dict[str, Any]) -> list[tuple[int, ...]]:
    return outputs(run(whole, [prompt], **options))


def _drafters(
    guided: LanguageModel, base: LanguageModel
) -> dict[str, tuple[Drafter, DraftPolicy | None]]:
    two = ModelDrafter(model=base)
    return {
        "lookup": (Lookup(max_ngram=2, min_ngram=1), None),
        "the base": (two, None),
        "a tree": (TreeDrafter(model=base, growth=Eagle2(width=3)), FixedTree(depth=3, nodes=7)),
        "a guided qualifier": (
            Qualified(drafter=two, qualifier=guided, policy=FixedLength(3)),
            None,
        ),
    }


def _check_readings(guided: LanguageModel, prompts: Sequence[Prompt], tolerance: float) -> None:
    """K5 and K6: rows are the same read at once, one by one, as a tree, and beside other texts."""
    tokens = (1, 2, 1, 4)
    want = as_ids(range(-1, len(tokens)))
    caches = guided.start(prompts)
    together = guided.forward(
        [Segment(cache, as_ids(tokens)) for cache in caches], [want] * len(caches)
    )
    for prompt, beside in zip(prompts, together, strict=True):
        rows = beside.logits
        probs = torch.softmax(rows, dim=-1)
        require(bool(torch.isfinite(probs).all()), "a row is not a distribution")
        [cache] = guided.start([prompt])
        [alone] = guided.forward([Segment(cache, as_ids(tokens))], [want])
        _same(alone.logits, rows, tolerance, "beside other texts")
        [cache] = guided.start([prompt])
        [tree] = guided.forward(
            [Segment(cache, as_ids((3, *tokens)), as_ids((-1, -1, 1, 2, 3)))],
            [as_ids((-1, 1, 2, 3, 4))],
        )
        _same(tree.logits, rows, tolerance, "as a branch of a tree")
        [cache] = guided.start([prompt])
        for number in range(len(tokens)):
            [one] = guided.forward([Segment(cache, NO_IDS)], [as_ids((-1,))])
            _same(one.logits, rows[number : number + 1], tolerance, "token by token")
            cache.commit(tokens[number : number + 1])


def _same(ours: Tensor, plain: Tensor, tolerance: float, how: str) -> None:
    apart = (ours - plain).abs().where(ours != plain, 0.0)  # both may exclude a token (-inf)
    require(
        float(apart.max()) <= tolerance, f"a row read {how} differs by {float(apart.max()):.3g}"
    )


def _check_neutral(neutral: LanguageModel, base: LanguageModel, prompts: Sequence[Prompt]) -> None:
    """K1: without the weight of the other sources, not a bit differs."""
    for prompt in prompts:
        rows = [
            model.forward([Segment(model.start([prompt])[0], as_ids((3, 1)))], [as_ids((-1, 0, 1))])
            for model in (neutral, base)
        ]
        [[ours], [plain]] = rows
        is_equal = torch.equal(ours.logits, plain.logits)
        if not base.info.batch_invariant:  # its rows depend on what else is read
            is_equal = bool(torch.allclose(ours.logits, plain.logits, rtol=0.0, atol=1e-9))
        require(is_equal, "with neutral options the logits are not those of the base")


def _check_turns(guided: LanguageModel, base: LanguageModel, prompt: Prompt) -> None:
    """Check samples of one prompt, a fork in mid-round, and a text that continues the last one."""
    whole, alone = stage(guided, ModelDrafter(model=base)), stage(guided, NoDrafter())
    options: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 8}
    several, plain = (samples(s, prompt, 3, **options) for s in (whole, alone))
    require(outputs(several) == outputs(plain), "samples of one prompt differ from undrafted ones")
    [first] = run(whole, [prompt], **options)
    [again] = run(whole, [prompt], previous=[first.sequence], **options)
    require(again.output == first.output, "the same prompt after its own text gives another text")
    [cache] = guided.start([prompt])
    guided.forward([Segment(cache, as_ids((1, 2)))], [NO_IDS])
    twin = cache.fork()
    found = [guided.forward([Segment(c, as_ids((4,)))], [as_ids((2,))])[0] for c in (cache, twin)]
    require(torch.equal(found[0].logits, found[1].logits), "a fork has other rows")
