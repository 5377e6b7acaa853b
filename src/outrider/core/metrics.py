"""All ratios, computed in one place from the integers in `Counters`."""

from collections.abc import Sequence
from dataclasses import dataclass

from outrider.core.counters import Counters, Tally


def ratio(part: float | int, whole: float | int) -> float:
    """Return `part / whole`; 0 if `whole` is 0."""
    return part / whole if whole else 0.0


def acceptance_rate(counters: Counters) -> float:
    """Return accepted / drafted tokens."""
    return ratio(counters.accepted, counters.drafted)


def acceptance_chance(counters: Counters) -> float:
    """Return accepted / tested tokens: the chance that a drafted token is kept if its parent was
    kept.

    Tokens after a rejection are not tested, so this ratio is above `acceptance_rate`.
    """
    return ratio(counters.accepted, counters.accepted + counters.refused)


def mean_accepted_length(counters: Counters) -> float:
    """Return the tokens per round of this tier, including the next token, before stops cut the last
    round.
    """
    return ratio(counters.accepted + counters.next_tokens, counters.rounds)


def mean_draft_length(counters: Counters) -> float:
    """Return the drafted tokens per round, over the rounds that contained a draft."""
    return ratio(counters.drafted, counters.rounds - counters.undrafted_rounds)


def block_efficiency(counters: Counters) -> float:
    """Return the tokens kept per forward of this tier's model, prefill excluded."""
    return ratio(counters.tokens, counters.forwards)


def acceptance_at(counters: Counters) -> list[float]:
    """Return accepted / drafted tokens at each depth."""
    accepted = counters.accepted_at + [0] * len(counters.drafted_at)
    return [ratio(a, d) for a, d in zip(accepted, counters.drafted_at, strict=False)]


def changed_share(counters: Counters) -> float:
    """Return changed / emitted tokens, compared with the target's choice given the text so far.

    It is not a bound on the distance from undrafted text: one changed token can change all later
    tokens.
    """
    return ratio(counters.changed, counters.tokens)


_SUMMED = (
    "rounds",
    "forwards",
    "undrafted_rounds",
    "drafted",
    "accepted",
    "refused",
    "next_tokens",
    "cut",
    "changed",
    "denoised_rows",
)


def total(counters: Sequence[Counters]) -> Counters:
    """Return the sum of the counters over requests."""
    out = Counters()
    for c in counters:
        for name in _SUMMED:
            setattr(out, name, getattr(out, name) + getattr(c, name))
        out.drafted_at = _added(out.drafted_at, c.drafted_at)
        out.accepted_at = _added(out.accepted_at, c.accepted_at)
        for source, count in c.sources.items():
            out.sources[source] = out.sources.get(source, 0) + count
        for origin, tally in c.tallies.items():
            _add_tally(out.tallies.setdefault(origin, Tally()), tally)
        out.add_seconds(**c.seconds)
    return out


def _add_tally(total: Tally, part: Tally) -> None:
    for name in ("drafts", "drafted", "accepted", "refused"):
        setattr(total, name, getattr(total, name) + getattr(part, name))


def _added(a: Sequence[int], b: Sequence[int]) -> list[int]:
    size = max(len(a), len(b))
    return [(a[i] if i < len(a) else 0) + (b[i] if i < len(b) else 0) for i in range(size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidCosts:
    """Inputs of a throughput prediction: seconds per call, and per-token acceptance.

    Attributes:
        draft: seconds of one draft forward.
        qualifier: seconds of one qualifier forward over a window.
        target: seconds of one target forward over `num_qualified_tokens + 1` positions.
        accept_qualifier: chance that the qualifier keeps a drafted token (a).
        accept_target: chance that the target keeps a proposed token (A).
    """

    draft: float
    qualifier: float
    target: float
    accept_qualifier: float
    accept_target: float


def inner_rounds(accept: float, window: int, wanted: int) -> float:
    """Return the expected inner rounds until `wanted` tokens are collected, i.i.d. acceptance.

    R(n) = 1 + sum_k P(k) R(n - k - 1), P(k) = a^k (1 - a) below the window and a^window at it:
    the burst-and-truncate correction of PyramidSD's throughput model.
    """
    chance = [accept**k * (1 - accept) for k in range(window)] + [accept**window]
    rounds = [0.0]
    for n in range(1, wanted + 1):
        rounds.append(1 + sum(p * rounds[max(n - k - 1, 0)] for k, p in enumerate(chance)))
    return rounds[wanted]


def expected_tokens(accept: float, window: int) -> float:
    """Return the expected tokens per round of a chain of `window`: (1 - A^(window + 1)) / (1 -
    A).
    """
    return float(window + 1) if accept >= 1 else (1 - accept ** (window + 1)) / (1 - accept)


def predicted_speed(costs: PyramidCosts, draft_window: int, qualified_window: int) -> float:
    """Return the tokens per second of a three-tier pyramid. `draft_window` is LD,
    `qualified_window` LQ.
    """
    inner = inner_rounds(costs.accept_qualifier, draft_window, qualified_window)
    seconds = inner * (draft_window * costs.draft + costs.qualifier) + costs.target
    return ratio(expected_tokens(costs.accept_target, qualified_window), seconds)


def predicted_two_tier_speed(draft: float, target: float, accept: float, window: int) -> float:
    """Return the tokens per second with one draft model: `draft` and `target` are seconds per
    call.
    """
    return ratio(expected_tokens(accept, window), window * draft + target)
