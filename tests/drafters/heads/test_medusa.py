"""The drafter `medusa`: which token stands on which node, and what it needs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outrider.core.errors import OptionError
from outrider.core.types import NO_IDS, Budget, Draft, Prompt, as_ids
from outrider.drafters.given import Given
from outrider.drafters.heads.medusa import METHOD, Medusa, medusa_of
from outrider.protocols import Needs, Request
from outrider.sampling import Sampler, SamplingParams
from tests.models.heads.medusa.setups import DRAFTS, HEADS, medusa_rig
from tests.models.heads.setups import VOCAB, Rig, make_rig, make_target, random_text

pytestmark = pytest.mark.method("medusa")

TEXT = random_text(12)
WIDE = Budget(depth=8, nodes=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def rig(folder: Path) -> Rig:
    return medusa_rig(folder)


def begun(rig: Rig, drafter: Medusa, **options: Any) -> Any:
    """The state of a request whose text the target has read."""
    ends = options.pop("end_ids", ())
    sampler = Sampler(SamplingParams(**options), prompt_ids=TEXT, end_ids=ends)
    prompt = Prompt(token_ids=TEXT)
    request = Request(prompt=prompt, sampler=sampler, target_cache=rig.reads(TEXT))
    return drafter.begin([request])[0]


def drafted(
    rig: Rig,
    drafter: Medusa,
    budget: Budget = WIDE,
    tail: tuple[int, ...] = (),
    **options: Any,
) -> Draft:
    [draft] = drafter.propose([begun(rig, drafter, **options)], [as_ids(tail)], [budget])
    return draft


def levels(draft: Draft) -> list[list[int]]:
    """The tokens of each depth."""
    depth = [0] * len(draft)
    found: list[list[int]] = []
    for node, parent in enumerate(draft.parents.tolist()):
        depth[node] = depth[parent] + 1 if parent >= 0 else 0
        if depth[node] == len(found):
            found.append([])
        found[depth[node]].append(int(draft.tokens[node]))
    return found


def best(rig: Rig, count: int) -> np.ndarray:
    """`[heads, count]` the best tokens of each head."""
    rows = rig.rows(rig.follows(TEXT), (0,) * (HEADS - 1))
    return rows.topk(count, dim=-1).indices.numpy()


def test_a_node_of_depth_d_and_rank_r_holds_token_r_of_head_d(rig: Rig) -> None:
    drafter = medusa_of(rig.head, nodes=32)  # pyright: ignore[reportArgumentType]
    draft, top = drafted(rig, drafter), best(rig, 10)
    assert len(draft) == 32
    cut = drafter.template.cut(32, HEADS)
    assert draft.parents.tolist() == cut.parents.tolist()
    for node, path in enumerate(drafter.template.paths):
        assert draft.tokens[node] == top[len(path) - 1, path[-1]]


def test_a_chain_is_the_best_token_of_each_head(rig: Rig) -> None:
    drafter = medusa_of(rig.head, chain=True)  # pyright: ignore[reportArgumentType]
    draft = drafted(rig, drafter)
    assert draft.tokens.tolist() == best(rig, 1)[:, 0].tolist()
    assert draft.parents.tolist() == [-1, 0, 1]


def test_budgets_and_tails_cut_the_tree(rig: Rig) -> None:
    """After a tail of an inner round, its later heads draft."""
    drafter = medusa_of(rig.head)  # pyright: ignore[reportArgumentType]
    top = best(rig, 10)
    assert len(drafted(rig, drafter, Budget(depth=0, nodes=0))) == 0
    assert len(drafted(rig, drafter, Budget(depth=1, nodes=5))) == 5
    assert len(levels(drafted(rig, drafter, Budget(depth=2, nodes=9)))) == 2
    after = drafted(rig, drafter, tail=(7,))
    assert [one[0] for one in levels(after)] == top[1:, 0].tolist()
    assert len(drafted(rig, drafter, tail=(7, 8, 9))) == 0


def test_with_noise_the_ranks_are_those_of_the_targets_choices(rig: Rig) -> None:
    """The first token is what the sampler would choose from the head's own row."""
    drafter = medusa_of(rig.head, chain=True)  # pyright: ignore[reportArgumentType]
    changes: list[dict[str, Any]] = [{}, {"top_p": 0.6}, {"frequency_penalty": 1.5}]
    for options in changes:
        found = drafted(rig, drafter, temperature=1.5, seed=4, **options)
        sampler = Sampler(SamplingParams(temperature=1.5, seed=4, **options), prompt_ids=TEXT)
        rows = rig.rows(rig.follows(TEXT), (0,) * (HEADS - 1))
        assert int(found.tokens[0]) == sampler.choose(rows[0], [])
    under = drafter.bind(Needs(probs=True), 1)
    assert (
        drafted(rig, under, temperature=1.5, seed=4).tokens.tolist() == best(rig, 1)[:, 0].tolist()
    )


def test_nothing_follows_an_end_token(rig: Rig) -> None:
    drafter = medusa_of(rig.head)  # pyright: ignore[reportArgumentType]
    end = int(best(rig, 1)[0, 0])
    draft = drafted(rig, drafter, end_ids=(end,))
    ended = [node for node, token in enumerate(draft.tokens.tolist()) if token == end]
    assert ended and not set(ended) & set(draft.parents.tolist())
    assert 0 < len(draft) < 32


def test_a_narrow_support_leaves_nodes_out(rig: Rig) -> None:
    drafter = medusa_of(rig.head)  # pyright: ignore[reportArgumentType]
    draft = drafted(rig, drafter, temperature=0.7, top_k=2)
    assert all(len(set(level)) <= 2 for level in levels(draft)) and len(draft)


def test_nan_switches_drafting_off(folder: Path) -> None:
    rig = medusa_rig(folder, **{"heads.1.mix.weight": torch.full((32, 32), torch.nan)})
    drafter = medusa_of(rig.head)  # pyright: ignore[reportArgumentType]
    state = begun(rig, drafter)
    [draft] = drafter.propose([state], [NO_IDS], [WIDE])
    assert not len(draft) and "medusa" in state.off
    assert drafter.counters(state)["medusa"].off == state.off


def given_of(*below: Any) -> Given:
    return Given(target=below[0], below=below)


def test_options_by_name(rig: Rig, folder: Path, tmp_path: Path) -> None:
    given = given_of(rig.head)
    made = METHOD.drafter(given, (), {"nodes": 5})
    assert isinstance(made, Medusa) and len(made.template) == 5
    assert len(METHOD.drafter(given, (), {"chain": True}).template) == HEADS  # pyright: ignore[reportAttributeAccessIssue]
    replace(made.template, paths=((0,), (1,))).save(tmp_path / "tree.json")
    shaped = METHOD.drafter(given, (), {"shape": str(tmp_path / "tree.json")})
    assert shaped.template.paths == ((0,), (1,))  # pyright: ignore[reportAttributeAccessIssue]
    other = make_rig(folder, "eagle3", "torch").head
    for options, below in (({"nodes": 0}, rig.head), ({"nodes": 65}, rig.head), ({}, other)):
        with pytest.raises(OptionError) as caught:
            METHOD.drafter(given_of(below), (), options)
        assert "\n" not in str(caught.value)


def test_tokens_outside_the_draft_vocabulary_are_never_drafted(rig: Rig) -> None:
    known = set(rig.tensors["ids"].tolist())
    assert len(known) == DRAFTS < VOCAB
    for temperature in (0.0, 2.0):
        draft = drafted(rig, medusa_of(rig.head), temperature=temperature)  # pyright: ignore[reportArgumentType]
        assert set(draft.tokens.tolist()) <= known
