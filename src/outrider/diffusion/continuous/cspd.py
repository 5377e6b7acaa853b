"""Continuous speculative decoding (CSpD): sequences of values, drafted by a smaller model."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import SHARE, Range, check_ranges
from outrider.core.errors import OptionError, OutriderWarning, StrategyError, reject_unknown
from outrider.core.types import Exactness
from outrider.diffusion.continuous.noise import SequenceNoise
from outrider.diffusion.continuous.rounds import Counts, Sequences, run_round
from outrider.diffusion.continuous.rules import ExactRatio, Published, ValueRule
from outrider.diffusion.continuous.values import C, ValueModel
from outrider.protocols.method import Method, Paper

_RANGES: Mapping[str, Range] = {
    "length": Range(0, 1000, whole=True),
    "prefill": SHARE,
}
RULES: Mapping[str, type[ExactRatio] | type[Published]] = {
    "exact": ExactRatio,
    "published": Published,
}


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """One sequence.

    Attributes:
        sample: its number, which selects its noise.
        values: its values.
        counts: what was counted.
    """

    sample: int
    values: Float[Tensor, "length size"]
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class CSpD:
    """Drafts values with a smaller model whose denoising reads the same noise as the target's.

    Attributes:
        mode: `exact`, whose sequences have the target's distribution, or `published`, the rule of
            the released code, which is lossy.
        length: values of a draft; 0 lets the target write alone.
        prefill: share of a sequence that the target writes alone at the beginning.
        shared: whether both models read the same noise (trajectory alignment). The distribution
            does not depend on it in mode `exact`; the acceptance does.
    """

    mode: str = "exact"
    length: int = 8
    prefill: float = 0.15
    shared: bool = True

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        reject_unknown("mode", [self.mode], RULES)

    @property
    def rule(self) -> ValueRule:
        """The rule of the mode."""
        return RULES[self.mode]()

    def write(
        self,
        target: ValueModel[C],
        draft: ValueModel[C] | None,
        samples: Sequence[int],
        seed: int = 0,
        batch: int = 16,
    ) -> Iterator[Written]:
        """Write sequences; they come in the order in which they are finished.

        Args:
            target: the model whose sequences are wanted.
            draft: a smaller model over the same values, with the same noise levels; None: the
                target writes alone.
            samples: numbers of the sequences. A number and a seed select the noise; a sequence
                depends on the others only by the rounding of batched forwards.
            seed: of all noise.
            batch: sequences that are written together.

        Raises:
            StrategyError: the models have other values or other steps.
            LogitsError: a density of the target is not finite.
        """
        if batch < 1:
            raise OptionError(f"batch is {batch}", hint="Give at least 1")
        if draft is not None:
            _check_pair(target, draft)
        alone = round(self.prefill * target.length)
        for first in range(0, len(samples), batch):
            noise = SequenceNoise(
                seed,
                samples[first : first + batch],
                target.length,
                target.steps,
                target.size,
                shared=self.shared,
            )
            sequences = Sequences.begin(target, draft, noise)
            while len(sequences.counts):
                lengths = torch.where(sequences.done < alone, 0, self.length)
                run_round(target, draft, self.rule, sequences, lengths)
                for sample, values, counts in sequences.drop_finished():
                    if counts.bounded and self.mode == "exact":
                        warnings.warn(
                            f"sequence {sample} has {counts.bounded} corrections whose tries were "
                            "used up; they do not have the target's distribution",
                            OutriderWarning,
                            stacklevel=2,
                        )
                    yield Written(sample, values, counts)


def _check_pair(target: ValueModel[C], draft: ValueModel[C]) -> None:
    pairs = {
        "values of a sequence": (target.length, draft.length),
        "numbers of a value": (target.size, draft.size),
        "denoising steps": (target.steps, draft.steps),
    }
    for name, (mine, other) in pairs.items():
        if mine != other:
            raise StrategyError(
                f"target and draft model have {mine} and {other} {name}",
                hint="Give a draft model that was trained with this target",
            )


METHOD = Method(
    name="cspd",
    cls=CSpD,
    summary="values with densities are drafted by a smaller model that reads the same noise",
    paper=Paper("continuous speculative decoding", "2411.11925"),
    promise=Exactness.DISTRIBUTION,
    needs="a model of values with a diffusion head, and a smaller one",
    memory="keys and values of all positions in both models",
    writes_values=True,
)
