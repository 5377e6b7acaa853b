"""Exact laws of what tree rules emit at one node: every draft and every outcome of every test."""

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
    law_drawn: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def uniform(self, node: int, sibling: int = 0) -> float:
        return self.passes[sibling]

    def draw(self, law: Tensor, node: int, purpose: Purpose) -> int:
        self.law_drawn = law / law.sum()
        return int(law.argmax())


def scripted(draft: Draft, target: Tensor, passes: Sequence[float]) -> Scripted:
    base = view(draft, target.log().expand(len(draft) + 1, -1), temperature=1.0)
    return Scripted(
        **{f.name: getattr(base, f.name) for f in fields(View) if f.init}, passes=passes
    )


def emitted(rule: AcceptanceRule, draft: Draft, target: Tensor) -> tuple[Tensor, float]:
    """The exact law of the first token emitted for one draft of siblings, and the chance that one
    of them is kept: the tests are made one after the other, each after all before it failed."""
    tests = max((1 + s for own in draft.samples or () for s in own), default=len(draft))
    law, kept, refused = torch.zeros_like(target), 0.0, 1.0
    for place in range(tests):
        asking = Asking(0.0)
        numbers = [math.inf] * place + [asking] + [math.inf] * (tests - place - 1)
        verdict = rule(draft, scripted(draft, target, numbers))
        if verdict.path:
            law[verdict.tokens[0]] += refused * asking.chance
        kept += refused * asking.chance
        refused *= 1 - asking.chance
    seen = scripted(draft, target, [math.inf] * tests)
    if refused > 0:
        rule(draft, seen)
        law += refused * seen.law_drawn
    return law, kept


def siblings(tokens: Sequence[int], law: Tensor | None, draw: Draw) -> Draft:
    return tree(tokens, [-1] * len(tokens), law=[law] * len(tokens), draw=draw)


def merged(tokens: Sequence[int], law: Tensor, *, counted: bool = True) -> Draft:
    """Independent draws as a trie: equal ones are one node."""
    found = list(dict.fromkeys(tokens))
    draft = siblings(found, law, Draw.IID)
    if not counted:
        return draft
    samples = tuple(tuple(i for i, t in enumerate(tokens) if t == own) for own in found)
    return swapped(draft, samples=samples)


def independent(law: Tensor, count: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every outcome of `count` independent draws, with its probability."""
    for tokens in itertools.product(range(len(law)), repeat=count):
        chance = float(torch.prod(law[list(tokens)]))
        if chance > 0:
            yield tokens, chance


def without_replacement(law: Tensor, count: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every outcome of `count` draws without replacement, with its probability."""
    for tokens in itertools.permutations(range(len(law)), count):
        chance, left = 1.0, 1.0
        for token in tokens:
            own = float(law[token])
            chance *= own / left if own > 0 else 0.0
            left = max(left - own, 1e-300)
        if chance > 0:
            yield tokens, chance


def over(
    drafts: Iterator[tuple[Draft, float]], rule: AcceptanceRule, target: Tensor
) -> tuple[Tensor, float]:
    """The law of the first token over all drafts, and the chance that one of its tokens is kept."""
    law, kept = torch.zeros_like(target), 0.0
    for draft, chance in drafts:
        own, passed = emitted(rule, draft, target)
        law, kept = law + chance * own, kept + chance * passed
    return law, kept


def chances(*shares: float) -> Tensor:
    return torch.tensor(shares, dtype=torch.float64)


def reordered(draft: Draft, order: Sequence[int]) -> Draft:
    """The siblings of `draft` as if they had been drawn in another order."""
    assert draft.law is not None
    return swapped(
        draft,
        tokens=as_ids([int(draft.tokens[i]) for i in order]),
        law=tuple(draft.law[i] for i in order),
    )
