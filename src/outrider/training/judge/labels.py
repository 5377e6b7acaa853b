"""Labels drafted tokens by what they do to the final answer (AutoJudge).

Where the draft model would write another token than the target, that token is put into the text,
and the target finishes it. If the final answer changes, the token is important, and the text stays
as it was. Otherwise the search goes on in the new text, so that later labels hold after the tokens
that were accepted before. No person labels anything (Garipov et al. 2025, arXiv 2504.20039).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from outrider.acceptance import Match
from outrider.core.errors import OptionError, StrategyError
from outrider.core.types import NO_IDS, FinishReason, Prompt, as_ids
from outrider.decoding import generate
from outrider.decoding.generation import Generation
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.protocols import LanguageModel, Request, Segment
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy.strategy import Strategy
from outrider.training.judge.config import Answer

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Drafted tokens that differ from the target's choice, with their labels.

    Attributes:
        states: the target's last hidden state after each token.
        important: whether the token changes the final answer.
        prompts: number of the task of each token.
    """

    states: Float[Tensor, "tokens hidden"]
    important: Bool[Tensor, " tokens"]
    prompts: Int[Tensor, " tokens"]

    def __len__(self) -> int:
        return len(self.important)

    def where(self, chosen: Bool[Tensor, " tokens"]) -> "Labelled":
        """Return the chosen tokens."""
        return Labelled(self.states[chosen], self.important[chosen], self.prompts[chosen])


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt with the function that finds the final answer of a text."""

    number: int
    prompt: Ids
    answer: Answer


@dataclass(frozen=True, slots=True)
class Splicer:
    """Puts tokens of the draft model into texts of the target.

    Attributes:
        target: the model whose final answers count.
        draft: the model whose tokens are tried.
        tokenizer: that of both.
        longest: largest number of tokens of an answer.
        special_ids: tokens that are never tried, as the rule never asks the probe about them.
    """

    target: LanguageModel
    draft: LanguageModel
    tokenizer: Tokenizer
    longest: int
    special_ids: frozenset[int]

    def label(self, task: Task) -> list[tuple[Tensor, bool]]:
        """Return the state after each token that was tried, and whether it is important.

        Nothing is tried if the target's own text does not end in time, or has no final answer.
        """
        text = self.finished(task.prompt)
        own = None if text is None else self.answer(task, text)
        if text is None or own is None:
            return []
        found: list[tuple[Tensor, bool]] = []
        choices, place = self.choices(task.prompt, text), 0
        while place < len(text):
            token = choices[place]
            if token != text[place] and token not in self.special_ids:
                tried = (*text[:place], token)
                other = self.finished(task.prompt, tried)
                important = other is None or self.answer(task, other) != own
                found.append((self.state((*task.prompt, *tried)), important))
                if other is not None and not important:
                    text, choices = other, self.choices(task.prompt, other)
            place += 1
        return found

    def answer(self, task: Task, text: Ids) -> str | None:
        """Return the final answer of a text."""
        return task.answer(self.tokenizer.decode(text))

    def finished(self, prompt: Ids, begun: Ids = ()) -> Ids | None:
        """Let the target finish an answer at temperature 0; None if it does not end in time."""
        room = min(self.longest, self.target.info.context_length - len(prompt)) - len(begun)
        if room < 1:
            return None
        params = SamplingParams(temperature=0.0, max_new_tokens=room)
        ids = (*prompt, *begun)
        sampler = Sampler(params, prompt_ids=ids, end_ids=self.target.info.end_ids)
        generation = Generation(Request(Prompt(token_ids=ids), sampler))
        for _ in generate(Strategy(target=self.target, rule=Match()).stage, [generation]):
            pass
        if generation.finish is not FinishReason.STOP:
            return None
        return (*begun, *generation.output)

    def choices(self, prompt: Ids, text: Ids) -> list[int]:
        """Return the token that the draft model would write in place of each token of `text`."""
        [cache] = self.draft.start([Prompt(token_ids=prompt)])
        segment = Segment(cache, as_ids(text[:-1]))
        [rows] = self.draft.forward([segment], [as_ids(range(-1, len(text) - 1))])
        return rows.logits.argmax(-1).tolist()

    def state(self, ids: Ids) -> Float[Tensor, " hidden"]:
        """Return the target's last hidden state after these tokens, in float32.

        Raises:
            StrategyError: the target does not return its states.
        """
        [cache] = self.target.start([Prompt(token_ids=ids)])
        [rows] = self.target.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
        if rows.hidden is None:
            raise StrategyError(f"{self.target.info.name} does not return its hidden states")
        return rows.hidden[0].float().cpu()


def label_all(
    splicer: Splicer, tasks: Sequence[Task], told: Callable[[int, int], None]
) -> Labelled:
    """Label the tokens of all tasks; `told` gets the number of tasks and tokens so far.

    Raises:
        OptionError: no token was tried, or all have the same label.
    """
    states: list[Tensor] = []
    labels: list[bool] = []
    prompts: list[int] = []
    for done, task in enumerate(tasks, 1):
        for state, important in splicer.label(task):
            states.append(state)
            labels.append(important)
            prompts.append(task.number)
        told(done, len(labels))
    if not any(labels) or all(labels):
        raise OptionError(
            f"{len(labels)} tokens of {len(tasks)} tasks were tried, {sum(labels)} of them are "
            "important; both kinds are needed",
            hint="Give more tasks, a larger `longest`, or another `answer`",
        )
    return Labelled(torch.stack(states), torch.tensor(labels), torch.tensor(prompts))
