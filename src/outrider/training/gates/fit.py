"""Trains gates through a frozen model: by rewards (RLKV), or by hidden states (DuoAttention)."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn, optim

from outrider.training.core.config import Stage
from outrider.training.core.loop import StageRun, StopSignal, run_stage
from outrider.training.gates.config import DuoRecipe, GatesRecipe, RlkvRecipe
from outrider.training.gates.gated import Gated, GateValues
from outrider.training.gates.problems import Problem, of_equal_length, stacked

_FLAT = 1e-6
"""Rewards of one query that differ by less are equal."""

Step = Callable[[Sequence[Problem], torch.Generator], dict[str, float]]


class TrainedGates(nn.Module):
    """Gates under training; they begin as 1, which is full attention."""

    def __init__(self, layers: int, kv_heads: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.ones(layers, kv_heads))

    @torch.no_grad()
    def clamp(self) -> None:
        """Put the gates back to 0..1; a step of the optimizer may leave it."""
        self.values.clamp_(0, 1)

    def mean(self) -> Float[Tensor, ""]:
        """Return the mean of the absolute values; its gradient is 0 at 0."""
        return self.values.abs().mean()


def penalty_weight(reward: float, penalty: float, threshold: float) -> float:
    """Return the weight of the mean gate: 0 while the mean reward is not above `threshold`, else
    `penalty * (exp(reward) - 1)` (RLKV, section 3)."""
    return penalty * math.expm1(reward) if reward > threshold else 0.0


def advantages(rewards: Float[Tensor, "queries samples"]) -> Float[Tensor, "queries samples"]:
    """Return how much better each sample is than those of its query, in standard deviations; 0
    where all are equal (GRPO)."""
    spread = rewards.std(dim=1, keepdim=True, correction=0)
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return torch.where(spread > _FLAT, centred / spread.clamp_min(_FLAT), 0.0)


def rlkv_step(model: Gated, gates: TrainedGates, recipe: RlkvRecipe) -> Step:
    """Return the step of RLKV: it adds the gradient of one group of samples for each problem.

    A sample is read once, with the gates that drew it, so that ratios of probabilities are 1 and
    their clipping has no effect. There is no KL term.
    """

    def step(problems: Sequence[Problem], generator: torch.Generator) -> dict[str, float]:
        rewards, mixed = list[float](), 0
        for group in of_equal_length(problems):
            own = [problems[place] for place in group]
            answers = stacked([one.answer for one in own]).repeat_interleave(recipe.samples, 0)
            written, logs = model.sample(
                stacked([one.prompt for one in own]),
                gates.values,
                answers.shape[1],
                recipe.samples,
                recipe.temperature,
                generator,
            )
            right = (written == answers).all(1).float()
            rewards += right.tolist()
            better = advantages(right.view(-1, recipe.samples)).flatten()
            if better.any():
                mixed += int(better.view(-1, recipe.samples).any(1).sum())
                total = len(problems) * recipe.samples
                (-(better[:, None] * logs).mean(1).sum() / total).backward()
        reward = sum(rewards) / len(rewards)
        weight = penalty_weight(reward, recipe.penalty, recipe.threshold)
        if weight:
            (weight * gates.mean()).backward()
        mean = float(gates.mean().detach())
        return {"reward": reward, "mixed": mixed / len(problems), "penalty": weight, "gate": mean}

    return step


def state_loss(model: Gated, gates: GateValues, problems: Sequence[Problem]) -> Float[Tensor, ""]:
    """Return the mean squared difference of final hidden states from those of full attention, at
    the places that predict answers."""
    full, found, count = torch.ones_like(gates), torch.zeros(()), 0
    for group in of_equal_length(problems):
        own = [problems[place] for place in group]
        ids = stacked([one.ids for one in own])
        texts = torch.from_numpy(np.repeat(range(len(own)), [len(one.rows) for one in own]))
        rows = torch.from_numpy(np.concatenate([one.rows for one in own]))
        with torch.no_grad():
            true = model.hidden(ids, full)[texts, rows]
        found = found + (model.hidden(ids, gates)[texts, rows] - true).square().mean(-1).sum()
        count += len(rows)
    return found / count


def duo_step(model: Gated, gates: TrainedGates, recipe: DuoRecipe) -> Step:
    """Return the step of DuoAttention."""

    def step(problems: Sequence[Problem], generator: torch.Generator) -> dict[str, float]:
        del generator  # nothing is sampled
        loss = state_loss(model, gates.values, problems)
        mean = gates.mean()
        (loss + recipe.penalty * mean).backward()
        return {"loss": loss.item(), "gate": mean.item()}

    return step


def fit(
    method: str,
    model: Gated,
    problems: Sequence[Problem],
    recipe: GatesRecipe,
    folder: Path,
    stop: StopSignal,
) -> GateValues:
    """Return trained gates; an interrupted training continues from the checkpoint in `folder`.

    Args:
        method: `rlkv` or `duo`.
        model: the frozen model.
        problems: problems that it solves with full attention.
        recipe: the options.
        folder: where checkpoints are written.
        stop: whether to stop.

    Raises:
        TrainingStopped: `stop` asked for it, with a checkpoint.
    """
    gates = TrainedGates(*model.shape)
    if method == "rlkv":
        own, batch = recipe.rlkv, recipe.rlkv.queries
        take = rlkv_step(model, gates, recipe.rlkv)
    else:
        own, batch = recipe.duo, recipe.duo.texts
        take = duo_step(model, gates, recipe.duo)

    def step(first: int) -> dict[str, float]:
        gates.clamp()
        number = first // batch
        rng = np.random.default_rng((recipe.seed, number))
        chosen = rng.choice(len(problems), min(batch, len(problems)), replace=False)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return take([problems[place] for place in chosen], generator)

    # The loop counts tokens in rows of `sequence_length`; here it counts texts.
    stage = Stage(
        tokens=own.steps * batch,
        sequence_length=1,
        batch=batch,
        micro_batch=batch,
        learning_rate=own.learning_rate,
        final_learning_rate=own.learning_rate,
        max_minutes=recipe.max_minutes,
    )
    adam = optim.AdamW(gates.parameters(), lr=0.0, weight_decay=0.0)
    run_stage(
        StageRun(
            name=method,
            folder=folder,
            stage=stage,
            models={"gates": gates},
            optimizers={"adamw": adam},
            step=step,
            evaluate=dict[str, float],
            stop=stop,
        )
    )
    gates.clamp()
    return gates.values.detach()
