"""Exact laws of what tree rules emit at one node: every draft and every outcome of every test."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from dataclasses import replace as swapped

import torch
from torch import Tensor

from outrider.noise import Purpose
from outrider.protocols import AcceptanceRule
from outrider.types import Draft, Draw, as_ids
from outrider.view import View
from tests.acceptance.hand import tree, view


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
    of them is kept. The chance that a test passes is found by bisection, test after test."""
    tests = max((1 + s for own in draft.samples or () for s in own), default=len(draft))
    law, kept, refused = torch.zeros_like(target), 0.0, 1.0
    failed: list[float] = []
    for _ in range(tests):
        chance = _chance(rule, draft, target, failed, tests)
        if chance > 0:
            verdict = rule(draft, scripted(draft, target, _script(failed, 0.0, tests)))
            law[verdict.tokens[0]] += refused * chance
            kept += refused * chance
        refused *= 1 - chance
        failed.append(math.inf)
    seen = scripted(draft, target, failed)
    if refused > 0:
        rule(draft, seen)
        law += refused * seen.law_drawn
    return law, kept


def _script(failed: list[float], number: float, tests: int) -> list[float]:
    return [*failed, number, *[math.inf] * (tests - len(failed) - 1)]


def _chance(
    rule: AcceptanceRule, draft: Draft, target: Tensor, failed: list[float], tests: int
) -> float:
    """How likely the next test is to pass after those that failed: the largest number that does."""

    def passes(number: float) -> bool:
        seen = scripted(draft, target, _script(failed, number, tests))
        return bool(rule(draft, seen).path)

    if not passes(0.0):
        return 0.0
    low, high = 0.0, 1.0
    if passes(1.0 - 1e-15):
        return 1.0
    for _ in range(52):
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


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
