"""The training of exits (SoFT), and the choice of thresholds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import outrider
from outrider.core.errors import OptionError
from outrider.drafters.neural.s2d import THRESHOLD, sorted_model
from outrider.models.loading import load_model
from outrider.training.core.evaluate import heldout_windows
from outrider.training.exits.measure import ExitFigures, cheapest, relative_cost, weights_read
from outrider.training.exits.model import exit_losses, exit_states, soft_gradients, with_layers
from outrider.training.exits.train import folder_of, train_exits

pytestmark = pytest.mark.method("s2d")

RECIPE = """
name = "micro-exits"
start = "{start}"
layers = 3
exits = [1, 2, 3]
targets = ["{start}"]
measured = 2
longest = 6
depth = 2
grid = [0.0, 1.0]
threads = 1

[stage]
tokens = 4096
sequence_length = 32
batch = 8
micro_batch = 4
learning_rate = 5e-3

[corpus]
tokens = 8000

[[corpus.sources]]
name = "stories"
file = "stories.jsonl"
format = "text"

[[corpus.heldout]]
name = "stories"
file = "heldout.jsonl"
format = "text"

[[prompts]]
name = "chats"
file = "chats.jsonl"
form = "instruction"
share = 1.0
"""


def small(layers: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).float()


def test_more_layers_begin_with_equal_exits() -> None:
    """Further layers change nothing at first; fewer ones are the first of the model."""
    start = small(2)
    ids = torch.arange(12).view(2, 6)
    deep = with_layers(start, 4)
    for states in exit_states(deep, ids, (2, 3, 4)):
        expected = start.model(input_ids=ids).last_hidden_state.flatten(0, 1)
        assert torch.allclose(states, expected, atol=1e-6)
    first = with_layers(deep, 1)
    [own], [theirs] = exit_states(first, ids, (1,)), exit_states(deep, ids, (1, 4))[:1]
    assert torch.allclose(own, theirs, atol=1e-6) and len(first.model.layers) == 1


def test_the_loss_is_the_mean_of_all_exits() -> None:
    model = small(3)
    rows = torch.randint(0, 40, (3, 9))
    losses = soft_gradients(model, rows, (1, 3), 0.5)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    expected = [
        F.cross_entropy(states @ model.lm_head.weight.T, rows[:, 1:].reshape(-1))
        for states in exit_states(model, rows[:, :-1], (1, 3))
    ]
    (0.5 * torch.stack(expected).mean()).backward()
    assert losses == pytest.approx([one.item() for one in expected], rel=1e-5)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.allclose(found[name], p.grad, atol=1e-6), name


def test_exits_are_trained_and_thresholds_chosen(
    finished: Path, data: Path, tmp_path: Path
) -> None:
    start = finished / "family" / "target"
    (tmp_path / "exits.toml").write_text(RECIPE.format(start=start))
    lines: list[str] = []
    files = train_exits(tmp_path / "exits.toml", data=data, out=tmp_path, report=lines.append)
    facts = json.loads((files / "exits.json").read_text())
    windows = heldout_windows(tmp_path / "corpus", 33, 8192)
    untrained = exit_losses(
        with_layers(LlamaForCausalLM.from_pretrained(start), 3), windows, (1, 2, 3)
    )
    assert facts["losses"]["heldout/1"] < untrained["heldout/1"] - 0.3, "the first exit learns"
    assert facts["losses"]["heldout/3"] < untrained["heldout/3"] + 0.1, "the last one stays"
    target, draft = load_model(start), load_model(files)
    [chosen] = facts["thresholds"].values()
    assert chosen in ([0.0, 0.0], [1.0, 1.0])
    fingerprint = target.info.fingerprint
    assert sorted_model(draft, target=fingerprint).thresholds == tuple(chosen)
    assert sorted_model(draft, target="other").thresholds == (THRESHOLD, THRESHOLD)
    assert sorted_model(draft, target=fingerprint, threshold=0.3).thresholds == (0.3, 0.3)
    grid = facts["measured"][str(start)]["grid"]
    assert [one["left"] for one in grid] == [[1, 0, 0], [0, 0, 1]]
    assert grid[0]["cost"] < grid[1]["cost"] or grid[0]["acceptance"] < grid[1]["acceptance"]
    gen = outrider.load(start, draft=files, drafter="s2d", policy="fixed")
    plain = outrider.load(start, drafter="none")
    texts = [one.generate("Ann went to", max_new_tokens=12).text for one in (gen, plain)]
    assert texts[0] == texts[1]
    assert any("micro-exits" in line for line in lines)


def figures(threshold: float, costs: list[float], tokens: list[float]) -> ExitFigures:
    bare = np.array(costs) ** 2
    return ExitFigures(threshold, np.array(costs), bare, np.array(tokens), 0.5, (1.0, 0.0))


def test_the_cheapest_threshold_is_chosen() -> None:
    low, high = figures(0.2, [2.0, 3.0], [4.0, 6.0]), figures(0.9, [4.0, 4.5], [4.0, 6.0])
    assert (low.cost, high.cost) == (0.5, 0.85)
    assert cheapest([high, low, figures(0.1, [4.0, 6.0], [8.0, 12.0])]).threshold == 0.1
    ratio, least, most = relative_cost(low, high)
    assert ratio == pytest.approx(0.5 / 0.85)
    assert least == pytest.approx(0.5) and most == pytest.approx(2 / 3)
    assert relative_cost(low, high, bare=True)[0] == pytest.approx((4 + 9) / (16 + 4.5**2))


def test_the_cost_of_a_forward_is_the_weights_that_it_reads() -> None:
    model = load_model(folder_of("tiny", "target"))
    head, layer = 4096 * 256, 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 704
    for layers in (1, 6):
        whole, bare = weights_read(model, layers)
        assert whole - bare == pytest.approx(head) and bare / layers == pytest.approx(
            layer, rel=2e-3
        )
    assert weights_read(model) == weights_read(model, 6)


def test_models_are_named_by_family_and_tier(tmp_path: Path) -> None:
    assert folder_of("tiny", "target").name == "target"
    assert folder_of("tiny:qualifier", "target").name == "qualifier"
    assert folder_of(str(tmp_path), "draft") == tmp_path
    with pytest.raises(OptionError, match=r"no tier 'drafts'.*draft"):
        folder_of("tiny:drafts", "target")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("exits = [1, 2, 3]", "exits = [1, 2]", "the last exit"),
        ("exits = [1, 2, 3]", "exits = [2, 1, 3]", "exits are after layers"),
        ('form = "instruction"', 'form = "nothing"', "unknown form"),
    ],
)
def test_faulty_recipes(tmp_path: Path, data: Path, old: str, new: str, problem: str) -> None:
    (tmp_path / "exits.toml").write_text(RECIPE.format(start="tiny").replace(old, new))
    with pytest.raises(OptionError, match=problem):
        train_exits(tmp_path / "exits.toml", data=data, out=tmp_path)
