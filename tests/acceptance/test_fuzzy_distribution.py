"""Below an outer `Rejection`, `Fuzzy` with its tracked distribution is exact; the published
shortcut is not.

Two inner tokens are drafted, judged by the qualifier, handed up with their distributions and tested
against the target: PyramidSD with an exact outer stage. Every draw is enumerated, so the
distribution of the two tokens emitted is known to rounding. (tests/exactness repeats this with the
real noise.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from math import prod

import pytest
import torch
from torch import Tensor

from outrider.acceptance import Fuzzy, Match, Rejection
from outrider.core.types import Draft, Draw
from outrider.protocols import AcceptanceRule
from outrider.protocols.view import View
from tests.acceptance.hand import chain, view

LENGTH, VOCAB = 2, 3
Text = tuple[int, ...]


def table(*rows: Sequence[float]) -> Tensor:
    """Row 0 follows the empty text, row 1 + x follows token x."""
    return torch.tensor(rows, dtype=torch.float64)


TARGET = table((0.2, 0.3, 0.5), (0.6, 0.3, 0.1), (0.2, 0.2, 0.6), (0.1, 0.5, 0.4))
QUALIFIER = table((0.3, 0.4, 0.3), (0.4, 0.3, 0.3), (0.1, 0.5, 0.4), (0.2, 0.3, 0.5))
DRAFT = table((0.7, 0.2, 0.1), (0.4, 0.4, 0.2), (0.8, 0.1, 0.1), (0.1, 0.2, 0.7))
JOINT = TARGET[0][:, None] * TARGET[1:]


def probs(model: Tensor, text: Text) -> Tensor:
    return model[1 + text[-1] if text else 0]


@dataclass
class Scripted(View):
    """The verifier's choices are what the script says."""

    script: Text = field(default=())

    def choose(self, node: int) -> int:
        return self.script[node + 1]


def judged(rule: AcceptanceRule, before: Text, draft: Draft, choices: Text):
    text = (*before, *draft.tokens.tolist())
    rows = [probs(QUALIFIER, text[:i]).log() for i in range(len(before), len(text) + 1)]
    base = view(draft, torch.stack(rows), temperature=1.0, generated=before, tier=1)
    parts = {f.name: getattr(base, f.name) for f in fields(View) if f.init}
    return rule(draft, Scripted(**parts, script=(*choices, 0)))


def qualified(
    rule: AcceptanceRule, before: Text, *, lie: bool, greedy: bool
) -> Iterator[tuple[float, Text, list[Tensor]]]:
    """All ways to fill the text to `LENGTH` by inner rounds: probability, tokens, their
    distributions."""
    need = LENGTH - len(before)
    if not need:
        yield 1.0, (), []
        return
    for tokens in product(range(VOCAB), repeat=need):
        distributions = [probs(DRAFT, (*before, *tokens[:i])) for i in range(need)]
        if greedy and any(
            int(own.argmax()) != t for own, t in zip(distributions, tokens, strict=True)
        ):
            continue
        drawn = (
            1.0 if greedy else prod(float(o[t]) for o, t in zip(distributions, tokens, strict=True))
        )
        draft = chain(
            tokens,
            probs=[None] * need if greedy else distributions,
            reference=[own.log() for own in distributions],
            draw=Draw.DETERMINISTIC if greedy else Draw.IID,
        )
        for choices in product(range(VOCAB), repeat=need):
            theirs = [probs(QUALIFIER, (*before, *tokens[:i])) for i in range(need)]
            chosen = prod(float(q[y]) for q, y in zip(theirs, choices, strict=True))
            verdict = judged(rule, before, draft, choices)
            out = verdict.emitted[:need]
            known = theirs if lie else verdict.distributions
            own = [x for x in known[: len(out)] if x is not None]
            for w, more, others in qualified(rule, (*before, *out), lie=lie, greedy=greedy):
                yield drawn * chosen * w, (*out, *more), own + others


def emitted(
    rule: AcceptanceRule, before: Text = (), *, lie: bool = False, greedy: bool = False
) -> dict[Text, float]:
    """The distribution of the finished text: min(1, t / r), else the residual, then the next
    round."""
    if len(before) == LENGTH:
        return {before: 1.0}
    out: dict[Text, float] = {}
    ends: dict[Text, float] = {}
    for weight, tokens, distributions in qualified(rule, before, lie=lie, greedy=greedy):
        text = before
        for token, r in zip(tokens, distributions, strict=True):
            t = probs(TARGET, text)
            accepted = min(1.0, float(t[token] / r[token])) if r[token] > 0 else 1.0
            left = (t - r).clamp(min=0.0)
            for other in range(VOCAB):
                share = float(left[other] / left.sum()) if left.sum() > 0 else 0.0
                refused = (*text, other)
                ends[refused] = ends.get(refused, 0.0) + weight * (1 - accepted) * share
            weight, text = weight * accepted, (*text, token)
        ends[text] = ends.get(text, 0.0) + weight
    for text, weight in ends.items():
        for whole, share in emitted(rule, text, lie=lie, greedy=greedy).items() if weight else ():
            out[whole] = out.get(whole, 0.0) + weight * share
    return out


def distance(probs: dict[Text, float]) -> float:
    found = torch.zeros_like(JOINT)
    for text, share in probs.items():
        found[text] = share
    return float((found - JOINT).abs().sum() / 2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("threshold", [-1.0, 0.02, 0.05, 9.0])
def test_the_tracked_distribution_is_exact(threshold: float, greedy: bool) -> None:
    rule = Fuzzy("js", threshold, with_probs=True)
    assert distance(emitted(rule, greedy=greedy)) < 1e-12


@pytest.mark.usefixtures("unchecked")
def test_so_is_match_below() -> None:
    assert distance(emitted(Match(with_probs=True))) < 1e-12


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("threshold", "least"), [(0.02, 0.02), (9.0, 0.08)])
def test_claiming_the_qualifiers_distribution_throughout_is_caught(
    threshold: float, least: float
) -> None:
    assert distance(emitted(Fuzzy("js", threshold, with_probs=True), lie=True)) > least


def test_the_thresholds_above_split_the_rows() -> None:
    rows = [Fuzzy("js", 0).measure(d.log(), q.log()) for d, q in zip(DRAFT, QUALIFIER, strict=True)]
    assert [sum(r <= t for r in rows) for t in (0.02, 0.05, 9.0)] == [1, 2, 4]


@pytest.mark.parametrize("row", range(4))
def test_the_distribution_reported_is_that_of_the_token(row: int) -> None:
    rule = Fuzzy("js", 0.05, with_probs=True)
    close = rule.measure(DRAFT[row].log(), QUALIFIER[row].log()) <= 0.05
    for token in range(VOCAB):
        draft = chain([token], probs=[DRAFT[row]], reference=[DRAFT[row].log()])
        rows = QUALIFIER[row].log().expand(2, -1)
        verdict = rule(draft, view(draft, rows, temperature=1.0))
        reported = verdict.distributions[0]
        assert reported is not None
        assert torch.allclose(reported, (DRAFT if close else QUALIFIER)[row])
        assert not close or verdict.tokens == (token,)
    assert Rejection().needs.probs
