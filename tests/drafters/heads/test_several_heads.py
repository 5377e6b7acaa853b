"""I1, I3, I5, I6 and I7 for drafters with one head for each of the next tokens: Medusa heads, whose
rows differ by their depth only, and Chimera, whose rows read their branch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider import kernels
from outrider.acceptance import Rejection, Typical
from outrider.decoding import generate
from outrider.drafters import Fallback, ModelDrafter, Qualified, TreeDrafter
from outrider.drafters.copying.suffix import Suffix
from outrider.drafters.heads.chimera import chimera_of
from outrider.drafters.heads.medusa import medusa_of
from outrider.drafters.neural.growth import Eagle2
from outrider.models.llama.decoder import Decoder
from outrider.policies import FixedLength, FixedTree
from outrider.protocols import Drafter
from tests.exactness.setups.checkpoints import PROMPTS, RUNNERS
from tests.exactness.setups.rigs import (
    SAMPLINGS,
    check_counters,
    generation,
    next_turn,
    outputs,
    preempted,
    run,
    samples,
    stage,
    undrafted,
)
from tests.matrix import matrix
from tests.models.heads.chimera.setups import chimera_rig
from tests.models.heads.medusa.setups import medusa_rig
from tests.models.heads.setups import Rig, make_target
from tests.models.setups.invariants import assert_equals_fresh_prefill

pytestmark = pytest.mark.usefixtures("unchecked")

TREE = FixedTree(depth=4, nodes=12)
COMPILED = ("native", "int8") if kernels.available() else ("eager",)
KINDS: dict[str, tuple[Any, Any]] = {
    "medusa": (medusa_rig, medusa_of),
    "chimera": (chimera_rig, chimera_of),
}
Rigs = dict[str, Rig]


CASES = tuple(f"{kind}-{runner}" for kind in KINDS for runner in COMPILED)
kinds = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.method(kind)) for kind in KINDS]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def rigs(folder: Path) -> Rigs:
    runners = {"eager", *COMPILED}
    return {f"{k}-{n}": KINDS[k][0](folder, RUNNERS[n](folder)) for k in KINDS for n in runners}


def drafters(rig: Rig, folder: Path) -> dict[str, Callable[[], Drafter]]:
    """The static tree, its chain, what models draft, and combinations."""
    head: Any = rig.head
    below, made = Decoder.load(folder), KINDS[rig.config.kind][1]
    return {
        "tree": lambda: made(head, nodes=12),
        "chain": lambda: made(head, chain=True),
        "model": lambda: ModelDrafter(model=head),
        "eagle2": lambda: TreeDrafter(model=head, growth=Eagle2(width=3)),
        "fallback": lambda: Fallback(first=Suffix(), second=made(head)),
        "qualified": lambda: Qualified(
            drafter=made(head, chain=True), qualifier=below, policy=FixedLength(2)
        ),
    }


NAMES = ("tree", "chain", "model", "eagle2", "fallback", "qualified")


@pytest.mark.method("medusa")
@pytest.mark.method("chimera")
@pytest.mark.parametrize(("case", "name", "sampling"), matrix(CASES, NAMES, SAMPLINGS, crossed=1))
def test_drafted_equals_undrafted(
    rigs: Rigs, folder: Path, case: str, name: str, sampling: str
) -> None:
    """In a ragged batch with a prompt of one token, and alone."""
    rig = rigs[case]
    whole = stage(rig.target, drafters(rig, folder)[name](), policy=TREE)
    options: dict[str, Any] = {**SAMPLINGS[sampling], "max_new_tokens": 12, "end_ids": (0,)}
    plain = run(undrafted(whole), PROMPTS, **options)
    found = run(whole, PROMPTS, **options)
    assert outputs(found) == outputs(plain)
    assert outputs(run(whole, PROMPTS[1:2], **options)) == outputs(plain[1:2])
    for g in found:
        check_counters(g.counters, len(g.output))


@kinds
@pytest.mark.parametrize("name", ["tree", "chain", "model", "fallback"])
def test_drafts_are_accepted_and_refused(rigs: Rigs, folder: Path, name: str, kind: str) -> None:
    rig = rigs[f"{kind}-eager"]
    whole = stage(rig.target, drafters(rig, folder)[name](), policy=TREE)
    [g] = run(whole, PROMPTS[:1], max_new_tokens=45, temperature=3.0)
    assert 3 < g.counters.accepted < g.counters.drafted


@kinds
def test_a_window_that_fills_up(rigs: Rigs, folder: Path, kind: str) -> None:
    rig = rigs[f"{kind}-{COMPILED[0]}"]
    prompts = [PROMPTS[2] * 8, (*PROMPTS[2] * 8, 1, 2), PROMPTS[2] * 9]
    for name in ("tree", "model"):
        whole = stage(rig.target, drafters(rig, folder)[name](), policy=TREE)
        plain = run(undrafted(whole), prompts, max_new_tokens=90, temperature=1.0)
        found = run(whole, prompts, max_new_tokens=90, temperature=1.0)
        assert outputs(found) == outputs(plain)
        assert [len(g.output) for g in found] == [8, 6, 1]


@kinds
@pytest.mark.parametrize("name", ["tree", "model"])
def test_a_session_with_preemption(rigs: Rigs, folder: Path, name: str, kind: str) -> None:
    rig = rigs[f"{kind}-{COMPILED[0]}"]
    whole = stage(rig.target, drafters(rig, folder)[name](), policy=TREE)
    plain = outputs(run(undrafted(whole), PROMPTS, temperature=1.2, max_new_tokens=14))
    made = preempted(whole, PROMPTS, temperature=1.2, max_new_tokens=14)
    assert outputs(made) == plain
    assert sum(g.counters.drafted for g in made) > 0


@kinds
def test_caches_turns_and_samples(rigs: Rigs, kind: str) -> None:
    rig = rigs[f"{kind}-{COMPILED[0]}"]
    whole = stage(rig.target, KINDS[kind][1](rig.head), policy=TREE)
    made = [generation(p, temperature=2.0, max_new_tokens=8) for p in PROMPTS[:3]]
    for active in generate(whole, made):
        for g in active:
            assert_equals_fresh_prefill(whole.model, g.sequence.cache, tolerance=0.0)
    next_turn(whole, PROMPTS[0], 5, max_new_tokens=9, temperature=1.5)
    options: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 9}
    texts = outputs(samples(whole, PROMPTS[0], 3, **options))
    assert texts == outputs(samples(undrafted(whole), PROMPTS[0], 3, **options))


@kinds
def test_unusable_numbers_change_no_text(folder: Path, kind: str) -> None:
    """I5: drafting is off for the request, and the reason is known."""
    name = {"medusa": "mix", "chimera": "output"}[kind]
    broken = {f"heads.0.{name}.weight": torch.full((32, 32), torch.nan)}
    rig = KINDS[kind][0](folder, RUNNERS[COMPILED[0]](folder), **broken)
    for name in ("tree", "model"):
        whole = stage(rig.target, drafters(rig, folder)[name](), policy=TREE)
        found = run(whole, PROMPTS, temperature=0.8, max_new_tokens=6)
        plain = run(undrafted(whole), PROMPTS, temperature=0.8, max_new_tokens=6)
        assert outputs(found) == outputs(plain)
        for g in found:
            assert g.counters.accepted == 0 and kind in (g.sequence.state.off or "")


@kinds
def test_under_other_rules(rigs: Rigs, kind: str) -> None:
    """Typical acceptance, the paper's lossy rule, keeps at least as many tokens, and counts
    changes; rejection reads the distributions of the heads."""
    rig, made = rigs[f"{kind}-eager"], KINDS[kind][1]
    head: Any = rig.head
    options: dict[str, Any] = {"max_new_tokens": 24, "temperature": 1.5}
    exact = run(stage(rig.target, made(head), policy=TREE), PROMPTS[:2], **options)
    loose = run(
        stage(rig.target, made(head), Typical(epsilon=0.05), policy=TREE),
        PROMPTS[:2],
        **options,
    )
    assert sum(g.counters.rounds for g in loose) < sum(g.counters.rounds for g in exact)
    assert sum(g.counters.changed for g in loose) > 0 == sum(g.counters.changed for g in exact)
    whole = stage(rig.target, ModelDrafter(model=head), Rejection(), policy=TREE)
    drawn = run(whole, PROMPTS[:2], max_new_tokens=6)
    assert all(len(g.output) for g in drawn)
