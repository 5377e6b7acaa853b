"""What a stop head achieves: its calibration, and tokens of a round against drafted tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.acceptance import Rejection
from outrider.core.metrics import acceptance_rate, total
from outrider.core.types import Prompt, as_ids
from outrider.core.values import JsonValue
from outrider.decoding import generate
from outrider.decoding.generation import Generation
from outrider.drafters import ModelDrafter
from outrider.policies import FixedLength, SpecDecPlus, StopHead
from outrider.protocols import DraftPolicy, Request, Segment
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy.strategy import Strategy
from outrider.training.core.pairs import ModelPair
from outrider.training.stop.data import (
    Answer,
    chances,
    hidden_of,
    kept_chances,
    rows_of,
)

_EVERY = 8
"""Tokens of an answer between two drafts of the calibration."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Predicted and true survival of drafts, by their length.

    Attributes:
        predicted: `[depth]` mean product of the head's chances, without the weight of refused
            tokens.
        true: `[depth]` mean product of min(1, p / q): the chance that all tokens are kept.
        drafts: number of drafts.
    """

    predicted: list[float]
    true: list[float]
    drafts: int

    @property
    def error(self) -> float:
        """Mean distance of the two curves."""
        pairs = zip(self.predicted, self.true, strict=True)
        return sum(abs(a - b) for a, b in pairs) / max(len(self.true), 1)


@dataclass(frozen=True, slots=True)
class PolicyFigures:
    """Figures of one policy.

    Attributes:
        policy: the policy in words.
        tokens_a_round: emitted tokens of a round.
        drafted_a_round: drafted tokens of a round.
        acceptance: accepted / drafted tokens.
    """

    policy: str
    tokens_a_round: float
    drafted_a_round: float
    acceptance: float

    def __str__(self) -> str:
        return (
            f"{self.policy}: {self.tokens_a_round:.2f} tokens and {self.drafted_a_round:.2f} "
            f"drafted tokens a round, {self.acceptance:.1%} of them accepted"
        )

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the figures as JSON."""
        return {
            "policy": self.policy,
            "tokens_a_round": round(self.tokens_a_round, 3),
            "drafted_a_round": round(self.drafted_a_round, 3),
            "acceptance": round(self.acceptance, 4),
        }


def calibration(
    pair: ModelPair,
    head: StopHead,
    found: Sequence[Answer],
    depth: int,
    temperature: float,
    seed: int,
) -> Calibration:
    """Compare predicted with true survival on drafts that begin inside answers of the target."""
    generator = torch.Generator().manual_seed(seed)
    predicted, true = torch.zeros(depth).double(), torch.zeros(depth).double()
    drafts = 0
    for answer in found:
        for start in range(0, len(answer.text), _EVERY):
            text = (*answer.prompt, *answer.text[:start])
            states, kept = _chain(pair, text, depth, temperature, generator)
            predicted += head.unweighted(head.odds(states)).detach().cumprod(0)
            true += kept.cumprod(0)
            drafts += 1
    count = max(drafts, 1)
    return Calibration((predicted / count).tolist(), (true / count).tolist(), drafts)


def _chain(
    pair: ModelPair,
    text: tuple[int, ...],
    depth: int,
    temperature: float,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "depth hidden"], Float[Tensor, " depth"]]:
    """Draft a chain; return the state after each token, and the chance that each is kept."""
    width = min(pair.target.info.vocab_size, pair.draft.info.vocab_size)
    [cache] = pair.draft.start([Prompt(token_ids=text)])
    segment, want, tokens = Segment(cache, as_ids(())), as_ids([-1]), list[int]()
    states: list[Tensor] = []
    distributions: list[Tensor] = []
    for _ in range(depth):
        [rows] = pair.draft.forward([segment], [want])
        distributions.append(chances(rows, width, temperature)[0])
        tokens.append(int(torch.multinomial(distributions[-1], 1, generator=generator)))
        segment, want = Segment(cache, as_ids(tokens[-1:])), as_ids([len(tokens) - 1])
        if len(tokens) > 1:
            states.append(hidden_of(pair.draft, rows)[0])
    [rows] = pair.draft.forward([segment], [want])
    states.append(hidden_of(pair.draft, rows)[0])
    p = chances(rows_of(pair.target, text, tuple(tokens)), width, temperature)[:-1]
    return torch.stack(states), kept_chances(p, torch.stack(distributions), tokens)


def compare(
    pair: ModelPair, head: StopHead, prompts: Sequence[tuple[int, ...]], params: SamplingParams
) -> list[PolicyFigures]:
    """Decode prompts under fixed lengths, the untrained stop, and the head."""
    policies: dict[str, DraftPolicy] = {
        f"fixed(num_speculative_tokens={k})": FixedLength(k) for k in (2, 4, 8)
    }
    for eta in (0.3, 0.5, 0.7):
        policies[f"specdec-plus(eta={eta:g})"] = SpecDecPlus(eta=eta, least=1)
    for eta in (0.3, 0.5, 0.7, 0.9):
        policies[f"specdec-plus(eta={eta:g},head)"] = SpecDecPlus(eta=eta, least=1, head=head)
    return [_figures(pair, name, one, prompts, params) for name, one in policies.items()]


def _figures(
    pair: ModelPair,
    name: str,
    policy: DraftPolicy,
    prompts: Sequence[tuple[int, ...]],
    params: SamplingParams,
) -> PolicyFigures:
    strategy = Strategy(
        target=pair.target,
        drafter=ModelDrafter(model=pair.draft),
        rule=Rejection(),
        policy=policy,
    )
    ends = pair.target.info.end_ids
    generations = [
        Generation(
            Request(
                Prompt(token_ids=ids), Sampler(params, prompt_ids=ids, end_ids=ends, sample=number)
            )
        )
        for number, ids in enumerate(prompts)
    ]
    for _ in generate(strategy.stage, generations):
        pass
    counters = total([one.counters for one in generations])
    rounds = max(counters.rounds, 1)
    return PolicyFigures(
        policy=name,
        tokens_a_round=sum(len(one.output) for one in generations) / rounds,
        drafted_a_round=counters.drafted / rounds,
        acceptance=acceptance_rate(counters),
    )
