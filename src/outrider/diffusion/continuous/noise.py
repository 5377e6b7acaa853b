"""Noise of sequences of values: it depends on seed, sequence and position, not on the time of a
call.

Target and draft model read the same noise at a position (trajectory alignment): where they agree,
their trajectories do too. The uniform numbers of tests and the noise of corrections have streams of
their own, and a position is tested only once, so the shared noise tells nothing about a decision.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from outrider.sampling.noise import Purpose, signed, stream_key, uniform, uniforms


def normals(key: int, shape: Sequence[int]) -> Float[Tensor, "..."]:
    """Return standard normal noise of one stream, float64."""
    return torch.special.ndtri(uniforms(key, torch.arange(torch.Size(shape).numel()))).view(*shape)


class SequenceNoise:
    """All noise of some sequences; positions behind the end have noise too, which has no effect.

    Args:
        seed: of the run.
        samples: numbers of the sequences; each has its own noise.
        length: values of a sequence.
        steps: denoising steps.
        size: numbers of a value.
        shared: whether the draft model reads the noise of the target.
    """

    def __init__(
        self,
        seed: int,
        samples: Sequence[int],
        length: int,
        steps: int,
        size: int,
        shared: bool = True,
    ) -> None:
        self.seed, self.samples, self.size = seed, list(samples), size
        shape = (len(self.samples), length + 1, steps + 1, size)
        self.target = self._whole(shape, Purpose.CHOICE)
        self.draft = self.target if shared else self._whole(shape, Purpose.BRANCH)
        self.tests = torch.tensor(
            [
                [uniform(stream_key(seed, one, i, Purpose.ACCEPT)) for i in range(length + 1)]
                for one in self.samples
            ],
            dtype=torch.float64,
        ).view(len(self.samples), length + 1)

    def _whole(self, shape: tuple[int, int, int, int], purpose: Purpose) -> Tensor:
        keys = torch.tensor(
            [
                [signed(stream_key(self.seed, one, i, purpose)) for i in range(shape[1])]
                for one in self.samples
            ],
            dtype=torch.long,
        ).view(shape[0], shape[1], 1)
        ids = torch.arange(shape[2] * shape[3])
        return torch.special.ndtri(uniforms(keys, ids)).view(shape)

    def keep(self, images: Bool[Tensor, " images"]) -> None:
        """Forget the other sequences."""
        is_shared = self.draft is self.target
        self.target, self.tests = self.target[images], self.tests[images]
        self.draft = self.target if is_shared else self.draft[images]
        self.samples = [
            one for one, kept in zip(self.samples, images.tolist(), strict=True) if kept
        ]

    def tries(self, image: int, place: int) -> "TryNoise":
        """Return the noise of a correction at `place` of the sequence in this row."""
        return TryNoise(self.seed, self.samples[image], place)


class TryNoise:
    """Blocks of noise for a correction."""

    def __init__(self, seed: int, sample: int, place: int) -> None:
        self._parts, self._next = (seed, sample, place), 0

    def block(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Return fresh standard normal noise."""
        return normals(self._key(), shape)

    def uniforms(self, count: int) -> Float[Tensor, " count"]:
        """Return fresh uniform numbers."""
        return uniforms(self._key(), torch.arange(count))

    def _key(self) -> int:
        self._next += 1
        return stream_key(*self._parts, Purpose.RESIDUAL, sibling=self._next)
