"""The drafter `chimera`: which token stands on which node, and what it needs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outrider.core.errors import OptionError
from outrider.core.types import NO_IDS, Budget, Draft, Prompt, as_ids
from outrider.drafters.heads.chimera import METHOD, Chimera, chimera_of
from outrider.protocols import Needs, Request
from outrider.sampling import Sampler, SamplingParams
from tests.drafters.heads.test_medusa import begun, drafted, given_of, levels
from tests.models.heads.chimera.setups import HEADS, chimera_rig
from tests.models.heads.medusa.setups import medusa_rig
from tests.models.heads.setups import DRAFT, VOCAB, Rig, make_target, random_text

pytestmark = pytest.mark.method("chimera")

TEXT = random_text(12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def rig(folder: Path) -> Rig:
    return chimera_rig(folder)


def path_of(draft: Draft, node: int) -> list[int]:
    """The tokens from the text to a node."""
    path: list[int] = []
    while node >= 0:
        path.insert(0, int(draft.tokens[node]))
        node = int(draft.parents[node])
    return path


def best_after(rig: Rig, path: list[int], count: int) -> list[int]:
    """The best tokens after the text and a path, in one forward of a chain."""
    return rig.rows(rig.follows(TEXT), path)[-1].topk(count).indices.tolist()


def test_the_child_of_rank_r_is_token_r_after_its_own_branch(rig: Rig) -> None:
    """25 nodes, as the published tree has; each level is one forward."""
    drafter: Any = chimera_of(rig.head)  # pyright: ignore[reportArgumentType]
    state = begun(rig, drafter)
    [draft] = drafter.propose([state], [NO_IDS], [Budget(depth=8, nodes=64)])
    assert len(draft) == 25 and len(levels(draft)) == HEADS
    cut = drafter.template.cut(25, HEADS)
    assert draft.parents.tolist() == cut.parents.tolist()
    for node in range(25):
        *before, token = path_of(draft, node)
        assert token == best_after(rig, before, 10)[cut.ranks[node]]
    counted = drafter.counters(state)["chimera"]
    assert counted.forwards == HEADS and counted.drafted == 25


def test_a_chain_is_the_best_token_after_the_best(rig: Rig) -> None:
    drafter: Any = chimera_of(rig.head, chain=True)  # pyright: ignore[reportArgumentType]
    draft = drafted(rig, drafter)
    path: list[int] = []
    for _ in range(HEADS):
        path += best_after(rig, path, 1)
    assert draft.tokens.tolist() == path and draft.parents.tolist() == [-1, 0, 1]


def test_budgets_and_tails_cut_the_tree(rig: Rig) -> None:
    drafter: Any = chimera_of(rig.head)  # pyright: ignore[reportArgumentType]
    assert len(drafted(rig, drafter, Budget(depth=0, nodes=0))) == 0
    assert len(drafted(rig, drafter, Budget(depth=1, nodes=5))) == 5
    assert len(levels(drafted(rig, drafter, Budget(depth=2, nodes=9)))) == 2
    after = drafted(rig, drafter, tail=(7,))
    assert len(levels(after)) == HEADS - 1
    assert after.tokens[np.flatnonzero(after.parents < 0)].tolist() == best_after(
        rig, [7], int((after.parents < 0).sum())
    )
    assert len(drafted(rig, drafter, tail=(7, 8, 9))) == 0


def test_with_noise_the_first_token_is_the_samplers_own_choice(rig: Rig) -> None:
    drafter: Any = chimera_of(rig.head, chain=True)  # pyright: ignore[reportArgumentType]
    for options in ({}, {"top_p": 0.6}, {"frequency_penalty": 1.5}):
        sampler = Sampler(SamplingParams(temperature=1.5, seed=4, **options), prompt_ids=TEXT)
        found = drafted(rig, drafter, temperature=1.5, seed=4, **options).tokens.tolist()
        path: list[int] = []
        for _ in range(HEADS):
            path.append(sampler.choose(rig.rows(rig.follows(TEXT), path)[-1], path))
        assert found == path
    under = drafter.bind(Needs(probs=True), 1)
    assert drafted(rig, under, temperature=1.5, seed=4).tokens[0] == best_after(rig, [], 1)[0]


def test_nothing_follows_an_end_token(rig: Rig) -> None:
    drafter: Any = chimera_of(rig.head)  # pyright: ignore[reportArgumentType]
    end = best_after(rig, [], 1)[0]
    draft = drafted(rig, drafter, end_ids=(end,))
    ended = [node for node, token in enumerate(draft.tokens.tolist()) if token == end]
    assert ended and not set(ended) & set(draft.parents.tolist())
    assert 0 < len(draft) < 25


def test_a_narrow_support_leaves_nodes_out(rig: Rig) -> None:
    drafter: Any = chimera_of(rig.head)  # pyright: ignore[reportArgumentType]
    draft = drafted(rig, drafter, temperature=0.7, top_k=1)
    assert len(draft) == HEADS and draft.parents.tolist() == [-1, 0, 1]


def test_nan_switches_drafting_off(folder: Path) -> None:
    broken = chimera_rig(folder, **{"heads.1.output.weight": torch.full((32, 32), torch.nan)})
    drafter: Any = chimera_of(broken.head)  # pyright: ignore[reportArgumentType]
    state = begun(broken, drafter)
    [draft] = drafter.propose([state], [NO_IDS], [Budget(depth=8, nodes=25)])
    assert not len(draft) and "chimera" in state.off
    [draft] = drafter.propose([state], [NO_IDS], [Budget(depth=8, nodes=25)])
    assert not len(draft)


def test_two_requests_draft_as_alone(rig: Rig) -> None:
    drafter: Any = chimera_of(rig.head)  # pyright: ignore[reportArgumentType]
    wide, other = Budget(depth=8, nodes=25), random_text(9, 8)
    sampler = Sampler(SamplingParams(), prompt_ids=other)
    prompt = Prompt(token_ids=other)
    request = Request(prompt=prompt, sampler=sampler, target_cache=rig.reads(other))
    [second] = drafter.begin([request])
    both = drafter.propose([begun(rig, drafter), second], [NO_IDS] * 2, [wide] * 2)
    assert both[0].tokens.tolist() == drafted(rig, drafter, wide).tokens.tolist()
    assert both[1].tokens.tolist() != both[0].tokens.tolist() and len(both[1]) == 25
    again = drafter.propose([second], [as_ids([])], [wide])
    assert again[0].tokens.tolist() == both[1].tokens.tolist()


def test_options_by_name(rig: Rig, folder: Path, tmp_path: Path) -> None:
    made: Any = METHOD.drafter(given_of(rig.head), (), {"nodes": 5})
    assert isinstance(made, Chimera) and len(made.template) == 5 and made.name == "chimera"
    chain: Any = METHOD.drafter(given_of(rig.head), (), {"chain": True})
    assert len(chain.template) == HEADS
    replace(made.template, paths=((0,), (1,))).save(tmp_path / "tree.json")
    shaped: Any = METHOD.drafter(given_of(rig.head), (), {"shape": str(tmp_path / "tree.json")})
    assert shaped.template.paths == ((0,), (1,))
    other = medusa_rig(folder).head
    for options, below in (({"nodes": 0}, rig.head), ({"nodes": 65}, rig.head), ({}, other)):
        with pytest.raises(OptionError, match="'chimera'") as caught:
            METHOD.drafter(given_of(below), (), options)
        assert "\n" not in str(caught.value)


def test_tokens_outside_the_draft_vocabulary_are_never_drafted(rig: Rig) -> None:
    known = set(rig.tensors["ids"].tolist())
    assert len(known) == DRAFT < VOCAB
    for temperature in (0.0, 2.0):
        draft = drafted(rig, chimera_of(rig.head), temperature=temperature)  # pyright: ignore
        assert set(draft.tokens.tolist()) <= known and len(draft) == 25
