"""What must hold of heads that predict states: EAGLE (2401.15077) and FSPAD (2408.15562)."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from outrider.models.heads.config import HeadConfig, HeadKind
from outrider.models.heads.module import HeadModule
from tests.models.heads.setups import (
    Rig,
    head_config,
    make_module,
    make_rig,
    make_target,
    needs_kernels,
    numbers,
    random_text,
)

TEXT = random_text(20)
CHAIN, TREE = (5, 9, 1), ((5, 6, 7, 8), (-1, -1, 0, 2))
ZERO = ("sampling.down.weight", "alignment.up.weight")
fspad = pytest.mark.method("fspad")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


def zeroed(config: HeadConfig) -> dict[str, Tensor]:
    """What makes a head of FSPAD one of EAGLE."""
    return {name: torch.zeros(config.shapes()[name]) for name in ZERO if name in config.shapes()}


@fspad
@pytest.mark.parametrize("name", ["fspad", "fspad-sampling", "fspad-alignment"])
@pytest.mark.parametrize(
    "runner",
    ["torch", *(pytest.param(one, marks=needs_kernels()) for one in ("native", "int8"))],
)
def test_at_zero_it_is_a_head_of_eagle(folder: Path, name: str, runner: str) -> None:
    """Logits and predicted states are equal to the bit, along chains and trees."""
    eagle = make_rig(folder, "eagle1" if name == "fspad" else "eagle1-plain", runner)
    config = head_config(eagle.teacher, name)
    same = {name: one for name, one in eagle.tensors.items() if name in config.shapes()}
    rig = make_rig(folder, name, runner, **same | zeroed(config))
    other = make_rig(folder, name, runner, **same)
    for tokens, parents in ((CHAIN, None), TREE):
        ours, theirs = (one.rows(one.follows(TEXT), tokens, parents) for one in (rig, eagle))
        assert torch.equal(ours, theirs)
        assert not torch.equal(other.rows(other.follows(TEXT), tokens, parents), theirs)
    assert torch.equal(predicted(rig), predicted(eagle))


def predicted(rig: Rig) -> Tensor:
    """The states that a chain predicts."""
    cache = rig.follows(TEXT)
    rig.rows(cache, CHAIN)
    return cache.outputs


@fspad
@pytest.mark.parametrize("runner", ["torch", pytest.param("native", marks=needs_kernels())])
def test_alignment_leaves_the_predicted_states_alone(folder: Path, runner: str) -> None:
    """Only the logits leave them: what is fed back is that of a head without alignment."""
    rig = make_rig(folder, "fspad-alignment", runner)
    plain = make_rig(folder, "eagle1-plain", runner, **shared(rig, "eagle1-plain"))
    assert torch.equal(predicted(rig), predicted(plain))
    ours, theirs = (one.rows(one.follows(TEXT), CHAIN) for one in (rig, plain))
    assert float((ours - theirs)[:, rig.tensors["ids"].long()].abs().max()) > 0.1


def shared(rig: Rig, name: str) -> dict[str, Tensor]:
    """The tensors that another head has as well."""
    names = head_config(rig.teacher, name).shapes()
    return {one: tensor for one, tensor in rig.tensors.items() if one in names}


@fspad
def test_half_of_the_gradient_of_logits_reaches_the_states(folder: Path) -> None:
    """That of the states arrives whole, and the correction itself learns from all of it."""
    teacher = make_rig(folder, "eagle1-plain", "torch").teacher
    config = head_config(teacher, "fspad-alignment")
    tensors = numbers(config) | zeroed(config)
    plain = {name: one for name, one in tensors.items() if not name.startswith("alignment")}
    eagle = replace(config, kind=HeadKind.EAGLE1, alignment=False)
    heads = make_module(config, tensors, teacher), make_module(eagle, plain, teacher)
    rows = torch.randn(6, config.width, generator=torch.Generator().manual_seed(1))
    grads: list[list[Tensor]] = []
    for head in heads:
        state = rows.clone().requires_grad_()
        logits, outputs = head.answer(state)
        label = torch.zeros(6, dtype=torch.long)
        whole = F.cross_entropy(logits, label), outputs.square().sum()
        grads.append([torch.autograd.grad(one, state, retain_graph=True)[0] for one in whole])
    (ours, ours_state), (theirs, theirs_state) = grads
    assert torch.allclose(ours, theirs / 2, atol=1e-7) and float(theirs.abs().max()) > 1e-3
    assert torch.equal(ours_state, theirs_state)
    F.cross_entropy(heads[0].answer(rows)[0], torch.zeros(6, dtype=torch.long)).backward()
    moved = heads[0].part("alignment.up.weight").grad
    assert moved is not None and float(moved.abs().max()) > 1e-3


@fspad
def test_the_gate_of_a_token_selects_what_the_state_tells(folder: Path) -> None:
    """The same uncertain state gives another input for each token, and none for a closed gate."""
    teacher = make_rig(folder, "eagle1-plain", "torch").teacher
    config = head_config(teacher, "fspad-sampling")
    head: HeadModule = make_module(config, numbers(config), teacher)
    state = torch.randn(1, config.width, generator=torch.Generator().manual_seed(1))
    words = teacher.embed[:3]
    with torch.no_grad():
        mixed = head._sampled(state.expand(3, -1), words)
    tensors = head.tensors()
    gate, up, down = (tensors[f"sampling.{name}.weight"] for name in ("gate", "up", "down"))
    for word, found in zip(words, mixed, strict=True):
        opened = gate @ word * torch.sigmoid(gate @ word)
        assert torch.allclose(found, state[0] + down @ ((up @ state[0]) * opened), atol=1e-4)
    assert float((mixed[0] - mixed[1]).abs().max()) > 0.1
    closed = head._sampled(state, torch.zeros(1, config.width))
    assert torch.equal(closed, state)
