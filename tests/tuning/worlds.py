"""Machines with a virtual clock, on which the speed of every arm is known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import exp

import numpy as np

TOKENS = 64


@dataclass
class World:
    """Writes texts in virtual time.

    Attributes:
        speeds: speedup of each arm over plain decoding.
        seed: seed of all noise.
        noise: spread of the log time of a text.
        fit: spread of the log speed of an arm from prompt to prompt.
        stalls: chance that a text takes up to three times as long.
        drift: factor on the time of all texts at a virtual time.
    """

    speeds: Mapping[str, float]
    seed: int
    noise: float = 0.05
    fit: float = 0.10
    stalls: float = 0.03
    drift: Callable[[float], float] = lambda now: 1.0
    now: float = 0.0
    texts: int = 0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self._fits: dict[tuple[str, int, str], float] = {}
        self._prompts: dict[tuple[int, str], float] = {}

    def writer(self, split: str) -> Callable[[str, int, int], float]:
        """How texts of the prompts of one part are written."""

        def write(arm: str, prompt: int, repeat: int) -> float:
            speed = self.speeds.get(arm, 1.0)
            key = (arm, prompt, split)
            if key not in self._fits:
                own = self.fit if arm in self.speeds else 0.0
                self._fits[key] = exp(self.rng.normal(0.0, own))
            if (prompt, split) not in self._prompts:
                self._prompts[prompt, split] = exp(self.rng.normal(0.0, 0.2))
            seconds = 0.02 * self._prompts[prompt, split] / (speed * self._fits[key])
            seconds *= exp(self.rng.normal(0.0, self.noise)) * self.drift(self.now)
            if self.rng.random() < self.stalls:
                seconds *= self.rng.uniform(1.5, 3.0)
            self.now += seconds * TOKENS
            self.texts += 1
            return seconds

        return write
