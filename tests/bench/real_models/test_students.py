"""The students of a real model: what is cut out of it, its loss, and the windows of chats."""

from dataclasses import replace

import pytest
import torch
from benchmarks.real_models.pyramid_report import DRAFTING, Model, reasons
from benchmarks.real_models.students.cut import Size, cut, fit_head, observe
from benchmarks.real_models.students.losses import Candidates, divergence
from benchmarks.real_models.students.windows import LENGTH, packed
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        tie_word_embeddings=True,
    )
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            spread = 0.3 * torch.randn_like(parameter)
            parameter.copy_(1 + spread if "norm" in name else spread)
    return made


IDS = torch.arange(60).view(3, 20)


@torch.no_grad()
def test_a_student_that_keeps_everything_is_the_model(model):
    size = Size(layers=range(3), width=32, groups=2, ffn=48)
    student = cut(model, size, observe(model, IDS))
    torch.testing.assert_close(student(IDS).logits, model(IDS).logits, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_student_keeps_the_layers_groups_and_neurons_that_matter(model):
    # Layer 1, group 0 and the last neurons add nothing, so that nothing is lost without them.
    silent = LlamaForCausalLM(model.config).eval()
    silent.load_state_dict(model.state_dict())
    for layer in silent.model.layers:
        layer.self_attn.o_proj.weight[:, :16] = 0
        layer.mlp.down_proj.weight[:, 40:] = 0
    silent.model.layers[1].self_attn.o_proj.weight.zero_()
    silent.model.layers[1].mlp.down_proj.weight.zero_()
    size = Size(layers=(0, 2), width=32, groups=1, ffn=40)
    student = cut(silent, size, observe(silent, IDS))
    torch.testing.assert_close(student(IDS).logits, silent(IDS).logits, rtol=1e-3, atol=1e-3)
    assert student.config.num_attention_heads == 2
    narrow = cut(silent, replace(size, width=16), observe(silent, IDS))
    assert narrow(IDS).logits.shape == (3, 20, 60)


@torch.no_grad()
def test_a_head_is_fitted_to_the_states_of_the_model(model):
    size = Size(layers=range(3), width=32, groups=2, ffn=48)
    student = cut(model, size, observe(model, IDS))
    student.lm_head.weight.zero_()
    student.model.norm.weight.mul_(0.5)
    many = torch.randint(60, (12, 20), generator=torch.Generator().manual_seed(2))
    fit_head(student, model, many)
    close = (student(IDS).logits - model(IDS).logits).std() / model(IDS).logits.std()
    assert float(close) < 0.02


def test_the_loss_has_the_gradients_of_autograd():
    torch.manual_seed(1)
    hidden = torch.randn(7, 6, requires_grad=True)
    head = torch.randn(5, 6, requires_grad=True)
    add = torch.tensor([0.0, 0.0, 0.0, 1.5, 1.5])
    places = torch.tensor([[0, 3], [1, -1], [2, 4], [3, 0], [4, 1], [-1, -1], [0, 1]])
    probs = torch.tensor([0.6, 0.3]).expand(7, 2)
    loss, by_hidden, by_head, agree = divergence(hidden.detach(), head.detach(), add, places, probs)
    wanted = torch.zeros(7, 5)
    for row, (first, second) in enumerate(places.tolist()):
        kept = [(p, x) for p, x in ((first, 0.6), (second, 0.3)) if p >= 0]
        for place, value in kept:
            wanted[row, place] = value / sum(x for _, x in kept)
    log_q = torch.log_softmax(hidden @ head.T + add, dim=-1)
    ours = -(wanted * log_q).sum() / 7
    ours.backward()
    assert loss == pytest.approx(float(ours.detach()), rel=1e-5)
    torch.testing.assert_close(by_hidden, hidden.grad)
    torch.testing.assert_close(by_head, head.grad)
    best = log_q.argmax(dim=-1)
    assert agree == pytest.approx(float((best == places[:, 0]).float().mean()))


def test_sampled_tokens_stand_for_all_rare_ones():
    counts = torch.tensor([5, 0, 9, 1, 7, 2])
    ids, add, places = Candidates(counts, frequent=2, sampled=2).draw(seed=4)
    assert ids[:2].tolist() == [2, 4]
    assert add.tolist() == pytest.approx([0, 0, *[torch.log(torch.tensor(2.0)).item()] * 2])
    assert places[ids].tolist() == [0, 1, 2, 3]
    assert (places < 0).sum() == 2


def test_windows_count_positions_whose_next_token_is_of_an_answer():
    documents = [((1, 2, 3), (4, 5)), ((6, 7), (8,) * LENGTH)]
    ids, counted = packed(documents)
    assert ids.shape == counted.shape == (1, LENGTH)
    assert ids[0, :8].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert counted[0, :8].tolist() == [False, False, True, True, False, False, True, True]


def test_the_recursion_says_what_three_tiers_need():
    forwards = {n: 1.0 + 0.01 * n for n in range(1, 14)}
    costs = {
        "target": {DRAFTING: 1.0} | forwards,
        "qualifier": {n: 0.2 * s for n, s in ({DRAFTING: 1.0} | forwards).items()},
        "draft": {DRAFTING: 0.001},
    }
    wins = Model(costs=costs, draft_by_target=0.3, qualifier_by_target=0.9, draft_by_qualifier=0.9)
    assert wins.gain > 1.2
    assert wins.faster_qualifier()[0] > 2
    assert sum("is enough" in line for line in reasons(wins)) == 3
    loses = replace(wins, draft_by_target=0.85)
    assert loses.gain < 1
    told = [line for line in reasons(loses) if line.startswith("- the ")]
    assert len(told) == 3
    assert all("would be needed instead of" in line or "no value is" in line for line in told)
    cheaper = replace(wins, draft_by_target=0.8)
    [line] = [line for line in reasons(cheaper) if "cost, relative" in line]
    assert cheaper.gain < 1 or "1.000 is enough" in line
