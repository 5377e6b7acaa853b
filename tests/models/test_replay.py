"""Replay equals live decoding: rounds, drafts and acceptances, integer by integer."""

from typing import Any

import pytest
import torch

from outrider import load
from outrider.core.errors import StrategyError
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.engine.result import Result
from outrider.models.replay import Recording, ReplayModel, TopRows, with_rows
from outrider.models.tabular import TabularModel
from outrider.protocols import Drafter, LanguageModel, Segment
from outrider.strategy.catalogue import drafter_records, names
from outrider.testing.rigs import tabular_family
from tests.matrix import matrix

FAMILY = tabular_family(seed=3)
PROMPTS = [(1, 2, 3), (5, 5, 5, 5, 5, 5), (2, 4, 6, 1, 3, 5, 2, 4)]
SAMPLINGS: dict[str, dict[str, Any]] = {"greedy": {}, "sampled": {"temperature": 0.9, "top_p": 0.9}}
LENGTH = 24

OF_ROWS = ("recycling", "stand", "lookahead", "fallback", "switch", "merge")
"""Drafters that learn from rows of refused tokens, or have such a part in their example."""
OF_PARTS = ("rest", "swift", "del", "skip", "s2d", "ppd", "lud", "deer", "universal", "none")
"""Drafters that need a store, layers of the target, early exits or another tokenizer."""

WAYS: dict[str, dict[str, Any]] = {
    one.name: {"drafter": one.example}
    for one in drafter_records()
    if not one.head and one.name not in (*OF_ROWS, *OF_PARTS)
} | {f"growth {name}": {"drafter": "model", "growth": name} for name in names("growth")}


def written(target: LanguageModel, sampling: str, **options: Any) -> list[Result]:
    """The texts of all prompts, by one generator, as they are written one after the other."""
    generator = load(target, qualifier=FAMILY.qualifier, draft=FAMILY.draft, **options)
    found = []
    for prompt in PROMPTS:
        generator.reset()
        found.append(
            generator.generate(list(prompt), max_new_tokens=LENGTH, seed=5, **SAMPLINGS[sampling])
        )
    return found


def counted(result: Result) -> tuple[Any, ...]:
    """All integers of a text."""
    c = result.speculation.target
    origins = {name: (t.drafts, t.drafted, t.accepted, t.refused) for name, t in c.tallies.items()}
    inner = {
        name: (s.rounds, s.forwards, s.drafted, s.accepted)
        for name, s in result.speculation.stages.items()
    }
    kept = (c.rounds, c.drafted, c.accepted, c.refused, c.drafted_at, c.accepted_at)
    return (*kept, origins, inner, result.sources, result.token_ids)


@pytest.fixture(scope="module")
def recordings() -> dict[str, list[Recording]]:
    """What the target writes alone."""
    return {
        sampling: [
            Recording(prompt, result.token_ids)
            for prompt, result in zip(
                PROMPTS, written(FAMILY.target, sampling, mode="none"), strict=True
            )
        ]
        for sampling in SAMPLINGS
    }


@pytest.mark.parametrize(("sampling", "way"), matrix(SAMPLINGS, WAYS))
def test_replay_is_live(
    sampling: str, way: str, recordings: dict[str, list[Recording]], unchecked: None
) -> None:
    options = {**WAYS[way], "num_speculative_tokens": 4}
    live = written(FAMILY.target, sampling, **options)
    replayed = written(ReplayModel(FAMILY.target, recordings[sampling]), sampling, **options)
    assert [counted(result) for result in replayed] == [counted(result) for result in live]
    assert sum(result.speculation.target.drafted for result in live) > 0


@pytest.mark.parametrize("length", [1, 7])
def test_replay_is_live_at_other_lengths(
    length: int, recordings: dict[str, list[Recording]]
) -> None:
    options = {"drafter": "model", "num_speculative_tokens": length}
    live = written(FAMILY.target, "sampled", **options)
    replayed = written(ReplayModel(FAMILY.target, recordings["sampled"]), "sampled", **options)
    assert [counted(result) for result in replayed] == [counted(result) for result in live]


@pytest.mark.parametrize("drafter", ["recycling", "stand"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_drafters_of_rows_are_close(
    drafter: str, sampling: str, recordings: dict[str, list[Recording]]
) -> None:
    """Rows of refused tokens are not recorded, so their drafts differ a little."""
    options = {"drafter": drafter, "num_speculative_tokens": 4}
    rows = [with_rows(FAMILY.target, recording) for recording in recordings[sampling]]
    live = written(FAMILY.target, sampling, **options)
    replayed = written(ReplayModel(FAMILY.target, rows), sampling, **options)
    assert [r.token_ids for r in replayed] == [r.token_ids for r in live]
    one, other = (sum(r.speculation.target.accepted for r in each) for each in (live, replayed))
    assert abs(one - other) <= 0.15 * one


def test_a_used_drafter_differs(recordings: dict[str, list[Recording]]) -> None:
    """A suffix tree that has read the texts predicts them: a replay must begin with a new one."""
    target = ReplayModel(FAMILY.target, recordings["sampled"])
    used = _suffix(target)
    new, again = (_accepted(target, used) for _ in range(2))
    live = written(FAMILY.target, "sampled", drafter="suffix", num_speculative_tokens=4)
    assert new == sum(result.speculation.target.accepted for result in live)
    assert again > 1.2 * new


def _suffix(target: LanguageModel) -> Drafter:
    return load(target, drafter="suffix", num_speculative_tokens=4).strategy.drafter


def _accepted(target: LanguageModel, drafter: Drafter) -> int:
    results = written(target, "sampled", drafter=drafter, num_speculative_tokens=4)
    return sum(result.speculation.target.accepted for result in results)


def test_an_end_token_ends_a_replay() -> None:
    model = TabularModel.random(vocab_size=7, order=2, seed=4)
    text = load(model, mode="none").generate([1, 2], max_new_tokens=20)
    cut = load(model, mode="none").generate(
        [1, 2], max_new_tokens=20, stop_token_ids=(text.token_ids[5],)
    )
    replay = ReplayModel(model, [Recording((1, 2), cut.token_ids)])
    options: dict[str, Any] = {"max_new_tokens": 20, "stop_token_ids": (text.token_ids[5],)}
    for k in (1, 8):
        found = load(replay, drafter="lookup", num_speculative_tokens=k).generate([1, 2], **options)
        assert found.token_ids == cut.token_ids
        assert found.finish_reason == "stop"


def test_an_unknown_prompt_is_refused() -> None:
    replay = ReplayModel(FAMILY.target, [Recording((1, 2), (3,))])
    with pytest.raises(StrategyError, match="no text is recorded for a prompt of 3 tokens"):
        replay.start([Prompt(token_ids=(1, 2, 4))])


def test_another_text_is_refused() -> None:
    """A rule that keeps other tokens than the target's choice cannot be replayed."""
    replay = ReplayModel(FAMILY.target, [Recording((1, 2), (3, 4, 5))])
    [cache] = replay.start([Prompt(token_ids=(1, 2))])
    cache.commit([6])
    with pytest.raises(StrategyError, match="differs from its record"):
        replay.forward([Segment(cache, NO_IDS)], [as_ids([-1])])


def test_recorded_rows_keep_their_probabilities() -> None:
    rows = torch.randn(3, 50)
    top = TopRows.of(rows, best=8)
    full = torch.stack([_filled(top, i, 50) for i in range(3)])
    kept = rows.softmax(-1).gather(1, top.ids)
    assert torch.allclose(full.softmax(-1).gather(1, top.ids), kept, atol=1e-5)
    assert torch.equal(full.argmax(-1), rows.argmax(-1))


def _filled(top: TopRows, number: int, size: int) -> torch.Tensor:
    row = torch.empty(size)
    top.fill(number, row)
    return row


def test_an_empty_text_has_no_rows() -> None:
    assert with_rows(FAMILY.target, Recording((1,), ())).rows is None
