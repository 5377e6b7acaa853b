"""The input of an acceptance rule: the verifier's rows, read with the sampler of the request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.counters import Counters
from outrider.core.errors import GrammarError, LogitsError
from outrider.core.tree import depths, path_to
from outrider.core.types import Draft, RowChooser, Rows
from outrider.sampling import NOT_FINITE, NOTHING_ALLOWED, Sampler
from outrider.sampling.noise import Purpose
from outrider.sampling.warps import Support

T = TypeVar("T")

_HINTS = {
    NOT_FINITE: "Check its weights and dtype; float16 overflows where bfloat16 does not",
    NOTHING_ALLOWED: "Loosen logit_bias, banned_tokens, forced_tokens or the logits processors",
}


@dataclass(slots=True)
class View:
    """One request at one verifying tier.

    Row 0 of `rows` belongs to the text (node -1), row `i + 1` to node i. Choices and distributions
    are computed only for nodes that the rule visits, and only once.

    Attributes:
        generated: committed output and tail: all tokens generated before the draft.
        tier: 0 for the target, increasing inwards; separates the noise of different stages.
        name: name of the tier, the source of the tokens that it writes itself.
        model: name of the verifier, for errors.
        ledger: the counters of this tier for the request so far.
    """

    sampler: Sampler
    generated: Sequence[int]
    draft: Draft
    rows: Rows
    tier: int
    name: str
    model: str
    ledger: Counters
    _supports: dict[int, Support] = field(default_factory=dict)
    _choices: dict[int, int] = field(default_factory=dict)
    _distributions: dict[int, Tensor] = field(default_factory=dict)

    def logits(self, node: int) -> Float[Tensor, " vocab"]:
        """Return the verifier's raw logits for the token after `node`."""
        return self.rows.logits[node + 1]

    def context(self, node: int) -> list[int]:
        """Return the generated tokens up to and including `node`."""
        path = path_to(self.draft.parents, node)
        return [*self.generated, *(int(t) for t in self.draft.tokens[path])]

    def index(self, node: int) -> int:
        """Return the generated index of the token that follows `node`."""
        before = len(self.generated)
        return before if node < 0 else before + len(path_to(self.draft.parents, node))

    def choose(self, node: int) -> int:
        """Return the token that the verifier chooses after `node`. Raises `LogitsError` with the
        model's name.
        """
        if self.rows.chooser is not None and not self._choices:
            self._choices = self._choose_ahead(self.rows.chooser)
        if node not in self._choices:
            self._choices[node] = self._choose(node)
        return self._choices[node]

    def _choose(self, node: int) -> int:
        found = self._read(node, lambda logits: self._quick(logits, node))
        if found is not None:
            return found
        return self.sampler.draw(self._support(node), self.index(node), Purpose.CHOICE)

    def _quick(self, logits: Tensor, node: int) -> int | None:
        """Return the choice, if it can be made without the support of the distribution."""
        if self.sampler.checks is not None:
            return self.sampler.choose(logits, self.context(node))
        found = self.sampler.choose_at(logits, self.index(node))
        if found is not None:
            return found
        return self.sampler.choose_edited(logits, self.context(node))

    def _read(self, node: int, read: Callable[[Tensor], T]) -> T:
        """Read the logits after `node`; where guidance has left no token that the request allows,
        those before it. Raises `LogitsError` with the model's name.
        """
        plain = self.rows.plain
        try:
            try:
                return read(self.logits(node))
            except LogitsError as error:
                if plain is None or error.problem != NOTHING_ALLOWED:
                    raise
            return read(plain[node + 1])
        except LogitsError as error:
            raise _named(error, self.model) from None

    def _choose_ahead(self, chooser: RowChooser) -> dict[int, int]:
        """Return the choices that the model can make itself, for all nodes at once. This needs only
        one synchronization with its device.
        """
        depth = np.concatenate(([0], depths(self.draft.parents) + 1))
        chosen = chooser(self.sampler, len(self.generated) + depth)
        return {} if chosen is None else {i - 1: int(t) for i, t in enumerate(chosen) if t >= 0}

    def probs(self, node: int) -> Float[Tensor, " vocab"]:
        """Return the verifier's warped distribution after `node`, float64 on the CPU."""
        if node not in self._distributions:
            self._distributions[node] = self._support(node).probs(self.rows.logits.shape[-1])
        return self._distributions[node]

    def _support(self, node: int) -> Support:
        if node not in self._supports:
            text = self.context(node)
            self._supports[node] = self._read(node, lambda row: self.sampler.support(row, text))
        return self._supports[node]

    def contest(self, node: int) -> Support:
        """Return the candidate tokens after `node` with their log-weights, with noise added if
        sampling uses noise. `choose` returns the candidate with the largest value.
        """
        sampler = self.sampler
        if sampler.params.temperature == 0:
            text = self.context(node)
            scores = self._read(node, lambda row: sampler.process(row, text)).cpu()
            ids = torch.nonzero(scores > -torch.inf).flatten()
            return Support(ids, scores[ids].double())
        support = self._support(node)
        return Support(support.ids, sampler.perturbed(support, self.index(node), Purpose.CHOICE))

    def ends(self, token: int) -> bool:
        """Whether `token` ends the sequence."""
        return token in self.sampler.end_ids

    def allows(self, node: int, token: int) -> bool:
        """Whether `token` may follow `node`: bans, biases, processors and the grammar of the
        request leave it a score. The warps are not applied."""
        logits, sampler = self.logits(node), self.sampler
        if token >= logits.numel() or not float(logits[token]) > -torch.inf:
            return False
        if sampler.quick(self.index(node)):
            return token not in sampler.params.banned_tokens
        text = self.context(node)
        return float(self._read(node, lambda row: sampler.process(row, text))[token]) > -torch.inf

    def draw(self, probs: Float[Tensor, " vocab"], node: int, purpose: Purpose) -> int:
        """Draw the token after `node` from `probs`, which need not sum to one."""
        return self.sampler.draw_from(probs, self.index(node), purpose, self.tier)

    def uniform(self, node: int, sibling: int = 0) -> float:
        """Return the uniform random number that decides whether a child of `node` is accepted."""
        return self.sampler.uniform(self.index(node), Purpose.ACCEPT, self.tier, sibling)


def _named(error: LogitsError, model: str) -> LogitsError:
    """Return the same error with the model's name and a hint that says how to fix it. Errors of a
    grammar have nothing to do with the model."""
    if isinstance(error, GrammarError):
        return error
    return LogitsError(
        f"model {model}: {error.problem}", hint=_HINTS.get(error.problem, error.hint)
    )
