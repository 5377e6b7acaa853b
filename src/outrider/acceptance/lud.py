"""Lexical Unit Decoding: accepts drafted tokens of which the drafter is confident."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from outrider.acceptance.changes import MAX_CHANGED
from outrider.acceptance.longest import longest_path
from outrider.core.checks import Range, check_ranges
from outrider.core.types import Draft, Draw, Exactness, Verdict
from outrider.protocols import Needs
from outrider.protocols.method import Method, Paper
from outrider.protocols.view import View

BETA = Range(
    0.0, optional=True, hint="Give a chance such as 0.9; above 1, no token is accepted unverified"
)
"""The allowed values of `beta`."""
_SURE = 0.99
"""A token that repeats the one before it needs a chance above this."""


def chances(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
    """Return the probabilities in float64 in which confidence is measured."""
    return logits.double().softmax(-1)


def confident(token: int, chance: float, previous: int, beta: float) -> bool:
    """Whether a lexical unit may go on with `token`; NaN and repetitions end it.

    Args:
        token: the token.
        chance: its probability in the row that guessed it.
        previous: the token before it; -1 if unknown.
        beta: the smallest chance.
    """
    return chance >= beta and (token != previous or chance > _SURE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lud:
    """Accept x, without verification, if the drafter gave it a probability of at least `beta`
    (Sun et al. 2024, arXiv 2405.15208). A token that repeats the one before it needs more than
    0.99. Other drafted tokens pass if they are the verifier's choice. Of several paths the longest
    wins. The verifier's choice follows.

    The rule is lossy: the verifier's row of an accepted token is only counted, as changed or not.
    End tokens pass as others do; what bans or the grammar of the request exclude does not.

    The paper commits a confident guess in the pass that makes it. Here the guess is committed in
    the next round, whose forward reads it in any case; numbers of forwards and texts are equal if
    the drafter is `lud` with the same `beta`.

    Attributes:
        beta: the smallest probability; above 1 the rule equals `Match`.
        max_changed: share of the emitted tokens, 0 to 1, that may differ from the verifier's
            choice, rounded down; None sets no limit.

    Raises:
        OptionError: a number outside its range.
    """

    beta: float = 0.9
    max_changed: float | None = None

    needs = Needs(reference=True)
    draws = frozenset(Draw)
    tracks_probs = False

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    @property
    def exactness(self) -> Exactness:
        """Lossy, unless no probability can reach `beta`."""
        return Exactness.IDENTICAL if self.beta > 1 else Exactness.LOSSY

    def __call__(self, draft: Draft, view: View) -> Verdict:
        """Accept the longest path of `draft` on which every token is confident or the choice."""
        known = self._chances(draft)

        def judge(seen: View, node: int, token: int) -> tuple[bool, float]:
            chance, before = known.get((node, token), math.nan), seen.context(node)
            passes = confident(token, chance, before[-1] if before else -1, self.beta)
            return passes and seen.allows(node, token), math.log(chance) if chance > 0 else -1e9

        return longest_path(draft, view, judge, self.max_changed)

    def _chances(self, draft: Draft) -> dict[tuple[int, int], float]:
        """Return the drafter's probability of each token, by its parent and its id; of equal
        siblings the smallest."""
        found: dict[tuple[int, int], float] = {}
        for node, logits in enumerate(draft.reference or ()):
            parent, token = int(draft.parents[node]), int(draft.tokens[node])
            if logits is not None and 0 <= token < len(logits):
                chance = float(chances(logits[None])[0, token])
                found[parent, token] = min(chance, found.get((parent, token), chance))
        return found


_RANGES: Mapping[str, Range] = {
    "beta": Range(0.0, hint=BETA.hint),
    "max_changed": MAX_CHANGED,
}

METHOD = Method(
    name="lud",
    cls=Lud,
    summary="a drafted token is kept, unverified, where the drafter is confident of it",
    paper=Paper("Lexical Unit Decoding", "2405.15208"),
    promise=Exactness.LOSSY,
    needs="drafts of a model, or of `lud`",
)
