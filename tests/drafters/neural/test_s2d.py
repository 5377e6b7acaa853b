"""I1, I3 and I5 for a draft model with early exits, in every runner."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import outrider
from outrider.acceptance import Match, Rejection
from outrider.core.errors import OptionError
from outrider.core.types import NO_IDS, Budget, Prompt
from outrider.decoding import generate
from outrider.drafters import ModelDrafter, NoDrafter, Qualified, TreeDrafter
from outrider.drafters.neural.growth import Eagle2
from outrider.drafters.neural.s2d import Sorted
from outrider.models.exits.model import ExitModel
from outrider.models.llama.decoder import Decoder
from outrider.policies import FixedLength, FixedTree
from outrider.protocols import Drafter
from tests.exactness.setups.checkpoints import PROMPTS, RUNNERS, noisy
from tests.exactness.setups.rigs import (
    SAMPLINGS,
    check_counters,
    generation,
    next_turn,
    outputs,
    run,
    samples,
    stage,
    undrafted,
)
from tests.matrix import matrix
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = pytest.mark.method("s2d")

LAYERS = 4
OWN = tuple(name for name in RUNNERS if name != "transformers")
NAMES = ("sorted", "first", "last", "tree", "qualified")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> tuple[Path, Path]:
    """A target, and a draft model that often agrees."""
    root = tmp_path_factory.mktemp("models")
    made = [
        make_checkpoint(
            root / name, num_hidden_layers=LAYERS, vocab_size=48, std=0.25, dtype=torch.float64
        )
        for name in ("target", "draft")
    ]
    noisy(made[1], 1, 0.2)
    return made[0], made[1]


@pytest.fixture(scope="module")
def pair(request: Any, folders: tuple[Path, Path]) -> tuple[Any, Any]:
    load = RUNNERS[request.param]
    return load(folders[0]), load(folders[1])


@pytest.fixture(scope="module")
def eager(folders: tuple[Path, Path]) -> tuple[Decoder, Decoder]:
    return Decoder.load(folders[0]), Decoder.load(folders[1])


def drafters(target: Any, draft: Any) -> dict[str, Drafter]:
    own = Sorted(model=draft, exits=(1, 2, 4), threshold=0.4)
    return {
        "sorted": own,
        "first": replace(own, model=draft, threshold=0.0),
        "last": replace(own, model=draft, threshold=1.0),
        "tree": TreeDrafter(model=own.model, growth=Eagle2(width=3)),
        "qualified": Qualified(drafter=own, qualifier=target, policy=FixedLength(2)),
    }


each_once = pytest.mark.parametrize(
    ("pair", "name"), matrix(OWN[-1:], NAMES), indirect=["pair"], scope="module"
)


@pytest.mark.parametrize(
    ("pair", "name", "sampling"),
    matrix(OWN, NAMES, ("greedy", "t0.7"), crossed=1),
    indirect=["pair"],
    scope="module",
)
def test_drafted_equals_undrafted(pair: Any, name: str, sampling: str) -> None:
    options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 10, "end_ids": (0,)}
    policy = FixedTree(depth=4, nodes=9) if name == "tree" else FixedLength(4)
    whole = stage(pair[0], drafters(*pair)[name], policy=policy)
    plain = run(undrafted(whole), PROMPTS, **options)
    drafted = run(whole, PROMPTS, **options)
    assert outputs(drafted) == outputs(plain)
    assert [g.finish for g in drafted] == [g.finish for g in plain]
    for g in drafted:
        check_counters(g.counters, len(g.output))


@each_once
def test_samples_and_next_turns(pair: Any, name: str) -> None:
    whole = stage(pair[0], drafters(*pair)[name], window=3)
    options: dict[str, Any] = {"temperature": 0.8, "max_new_tokens": 10}
    texts = outputs(samples(whole, PROMPTS[0], 3, **options))
    assert texts == outputs(samples(undrafted(whole), PROMPTS[0], 3, **options))
    next_turn(whole, PROMPTS[0], 7, **options)


def test_always_the_last_exit_drafts_as_the_model_itself(eager: Any) -> None:
    """What the draft model proposes does not depend on how it is run."""
    target, draft = eager
    options: dict[str, Any] = {"max_new_tokens": 24, "temperature": 0.7}
    made = [ModelDrafter(model=draft), drafters(target, draft)["last"]]
    [own], [sort] = (run(stage(target, one, window=4), PROMPTS[:1], **options) for one in made)
    assert own.counters.accepted == sort.counters.accepted > 0
    assert own.counters.drafted == sort.counters.drafted


def test_caches_hold_what_each_segment_has_read(eager: Any) -> None:
    """I3 after every round: what a segment counts as read equals a fresh prefill."""
    target, draft = eager
    drafter = Sorted(model=draft, exits=(1, 2, 4), threshold=0.4)
    model = drafter.model
    assert isinstance(model, ExitModel)
    made = [generation(p, temperature=0.8, max_new_tokens=12) for p in PROMPTS[:2]]
    deep = 0
    for active in generate(stage(target, drafter, window=3), made):
        for g in active:
            state: Any = g.sequence
            cache = state.drafting.inner.cache
            count = min(len(cache.text) - len(cache.pending), len(cache.text) - 1)
            [fresh] = draft.start([Prompt(token_ids=tuple(cache.text))])
            for level, (first, last) in enumerate(((0, 1), (1, 2), (2, 4))):
                rows = min(model.read(cache)[level], count)
                deep += rows if level else 0
                for ours, theirs in zip(
                    cache.storage.first(rows), fresh.storage.first(rows), strict=True
                ):
                    assert torch.allclose(ours[first:last], theirs[first:last], atol=2e-5)
    assert deep > 0


@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0])
def test_distribution_rules_draft_from_the_exit_that_was_taken(
    eager: Any, threshold: float
) -> None:
    """The reported probabilities are those of the exit: with the draft model as the target, a
    token of the last exit is always kept, and one of an early exit is not."""
    _, draft = eager
    drafter = Sorted(model=draft, exits=(1, 2, 4), threshold=threshold)
    whole = stage(draft, drafter, rule=Rejection(), policy=FixedLength(4))
    [g] = run(whole, PROMPTS[:1], max_new_tokens=40, temperature=1.0)
    assert (g.counters.accepted == g.counters.drafted) == (threshold == 1.0)


def test_nothing_is_drafted_without_a_budget(eager: Any) -> None:
    drafter = Sorted(model=eager[1])
    [state] = drafter.begin([generation(PROMPTS[0]).request])
    [draft] = drafter.propose([state], [NO_IDS], [Budget.chain(0)])
    assert len(draft) == 0 and state.counters.forwards == 0
    assert drafter.bind(drafter.needs, 1).model is drafter.model


def test_learners_are_refused() -> None:
    """New weights would not reach the parts that draft."""
    with pytest.raises(OptionError, match="'s2d' runs its parts"):
        outrider.load("tiny", drafter="s2d", learn="osd")


def test_long_prompts_switch_drafting_off(eager: Any) -> None:
    """A text that outgrows the window of the draft model goes on undrafted."""
    target, draft = eager
    size = draft.info.context_length
    prompt = tuple(i % 47 for i in range(size - 6))
    whole = stage(target, Sorted(model=draft, threshold=1.0), rule=Match(), window=4)
    drafted, plain = (run(one, [prompt], max_new_tokens=5) for one in (whole, undrafted(whole)))
    assert outputs(drafted) == outputs(plain)
    assert isinstance(undrafted(whole).drafter, NoDrafter)
