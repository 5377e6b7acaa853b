"""Samples with the random numbers of PyTorch's generator, as `generate` of `transformers` does.

`torch.multinomial` with one sample draws `q ~ Exp(1)` for each entry of `[batch, vocab]` and
returns `argmax(p / q)`. The numbers of step t therefore depend on the state of the generator and on
t, not on the text, so drafted decoding can use them: the choice at index t is the same in every
tier and in every draft.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from outrider.sampling.noise import Purpose
from outrider.sampling.params import SamplingParams
from outrider.sampling.sampler import Sampler
from outrider.sampling.warps import Support

_STEPS_KEPT = 64
"""Steps whose numbers stay in memory. Drafts reach a few tokens ahead; texts of one batch may be
at different steps. Others are drawn again from the stored state."""


class TorchNoise:
    """The exponential numbers of each step for a batch, drawn when they are first needed.

    The global generator of the device stays as it is until `finish`.
    """

    def __init__(self, rows: int, vocab_size: int, device: torch.device | str = "cpu") -> None:
        """Start at the present state of the generator of `device`, for `rows` texts."""
        self.rows, self.vocab_size = rows, vocab_size
        self.device = torch.device(device)
        self._generator = torch.Generator(self.device)
        self._states = [self._global_state()]
        self._steps: dict[int, Tensor] = {}

    def of(self, row: int, step: int) -> Float[Tensor, " vocab"]:
        """Return the numbers of a text at generated index `step`, on the CPU."""
        while step not in self._steps:
            self._draw(min(step, len(self._states) - 1))
        return self._steps[step][row]

    def _draw(self, step: int) -> None:
        """Draw the numbers of a step whose state is known, and note the state behind it."""
        self._generator.set_state(self._states[step])
        drawn = torch.empty(self.rows, self.vocab_size, dtype=torch.float32, device=self.device)
        self._steps[step] = drawn.exponential_(1, generator=self._generator).cpu()
        if step + 1 == len(self._states):
            self._states.append(self._generator.get_state())
        if len(self._steps) > _STEPS_KEPT:
            del self._steps[next(iter(self._steps))]

    def finish(self, steps: int) -> None:
        """Move the global generator to where `steps` steps of `transformers` leave it."""
        while len(self._states) <= steps:
            self._draw(len(self._states) - 1)
        state = self._states[steps]
        if self.device.type == "cpu":
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, self.device)

    def _global_state(self) -> Tensor:
        if self.device.type == "cpu":
            return torch.get_rng_state()
        return torch.cuda.get_rng_state(self.device)


class TorchSampler(Sampler):
    """A sampler whose choices use the noise of one row of a `TorchNoise`."""

    def __init__(
        self,
        params: SamplingParams,
        noise: TorchNoise,
        row: int,
        *,
        prompt_ids: Sequence[int] = (),
        end_ids: Sequence[int] = (),
    ) -> None:
        """Create the sampler of text `row` of the batch."""
        super().__init__(params, prompt_ids=prompt_ids, end_ids=end_ids)
        self._noise, self._row = noise, row

    def quick(self, index: int) -> bool:
        """Whether compiled code supports the choice; it has other noise, so only without noise."""
        return self.params.temperature == 0 and super().quick(index)

    @property
    def _edits_only(self) -> bool:
        return self.params.temperature == 0 and super()._edits_only

    def perturbed(
        self, support: Support, index: int, purpose: Purpose, tier: int = 0, sibling: int = 0
    ) -> Float[Tensor, " kept"]:
        """Return the scores of `support` plus noise; for a choice, the noise of PyTorch's
        generator.
        """
        if purpose is not Purpose.CHOICE:
            return super().perturbed(support, index, purpose, tier, sibling)
        drawn = self._noise.of(self._row, index)
        return support.scores.double() - _numbers(drawn, support.ids).log()


def _numbers(drawn: Float[Tensor, " vocab"], ids: Int[Tensor, " kept"]) -> Tensor:
    """Return the numbers of `ids`; a draft model may have more entries than the target, which get
    none.
    """
    inside = ids < drawn.numel()
    numbers = torch.full((ids.numel(),), torch.inf, dtype=torch.float64)
    numbers[inside] = drawn[ids[inside]].double()
    return numbers
