"""Exact distributions of what tree rules emit at one node: every draft and every outcome of every
test."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from dataclasses import replace as swapped

import torch
from torch import Tensor

from outrider.core.types import Draft, Draw, as_ids
from outrider.protocols import AcceptanceRule
from outrider.protocols.view import View
from outrider.sampling.noise import Purpose
from tests.acceptance.hand import tree, view


class Asking(float):
    """A number that passes its test, and notes how likely a test number is to pass."""

    chance = 0.0

    def __mul__(self, drawn: float) -> "Asking":
        self.drawn = drawn
        self.product = Asking(0.0)
        self.product.asker = self
        return self.product

    def __lt__(self, allowed: float) -> bool:
        drawn = self.asker.drawn
        if not math.isnan(drawn) and allowed > 0:
            self.asker.chance = min(1.0, allowed / drawn) if drawn > 0 else 1.0
        return self.asker.chance > 0


@dataclass
class Scripted(View):
    """Test i is made with the number told; shows what the token after the tests is drawn from."""

    passes: Sequence[float] = ()
    probs_drawn: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def uniform(self, node: int, sibling: int = 0) -> float:
        return self.passes[sibling]

    def draw(self, probs: Tensor, node: int, purpose: Purpose) -> int:
        self.probs_drawn = probs / probs.sum()
        return int(probs.argmax())


def scripted(draft: Draft, target: Tensor, passes: Sequence[float]) -> Scripted:
    base = view(draft, target.log().expand(len(draft) + 1, -1), temperature=1.0)
    return Scripted(
        **{f.name: getattr(base, f.name) for f in fields(View) if f.init}, passes=passes
    )


def emitted(rule: AcceptanceRule, draft: Draft, target: Tensor) -> tuple[Tensor, float]:
    """The exact distribution of the first token emitted for one draft of siblings, and the chance
    that one of them is kept: the tests are made one after the other, each after all before it
    failed."""
    tests = max((1 + s for own in draft.samples or () for s in own), default=len(draft))
    probs, kept, refused = torch.zeros_like(target), 0.0, 1.0
    for place in range(tests):
        asking = Asking(0.0)
        numbers = [math.inf] * place + [asking] + [math.inf] * (tests - place - 1)
        verdict = rule(draft, scripted(draft, target, numbers))
        if verdict.path:
            probs[verdict.tokens[0]] += refused * asking.chance
        kept += refused * asking.chance
        refused *= 1 - asking.chance
    seen = scripted(draft, target, [math.inf] * tests)
    if refused > 0:
        rule(draft, seen)
        probs += refused * seen.probs_drawn
    return probs, kept


def siblings(tokens: Sequence[int], probs: Tensor | None, draw: Draw) -> Draft:
    return tree(tokens, [-1] * len(tokens), probs=[probs] * len(tokens), draw=draw)


def merged(tokens: Sequence[int], probs: Tensor, *, counted: bool = True) -> Draft:
    """Independent draws as a trie: equal ones are one node."""
    found = list(dict.fromkeys(tokens))
    draft = siblings(found, probs, Draw.IID)
    if not counted:
        return draft
    samples = tuple(tuple(i for i, t in enumerate(tokens) if t == own) for own in found)
    return swapped(draft, samples=samples)


def independent(probs: Tensor, count: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every outcome of `count` independent draws, with its probability."""
    for tokens in itertools.product(range(len(probs)), repeat=count):
        chance = float(torch.prod(probs[list(tokens)]))
        if chance > 0:
            yield tokens, chance


def without_replacement(probs: Tensor, count: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every outcome of `count` draws without replacement, with its probability."""
    for tokens in itertools.permutations(range(len(probs)), count):
        chance, left = 1.0, 1.0
        for token in tokens:
            own = float(probs[token])
            chance *= own / left if own > 0 else 0.0
            left = max(left - own, 1e-300)
        if chance > 0:
            yield tokens, chance


def over(
    drafts: Iterator[tuple[Draft, float]], rule: AcceptanceRule, target: Tensor
) -> tuple[Tensor, float]:
    """The distribution of the first token over all drafts, and the chance that one of its tokens is
    kept."""
    probs, kept = torch.zeros_like(target), 0.0
    for draft, chance in drafts:
        own, passed = emitted(rule, draft, target)
        probs, kept = probs + chance * own, kept + chance * passed
    return probs, kept


def chances(*shares: float) -> Tensor:
    return torch.tensor(shares, dtype=torch.float64)


def reordered(draft: Draft, order: Sequence[int]) -> Draft:
    """The siblings of `draft` as if they had been drawn in another order."""
    assert draft.probs is not None
    return swapped(
        draft,
        tokens=as_ids([int(draft.tokens[i]) for i in order]),
        probs=tuple(draft.probs[i] for i in order),
    )
