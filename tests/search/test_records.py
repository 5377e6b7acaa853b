"""What passages have shown about drafts is known to later searches of the same kind."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

import outrider
from outrider.core.counters import Counters
from outrider.core.types import Budget
from outrider.policies.guard import Guard
from outrider.search import Limits
from outrider.search.account import SearchStoppedError
from outrider.search.records import Kind, Records
from outrider.testing.rigs import tabular_family
from outrider.testing.searches import LENGTH, task

MODEL = tabular_family(seed=1).target
PROMPT = (1, 2, 3, 1, 2, 3)
GREEDY, SAMPLED = Kind.of(False, 1), Kind.of(True, 1)


@dataclass(frozen=True)
class Seen:
    """A policy that notes the rounds of earlier passages, before the first round of each."""

    past: list[int] = field(default_factory=list[int])
    adaptive = True

    def budget(self, counters: Counters, batch: int = 1) -> Budget:
        if not counters.rounds:
            self.past.append(counters.past)
        return Budget.chain(3)


def write(records: Records, policy: Seen, count: int = 1, **options: Any) -> list[tuple[int, ...]]:
    """Write passages as a search of its own."""
    own = task(MODEL, PROMPT, drafted=True, temperature=0.8, ignore_eos=True)
    own.stage, own.records = replace(own.stage, policy=policy), records
    found = own.passages.write([own.root] * count, range(count), most=LENGTH, **options)
    return [passage.tokens for passage in found]


def test_the_policy_goes_on_from_the_last_passages_of_the_same_kind() -> None:
    records, policy = Records(), Seen()
    first = write(records, policy)
    assert write(records, policy) == first, "what is known changes no text"
    assert policy.past[0] == 0 < policy.past[1]
    write(records, policy, greedy=True)
    assert policy.past[2] == 0, "greedy passages are another kind"
    write(records, policy, count=3)
    assert policy.past[3:] == [0, 0, 0], "and so are several at once"
    write(records, policy, count=2)
    assert min(policy.past[6:]) > 0, "2 and 3 belong together"


def test_the_longest_passage_is_kept() -> None:
    records, policy = Records(), Seen()
    own = task(MODEL, PROMPT, drafted=True, temperature=0.8, ignore_eos=True)
    own.stage, own.records = replace(own.stage, policy=policy), records
    own.passages.write([own.root] * 3, range(3), most=[1, LENGTH, 1])
    known = records.before(Kind.of(True, 3))
    assert known is not None and known.counters.tokens == LENGTH


def test_a_passage_that_a_limit_has_stopped_teaches_nothing() -> None:
    records = Records()
    own = task(MODEL, PROMPT, limits=Limits(tokens=3), ignore_eos=True)
    own.records = records
    with pytest.raises(SearchStoppedError):
        own.passages.write([own.root], [0], most=LENGTH)
    assert records.before(GREEDY) is None


def test_greedy_and_sampled_passages_have_guards_of_their_own() -> None:
    records = Records(make_guard=Guard)
    assert records.guard(GREEDY) is records.guard(Kind.of(False, 8))
    assert records.guard(GREEDY) is not records.guard(SAMPLED)
    assert Records().guard(GREEDY) is None


def drafted_rounds(records: Records, searches: int, fresh: bool) -> list[int]:
    """Run short searches on a virtual clock, in which a drafted round takes twice as long; return
    how many rounds of each drafted."""
    found: list[int] = []
    for _ in range(searches):
        guard = Guard() if fresh else records.guard(SAMPLED)
        assert guard is not None
        drafted = 0
        for _ in range(9):
            asked = guard.drafts(1, lambda: "sampled", context=100.0)
            drafted += asked
            guard.note(1, asked, 0.02 if asked else 0.01, 1.0)
        found.append(drafted)
    return found


def test_short_searches_together_show_that_drafts_lose() -> None:
    """Nine rounds are too few for a guard that begins anew."""
    kept = drafted_rounds(Records(make_guard=Guard), 12, fresh=False)
    alone = drafted_rounds(Records(make_guard=Guard), 12, fresh=True)
    assert sum(kept[2:8]) == 0 < sum(kept), "until a trial"
    assert sum(alone) == 12 * alone[0] > 4 * sum(kept)


def test_searches_of_a_generator_share_what_is_known_by_strategy() -> None:
    own = outrider.load("tiny", threads=1)
    sampling: dict[str, Any] = {"max_new_tokens": 8, "seed": 1, "ignore_eos": True}
    plain = outrider.load("tiny", threads=1, mode="none")
    texts = [plain.search("best-of-n(samples=2)", "Once", **sampling).candidates for _ in range(2)]
    found = [own.search("best-of-n(samples=2)", "Once", **sampling).candidates for _ in range(2)]
    assert [[c.token_ids for c in r] for r in found] == [[c.token_ids for c in r] for r in texts]
    pair = Kind.of(True, 2)
    records = own._records["best-of-n"]
    known, guard = records.before(pair), records.guard(pair)
    assert known is not None and known.counters.past > 0, "it is that of the second search"
    assert guard is not None and guard is not own.guard_of(own.strategy)
    own.search("momentum", "Once", **sampling)
    assert own._records["best-of-n"] is records is not own._records["momentum"]
    assert own._records["momentum"].before(GREEDY) is not None
    off = outrider.load("tiny", threads=1, guard="off")
    off.search("best-of-n(samples=2)", "Once", **sampling)
    assert off._records["best-of-n"].guard(pair) is None
