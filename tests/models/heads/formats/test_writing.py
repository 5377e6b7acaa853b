"""Heads that are written are read again unchanged."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from outrider.core.errors import CheckpointError, OptionError
from outrider.models.heads.config import HeadConfig, HeadKind, HeadShape
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.layers import read_layer
from outrider.models.heads.formats.reading import read_head
from outrider.models.heads.formats.writing import write_head
from outrider.models.quantization.grouped import Grouped, quantize_groups
from outrider.models.quantization.int4 import quantize_int4
from tests.models.heads.formats.setups import DRAFT, LAYER, TARGET, VOCAB, numbers, tiny

VERIFIER = Verifier(
    name_or_path="maker/target",
    architectures=("LlamaForCausalLM",),
    hidden_size=TARGET,
    vocab_size=VOCAB,
    tokenizer="ab12",
)
HINTED = tiny(HeadKind.HINTED)
EAGLE3 = tiny(HeadKind.EAGLE3)


def same_shape(one: HeadConfig, other: HeadShape) -> bool:
    """Whether two shapes are equal; the frequencies of rotary embeddings are tensors."""
    assert isinstance(other, HeadConfig)
    rope = one.layer.rope
    equal = torch.equal(rope.frequencies, other.layer.rope.frequencies)
    return equal and one == replace(other, layer=replace(other.layer, rope=rope))


@pytest.mark.parametrize("norms", [{}, {"norm_states": True}, {"norm_fused": True}])
def test_a_hinted_head_is_read_as_it_was_written(tmp_path: Path, norms: dict[str, bool]) -> None:
    config = replace(HINTED, **norms)
    optional = ("fc_norm.weight",) if "norm_states" in norms else ()
    tensors = numbers(config, *optional)
    trained = {"tokens": 1000, "data": "answers"}
    write_head(tmp_path, config, tensors, VERIFIER, bits=None, card="# Card\n", trained=trained)
    found = read_head(tmp_path)
    assert same_shape(config, found.config)
    assert (found.verifier, found.format, found.trained) == (VERIFIER, "hinted", trained)
    assert set(found.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor), name
    assert (tmp_path / "README.md").read_text() == "# Card\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize("bits", [8, None])
@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        pytest.param("eagle1", {"fuse_bias": True}, marks=pytest.mark.method("eagle1")),
        pytest.param("fspad", {"sampling": True}, marks=pytest.mark.method("fspad")),
        pytest.param("fspad", {"alignment": True}, marks=pytest.mark.method("fspad")),
    ],
)
def test_a_head_that_predicts_states_is_read_as_it_was_written(
    tmp_path: Path, kind: str, flags: dict[str, bool], bits: int | None
) -> None:
    config = tiny(HeadKind(kind), states=(4,), **flags)
    tensors = numbers(config)
    write_head(tmp_path, config, tensors, VERIFIER, bits=bits, card="")
    found = read_head(tmp_path)
    assert same_shape(config, found.config) and found.format == kind
    for name, tensor in tensors.items():
        packed = bits == 8 and tensor.ndim == 2
        expected = quantize_groups(tensor).dequantize() if packed else tensor
        assert torch.equal(found.tensors[name], expected), name
    wide = replace(config, target_width=TARGET + 4)
    with pytest.raises(CheckpointError, match="output rows are applied to what it predicts"):
        write_head(tmp_path, wide, tensors, VERIFIER, bits=bits, card="")


@pytest.mark.parametrize(("bits", "rounded"), [(8, quantize_groups), (4, quantize_int4)])
def test_matrices_of_few_bits_are_read_as_their_groups_say(
    tmp_path: Path, bits: int, rounded: Callable[[torch.Tensor], Grouped]
) -> None:
    tensors = numbers(HINTED)
    write_head(tmp_path, HINTED, tensors, VERIFIER, bits=bits, card="")
    file = read_head(tmp_path)
    for name, tensor in tensors.items():
        matrix = tensor.ndim == 2 and name != "levels"
        assert (name in file.grouped) is matrix
        expected = rounded(tensor).dequantize() if matrix else tensor
        assert torch.equal(file.tensors[name], expected), name
        if matrix:
            own = file.grouped[name]
            assert own.bits == bits and torch.equal(own.dequantize(), expected)
    stored = (tmp_path / "model.safetensors").stat().st_size
    assert stored < 2 * sum(tensor.numel() for tensor in tensors.values()) + 4000


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"norm_states": True, "norm_before_residual": True},
        {"norm_fused": True, "norm_output": True},
    ],
)
def test_an_eagle3_head_is_read_as_it_was_written(tmp_path: Path, flags: dict[str, bool]) -> None:
    config = replace(EAGLE3, **flags)
    optional = ("fc_norm.weight",) if "norm_states" in flags else ()
    tensors = numbers(config, "lm_head.weight", "embed_tokens.weight", *optional)
    write_head(tmp_path, config, tensors, VERIFIER, bits=None, card="")
    found = read_head(tmp_path)
    assert same_shape(config, found.config)
    assert (found.verifier, found.format) == (VERIFIER, "speculators")
    assert set(found.tensors) == set(tensors)
    assert all(torch.equal(found.tensors[name], tensors[name]) for name in tensors)


def test_rows_of_an_exported_head_ascend_by_id(tmp_path: Path) -> None:
    tensors = numbers(EAGLE3, "lm_head.weight")
    order = torch.arange(DRAFT).flip(0)
    turned = tensors | {name: tensors[name][order] for name in ("ids", "lm_head.weight")}
    write_head(tmp_path, EAGLE3, turned, VERIFIER, bits=None, card="")
    found = read_head(tmp_path).tensors
    assert torch.equal(found["ids"], tensors["ids"])
    assert torch.equal(found["lm_head.weight"], tensors["lm_head.weight"])


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "qwen3"},
        {"model_type": "qwen2"},
        {"rope_theta": 123456.0, "head_dim": 8},
        {
            "head_dim": 16,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ],
)
def test_shapes_of_layers_are_kept(tmp_path: Path, changes: dict[str, object]) -> None:
    settings = LAYER | changes
    config = replace(HINTED, layer=read_layer(settings, DRAFT, "of a test"))
    rotary = settings if "rope_scaling" in changes else None
    tensors = numbers(config)
    write_head(tmp_path, config, tensors, VERIFIER, bits=None, card="", rotary=rotary)
    assert same_shape(config, read_head(tmp_path).config)
    if rotary is not None:
        with pytest.raises(OptionError, match="Give rotary="):
            write_head(tmp_path, config, tensors, VERIFIER, bits=None, card="")


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    tensors = numbers(EAGLE3, "lm_head.weight")

    def write(
        changes: dict[str, torch.Tensor], config: HeadConfig = EAGLE3, *, bits: int | None = None
    ) -> None:
        given = {name: tensor for name, tensor in tensors.items() if name not in changes}
        given |= {name: tensor for name, tensor in changes.items() if len(tensor)}
        write_head(tmp_path / "head", config, given, VERIFIER, bits=bits, card="")

    none = torch.empty(0)
    with pytest.raises(OptionError, match=r"not written with 8 bits.*\. Give bits=None"):
        write({}, bits=8)
    with pytest.raises(OptionError, match=r"bits is 5\. Give 8, 4 or None"):
        write({}, bits=5)
    with pytest.raises(OptionError, match="without lm_head"):
        write({"lm_head.weight": none})
    with pytest.raises(OptionError, match="ascending order"):
        write({}, replace(EAGLE3, states=(2, 1, 4)))
    with pytest.raises(CheckpointError, match="lacks tensor norm"):
        write({"norm.weight": none})
    with pytest.raises(CheckpointError, match="holds NaN values in norm"):
        write({"norm.weight": torch.full((16,), torch.nan)})
    with pytest.raises(CheckpointError, match="gives id 40, expected 0 to 39"):
        write({"ids": tensors["ids"] + 6})
    with pytest.raises(CheckpointError, match="one id twice"):
        write({"ids": tensors["ids"] * 0})
    assert not (tmp_path / "head").exists()


def test_a_failed_write_leaves_the_old_files(tmp_path: Path) -> None:
    tensors = numbers(HINTED)
    write_head(tmp_path, HINTED, tensors, VERIFIER, bits=None, card="old")
    (tmp_path / ".README.md.partial").mkdir()
    with pytest.raises(OptionError, match="cannot be written"):
        write_head(tmp_path, HINTED, tensors, VERIFIER, bits=None, card="new")
    assert (tmp_path / "README.md").read_text() == "old"
    assert json.loads((tmp_path / "config.json").read_text())["draft_vocab_size"] == DRAFT
