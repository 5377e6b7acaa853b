"""Drafted tokens with the chance that the target keeps them, and the states that read them.

At each place of an answer X of the target, the draft model draws a token Y after the tokens of X
before it; its label is min(1, p(Y) / q(Y)). The draft model then reads a text in which each token
is that of X with the chance `copied` and Y otherwise, as its own drafts hold tokens of its own. The
states after the tokens Y are the inputs (Huang et al. 2024, arXiv 2405.19715).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import OptionError, StrategyError
from outrider.core.types import Prompt, Rows, as_ids
from outrider.decoding import generate
from outrider.decoding.generation import Generation
from outrider.protocols import LanguageModel, Request, Segment
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy.strategy import Strategy
from outrider.training.core.pairs import ModelPair

Ids = tuple[int, ...]
_TOGETHER = 16
"""Answers that are written at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Drafted:
    """Drafted tokens.

    Attributes:
        states: the draft model's last hidden state after each token.
        kept: the chance that the target keeps it.
    """

    states: Float[Tensor, "tokens hidden"]
    kept: Float[Tensor, " tokens"]

    def __len__(self) -> int:
        return len(self.kept)


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt and an answer that the target has sampled, without its end token."""

    prompt: Ids
    text: Ids


def answers(
    pair: ModelPair, prompts: Sequence[Ids], longest: int, temperature: float, seed: int
) -> Iterator[Answer]:
    """Yield the target's answers that have at least one token."""
    stage = Strategy(target=pair.target).stage
    params = SamplingParams(temperature=temperature, max_new_tokens=longest, seed=seed)
    ends = frozenset(pair.target.info.end_ids)
    for first in range(0, len(prompts), _TOGETHER):
        generations = [
            Generation(
                Request(
                    Prompt(token_ids=ids),
                    Sampler(params, prompt_ids=ids, end_ids=tuple(ends), sample=first + i),
                )
            )
            for i, ids in enumerate(prompts[first : first + _TOGETHER])
        ]
        for _ in generate(stage, generations):
            pass
        for one in generations:
            text = one.output[:-1] if one.output and one.output[-1] in ends else one.output
            if text:
                yield Answer(one.request.prompt.token_ids, tuple(text))


def rows_of(model: LanguageModel, prompt: Ids, text: Ids) -> Rows:
    """Return the rows of the last token of the prompt and of all tokens of the text."""
    [cache] = model.start([Prompt(token_ids=prompt)])
    want = as_ids(range(-1, len(text)))
    [rows] = model.forward([Segment(cache, as_ids(text))], [want])
    return rows


def hidden_of(model: LanguageModel, rows: Rows) -> Float[Tensor, "rows hidden"]:
    """Return the hidden states. Raises `StrategyError` if the model does not return them."""
    if rows.hidden is None:
        raise StrategyError(
            f"{model.info.name} does not return its hidden states, which the head reads",
            hint="Choose a draft model that returns them",
        )
    return rows.hidden.float().cpu()


def chances(rows: Rows, width: int, temperature: float) -> Float[Tensor, "rows width"]:
    """Return the distributions of the first `width` tokens after each row, in float64."""
    return (rows.logits[:, :width].double().cpu() / temperature).softmax(-1)


def kept_chances(
    target: Float[Tensor, "tokens vocab"],
    draft: Float[Tensor, "tokens vocab"],
    tokens: Sequence[int] | Tensor,
) -> Float[Tensor, " tokens"]:
    """Return min(1, p / q) of each token."""
    places = torch.as_tensor(tokens)[:, None]
    p, q = target.gather(1, places)[:, 0], draft.gather(1, places)[:, 0]
    return (p / q).clamp(max=1.0)


def drafted(
    pair: ModelPair, answer: Answer, temperature: float, copied: float, generator: torch.Generator
) -> Drafted:
    """Draw a token of the draft model at each place of an answer, with its label and state."""
    width = min(pair.target.info.vocab_size, pair.draft.info.vocab_size)
    own = rows_of(pair.draft, answer.prompt, answer.text)
    q = chances(own, width, temperature)[:-1]
    p = chances(rows_of(pair.target, answer.prompt, answer.text), width, temperature)[:-1]
    tokens = torch.multinomial(q, 1, generator=generator)[:, 0]
    copies = torch.rand(len(tokens), generator=generator) < copied
    mixed = torch.where(copies, torch.tensor(answer.text), tokens)
    read = rows_of(pair.draft, answer.prompt, tuple(mixed.tolist()))
    states = hidden_of(pair.draft, read)[1:]
    return Drafted(states[~copies], kept_chances(p, q, tokens)[~copies])


def collect(
    pair: ModelPair,
    found: Sequence[Answer],
    temperature: float,
    copied: float,
    seed: int,
    told: Callable[[int], None],
) -> Drafted:
    """Collect the drafted tokens of all answers; `told` gets the number of answers so far.

    Raises:
        OptionError: there are none.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: list[Drafted] = []
    for done, answer in enumerate(found, 1):
        parts.append(drafted(pair, answer, temperature, copied, generator))
        told(done)
    whole = [part for part in parts if len(part)]
    if not whole:
        raise OptionError("there is no answer to learn from", hint="Give more prompts")
    return Drafted(
        torch.cat([part.states for part in whole]), torch.cat([part.kept for part in whole])
    )
