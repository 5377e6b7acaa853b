"""What a head achieves in the engine: tokens a round, beside the share of right first tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from outrider.core.values import JsonValue
from outrider.engine.heads.probe import tokens_a_round
from outrider.models.heads.loading import HeadPair
from outrider.sampling import SamplingParams

CHAINS = (1, 2, 3)
"""Lengths of chains that are measured."""
_LONGEST = 96
"""Tokens of an answer."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Tokens of a round on prompts that training has not seen.

    Attributes:
        prompts: number of prompts.
        tokens_a_round: by temperature, then by the length of chains.
    """

    prompts: int
    tokens_a_round: dict[float, dict[int, float]]

    @property
    def summary(self) -> str:
        """The figures in one line."""
        parts = [
            f"at temperature {temperature:g} "
            + " ".join(f"{length}: {tokens:.2f}" for length, tokens in found.items())
            for temperature, found in self.tokens_a_round.items()
        ]
        return f"tokens a round by length of chains, {'; '.join(parts)}"

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the figures as JSON."""
        return {
            "prompts": self.prompts,
            "tokens_a_round": {
                f"{temperature:g}": {str(length): round(tokens, 3) for length, tokens in of.items()}
                for temperature, of in self.tokens_a_round.items()
            },
        }


def judge(
    pair: HeadPair, prompts: Sequence[tuple[int, ...]], temperatures: Sequence[float]
) -> Judged:
    """Decode with the head and count the tokens of a round.

    Args:
        pair: the head and its target.
        prompts: `[prompts]` ids of prompts that training has not seen.
        temperatures: of the answers.
    """
    found = {
        temperature: {
            length: tokens_a_round(
                pair,
                prompts,
                SamplingParams(temperature=temperature, seed=0, max_new_tokens=_LONGEST),
                depth=length,
            )
            for length in CHAINS
        }
        for temperature in temperatures
    }
    return Judged(len(prompts), found)
