"""What a head achieves in the engine: tokens a round, beside the share of right first tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from outrider.core.values import JsonValue
from outrider.engine.load import load
from outrider.models.loading import ModelSource
from outrider.training.heads.prompts import TrainingPrompt

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
    target: ModelSource,
    head: Path,
    kind: str,
    prompts: Sequence[TrainingPrompt],
    temperatures: Sequence[float],
) -> Judged:
    """Decode with the head and count the tokens of a round.

    Args:
        target: the model for which the head drafts.
        head: folder of the head.
        kind: name of the drafter that runs it.
        prompts: prompts that training has not seen.
        temperatures: of the answers.
    """
    found: dict[float, dict[int, float]] = {t: {} for t in temperatures}
    messages = [list(prompt.messages) for prompt in prompts]
    for length in CHAINS:
        generator = load(target, draft=head, drafter=kind, num_speculative_tokens=length)
        for temperature in temperatures:
            tokens = rounds = 0
            for seed, prompt in enumerate(messages):
                result = generator.generate(
                    prompt, max_new_tokens=_LONGEST, temperature=temperature, seed=seed
                )
                tokens += len(result.token_ids)
                rounds += result.speculation.target.rounds
            found[temperature][length] = tokens / max(rounds, 1)
    return Judged(len(messages), found)
