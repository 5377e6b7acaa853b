"""Formats of other projects: how damaged or unknown files are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from outrider.core.errors import OutriderError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import UnsupportedCheckpointError
from outrider.models.heads.config import HeadKind
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.reading import read_head
from outrider.models.heads.formats.writing import write_head
from tests.models.heads.formats.setups import (
    LAYER,
    WIDTH,
    in_speculators,
    mtp_checkpoint,
    numbers,
    speculators,
    tiny,
    write,
)

Tensors = dict[str, Tensor]
Settings = dict[str, JsonValue]
EAGLE3 = tiny(HeadKind.EAGLE3)
STORED = in_speculators(numbers(EAGLE3, "lm_head.weight", "embed_tokens.weight"))


def without(name: str) -> Callable[[Settings, Tensors], None]:
    """Return a change that removes a tensor."""
    return lambda _, tensors: tensors.__delitem__(name)


def put(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Settings, Tensors], None]:
    """Return a change of a tensor."""
    return lambda _, tensors: tensors.update({name: change(tensors[name].clone())})


def setting(**changes: JsonValue) -> Callable[[Settings, Tensors], None]:
    """Return a change of config.json."""
    return lambda config, _: config.update(changes)


def layer(**changes: JsonValue) -> Callable[[Settings, Tensors], None]:
    """Return a change of the settings of the layer."""
    return lambda config, _: config["transformer_layer_config"].update(changes)


def filled(index: int, value: float) -> Callable[[Tensor], Tensor]:
    """Return a change of one number of a tensor."""

    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[index] = value
        return tensor

    return change


DAMAGED = {
    "shape": (put("fc.weight", lambda one: one[:, :-1].contiguous()), "fc.weight of the head"),
    "missing": (without("layers.0.mlp.up_proj.weight"), "lacks tensor layers.0.mlp.up_proj"),
    "no hidden norm": (without("layers.0.hidden_norm.weight"), "lacks tensor layers.0.hidden"),
    "surplus": (
        lambda _, tensors: tensors.update({"fc.bias": torch.zeros(WIDTH)}),
        "unexpected tensor fc.bias",
    ),
    "NaN": (put("norm.weight", filled(3, float("nan"))), "holds NaN values in norm.weight"),
    "integers": (put("norm.weight", lambda one: one.long()), "norm.weight .* holds integers"),
    "no map": (lambda _, t: [t.pop(name) for name in ("d2t", "t2d")], "12 of 40 .*lacks d2t"),
    "map out of range": (put("d2t", filled(11, 29)), "gives id 40, expected 0 to 39"),
    "negative map": (put("d2t", filled(0, -1)), "gives id -1, expected 0 to 39"),
    "map not ascending": (put("d2t", filled(1, 0)), "do not ascend"),
    "map of floats": (put("d2t", lambda one: one.float()), "d2t .* expected a list of integers"),
    "short map": (put("d2t", lambda one: one[:-1].clone()), r"d2t .* expected \[12\]"),
    "other marks": (put("t2d", filled(0, 1)), "t2d marks 13"),
    "marks for another vocabulary": (put("t2d", lambda one: one[1:].clone()), r"expected \[40\]"),
    "too many drafts": (setting(draft_vocab_size=13), "its configuration implies"),
    "type of a number": (setting(draft_vocab_size="12"), "draft_vocab_size '12', expected"),
    "type of a flag": (setting(norm_output="yes"), "norm_output 'yes', expected"),
    "type of ids": (setting(eagle_aux_hidden_state_layer_ids=[1, -2]), "expected a list"),
    "order of ids": (setting(eagle_aux_hidden_state_layer_ids=[2, 1, 4]), "ascending order"),
    "number of ids": (setting(eagle_aux_hidden_state_layer_ids=[1, 2]), r"implies \[16, 32\]"),
    "both norms": (setting(fc_norm=True, norm_before_fc=True), "at most one of them"),
    "norms without tensors": (setting(fc_norm=True), "lacks tensor fc_norm.0.weight"),
    "target of another width": (
        lambda config, tensors: (
            config.update(target_hidden_size=32),
            tensors.update({"fc.weight": torch.zeros(WIDTH, 96)}),
            tensors.pop("embed_tokens.weight"),
        ),
        "lacks embed_tokens.weight, and that of its target has width 32 in place of 16",
    ),
    "no layer": (lambda config, _: config.pop("transformer_layer_config"), "has no transformer_la"),
    "vocabulary": (layer(vocab_size=None), "vocab_size null, expected"),
    "two layers": (layer(num_hidden_layers=2), "has 2 layers; heads of one layer"),
    "family": (layer(model_type="gpt2"), "model_type 'gpt2' is not supported"),
    "factors of Granite": (layer(model_type="granite"), "other norms or factors than Llama"),
    "bias": (layer(attention_bias=True), "a bias of o_proj"),
    "verifier": (
        setting(speculators_config={"verifier": []}),
        "verifier \\[\\], expected an object",
    ),
    "verifier's name": (
        setting(speculators_config={"verifier": {"name_or_path": 3}}),
        "name_or_path 3, expected text",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_head_gives_one_line(tmp_path: Path, case: str) -> None:
    change, message = DAMAGED[case]
    config, tensors = speculators(EAGLE3), dict(STORED)
    config["transformer_layer_config"] = dict(LAYER)
    change(config, tensors)
    with pytest.raises(OutriderError, match=message) as caught:
        read_head(write(tmp_path, config, tensors))
    assert "\n" not in str(caught.value)


HINTED_DAMAGED = {
    "version": (setting(outrider={"format": 9}), "format 9, this version reads up to 1"),
    "no version": (setting(outrider={}), "has no outrider.format"),
    "empty states": (setting(eagle_aux_hidden_state_layer_ids=[]), "expected states"),
    "scales of a vector": (
        lambda _, tensors: tensors.update({"norm.weight_scale": torch.ones(1).half()}),
        "expected one factor for each 32 inputs",
    ),
    "no states": (setting(eagle_aux_hidden_state_layer_ids=None), "expected a list"),
    "ids": (put("ids", filled(0, 40)), "gives id 40, expected 0 to 39"),
    "same ids": (put("ids", filled(0, 4)), "one id twice"),
    "successors": (put("successors", filled(0, -2)), "gives id -2, expected -1 to 39"),
    "no ids": (without("ids"), "lacks tensor ids"),
    "no scales": (without("fc.weight_scale"), "fc.weight .* holds integers"),
    "scales": (put("fc.weight_scale", lambda one: one[:, 1:].clone()), "fc.weight_scale .* shape"),
    "NaN": (put("fc.weight_scale", filled(0, float("nan"))), "holds NaN values"),
}


@pytest.fixture(scope="module")
def hinted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a hinted head in int8."""
    folder = tmp_path_factory.mktemp("hinted")
    config = tiny(HeadKind.HINTED)
    write_head(folder, config, numbers(config), Verifier(), bits=8, card="")
    return folder


FOUR_DAMAGED = {
    "levels": (put("fc.weight", lambda one: one + 9), "fc.weight .* integers outside of 0 to 15"),
    "no scales": (without("fc.weight_scale"), "unexpected tensor fc.weight_minimum"),
    "minimums": (put("fc.weight_minimum", lambda one: one[:, 1:].clone()), "minimum .* shape"),
}


@pytest.mark.parametrize("case", FOUR_DAMAGED)
def test_a_damaged_head_of_four_bits_gives_one_line(tmp_path: Path, case: str) -> None:
    config = tiny(HeadKind.HINTED)
    write_head(tmp_path, config, numbers(config), Verifier(), bits=4, card="")
    change, message = FOUR_DAMAGED[case]
    settings = json.loads((tmp_path / "config.json").read_text())
    tensors = load_file(tmp_path / "model.safetensors")
    change(settings, tensors)
    with pytest.raises(OutriderError, match=message) as caught:
        read_head(write(tmp_path / "damaged", settings, tensors))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", HINTED_DAMAGED)
def test_a_damaged_head_of_our_own_gives_one_line(tmp_path: Path, hinted: Path, case: str) -> None:
    change, message = HINTED_DAMAGED[case]
    config = json.loads((hinted / "config.json").read_text())
    tensors = load_file(hinted / "model.safetensors")
    change(config, tensors)
    with pytest.raises(OutriderError, match=message) as caught:
        read_head(write(tmp_path, config, tensors))
    assert "\n" not in str(caught.value)


# -- formats that are refused ------------------------------------------------------------------

ONE = {"x.weight": torch.zeros(1)}
REFUSED = {
    "P-EAGLE": ({"speculators_model_type": "peagle"}, ONE, "drafts all tokens in one pass"),
    "DFlash": ({"dflash_config": {}}, ONE, r"\(DFlash\) .* blocks"),
    "DSpark": ({"speculators_model_type": "dspark"}, ONE, "Markov head"),
    "other": (
        {"speculators_model_type": "new"},
        ONE,
        "new is not known; known: eagle3",
    ),
    "Medusa": ({"model_type": "medusa"}, ONE, "the names of vLLM for Medusa heads"),
    "MLP": ({"model_type": "mlp_speculator"}, ONE, "MLP speculator has one small network"),
    "Gemma 4": ({"model_type": "gemma4_assistant"}, ONE, "reads keys and values of its target"),
    "EAGLE of speculators": ({"speculators_model_type": "eagle"}, ONE, "the original files load"),
    "EAGLE-1 of two layers": (
        dict(LAYER) | {"num_hidden_layers": 2},
        {"fc.weight": torch.zeros(1), "layers.0.mlp.up_proj.weight": torch.zeros(1)},
        "has 2 layers",
    ),
    "no head": (dict(LAYER) | {"vocab_size": 4}, ONE, "holds no draft head"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_formats_are_refused_by_name(tmp_path: Path, name: str) -> None:
    config, tensors, message = REFUSED[name]
    with pytest.raises(UnsupportedCheckpointError, match=message) as caught:
        read_head(write(tmp_path, config, tensors), layers=4)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "names", "message"),
    [
        ({"attn_output_gate": True}, {}, "gates at the output of attention"),
        ({"model_type": "qwen3_next"}, {}, "gates at the output of attention"),
        ({}, {"mtp.layers.0.self_attn.q_proj.weight": (32, WIDTH)}, "gates at the output"),
        ({}, {"mtp.layers.0.mlp.experts.0.up_proj.weight": (1, 1)}, "has experts"),
        ({}, {"mtp.layers.1.input_layernorm.weight": (1,)}, "more than one layer"),
    ],
)
def test_mtp_heads_with_other_layers_are_refused(
    tmp_path: Path, changes: Settings, names: dict[str, tuple[int, ...]], message: str
) -> None:
    settings, tensors = mtp_checkpoint(**changes)
    tensors |= {name: torch.zeros(shape) for name, shape in names.items()}
    with pytest.raises(UnsupportedCheckpointError, match=message):
        read_head(write(tmp_path, settings, tensors))


def test_pickles_are_refused_unopened(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(speculators(EAGLE3)))
    (tmp_path / "pytorch_model.bin").write_bytes(b"no pickle")
    with pytest.raises(OutriderError, match=r"is a pickle.*weights_only=True"):
        read_head(tmp_path)
    with pytest.raises(OutriderError, match="no model folder"):
        read_head(tmp_path / "missing")
