"""Experts in GGUF files: merged tensors, older files, settings, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import outrider
from outrider import kernels
from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.checkpoint import load_grouped, load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.formats import lossless
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.models.memory import Demand
from outrider.models.quantization.stored_blocks import Blocks
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.make_gguf import GgufFile, Tensor, from_checkpoint
from tests.models.setups.reference import all_logits, random_ids
from tests.models.setups.runners import load, runner_cases

TEXT = random_ids(40)
needs_kernels = pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())
BIG: dict[str, Any] = {"hidden_size": 256, "moe_intermediate_size": 256, "mlp_only_layers": [0]}
BIG |= {"intermediate_size": 256, "head_dim": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"), "qwen3_moe", mlp_only_layers=[0])


@pytest.fixture(scope="module")
def sound(folder: Path) -> GgufFile:
    return from_checkpoint(folder, {})


def one_by_one(file: GgufFile) -> GgufFile:
    """The same experts as in files from before April 2024: a tensor for each."""
    tensors: list[Tensor] = []
    for tensor in file.tensors:
        if "_exps." not in tensor.name:
            tensors.append(tensor)
            continue
        count, size = tensor.shape[0], len(tensor.data) // tensor.shape[0]
        for i in range(count):
            name = tensor.name.replace("_exps.", f".{i}.")
            data = tensor.data[i * size : (i + 1) * size]
            tensors.append(replace(tensor, name=name, shape=tensor.shape[1:], data=data))
    return file.changed(tensors=tensors)


def fused(file: GgufFile) -> GgufFile:
    """The same experts with gate and up in one tensor."""
    known = {tensor.name: tensor for tensor in file.tensors}
    tensors = [t for t in file.tensors if "gate_exps" not in t.name and "up_exps" not in t.name]
    for name, gate in known.items():
        if "gate_exps" in name:
            up, count = known[name.replace("gate", "up")], gate.shape[0]
            size = len(gate.data) // count
            pieces = [t.data[i * size : (i + 1) * size] for i in range(count) for t in (gate, up)]
            shape = (count, 2 * gate.shape[1], gate.shape[2])
            name = name.replace("gate_exps", "gate_up_exps")
            tensors.append(replace(gate, name=name, shape=shape, data=b"".join(pieces)))
    return file.changed(tensors=tensors)


@pytest.mark.parametrize("runner", runner_cases(("decoder", "native")))
@pytest.mark.parametrize("change", [lambda file: file, one_by_one, fused])
def test_a_file_gives_the_logits_of_its_folder(
    change: Any, runner: str, folder: Path, sound: GgufFile, tmp_path: Path
) -> None:
    file = change(sound).write(tmp_path / "m.gguf")
    ours, theirs = (load(runner, path, torch.float32) for path in (file, folder))
    assert torch.equal(all_logits(ours, TEXT), all_logits(theirs, TEXT))
    assert ours.info.num_parameters == theirs.info.num_parameters
    assert ours.config.experts == theirs.config.experts


def test_a_mixtral_file_gives_the_logits_of_its_folder(tmp_path: Path) -> None:
    """llama.cpp's name for it is `llama`; rows of queries and keys are reordered."""
    path = make_checkpoint(tmp_path / "model", "mixtral", rms_norm_eps=1e-5)
    weights = load_file(path / "model.safetensors")
    settings: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": 256,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 48,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.freq_base": 1e6,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.expert_count": 6,
        "llama.expert_used_count": 3,
    }
    tensors = [
        _tensor("token_embd", weights["model.embed_tokens.weight"]),
        _tensor("output_norm", weights["model.norm.weight"]),
        _tensor("output", weights["lm_head.weight"]),
    ]
    for layer in range(2):
        own = {
            name.removeprefix(f"model.layers.{layer}.").removesuffix(".weight"): tensor
            for name, tensor in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        moe = "block_sparse_moe"
        parts = {
            "attn_q": _paired(own["self_attn.q_proj"], 4),
            "attn_k": _paired(own["self_attn.k_proj"], 2),
            "attn_v": own["self_attn.v_proj"],
            "attn_output": own["self_attn.o_proj"],
            "attn_norm": own["input_layernorm"],
            "ffn_norm": own["post_attention_layernorm"],
            "ffn_gate_inp": own[f"{moe}.gate"],
            **{
                f"ffn_{ours}_exps": torch.stack([own[f"{moe}.experts.{e}.{w}"] for e in range(6)])
                for ours, w in (("gate", "w1"), ("down", "w2"), ("up", "w3"))
            },
        }
        tensors += [_tensor(f"blk.{layer}.{name}", tensor) for name, tensor in parts.items()]
    file = GgufFile(settings, tensors).write(tmp_path / "m.gguf")
    assert open_checkpoint(file).config["model_type"] == "mixtral"
    assert torch.equal(all_logits(Decoder.load(file), TEXT), all_logits(Decoder.load(path), TEXT))


def _tensor(name: str, values: torch.Tensor) -> Tensor:
    return Tensor(f"{name}.weight", 0, tuple(values.shape), values.numpy().tobytes())


def _paired(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Queries or keys as llama.cpp stores them: rows of the two halves of a head alternate."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, -1)
    return halves.transpose(1, 2).reshape(rows.shape).contiguous()


MIXED = {"ffn_down_exps": "Q6_K", "ffn_up_exps": "Q8_0", "ffn_gate_exps": "Q4_0"}


@needs_kernels
@pytest.mark.parametrize("formats", [{}, MIXED], ids=["one format", "mixed"])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "F32"])
def test_stored_experts_run_in_the_compiled_runner(
    kind: str, formats: dict[str, str], tmp_path: Path
) -> None:
    """Near float32 on the same weights, and each row has the same bits at any width."""
    path = make_checkpoint(tmp_path / "model", "qwen3_moe", **BIG)
    file = from_checkpoint(path, formats, kind).write(tmp_path / "model.gguf")
    stored = NativeDecoder.load(file, dtype=None, threads=1)
    exact = NativeDecoder.load(file, dtype=torch.float32, threads=1)
    ours, theirs = all_logits(stored, TEXT), all_logits(exact, TEXT)
    errors = (ours - theirs).norm(dim=1) / theirs.norm(dim=1)
    assert float(errors.median()) < 0.03
    for width in (1, 2, 5, 17):
        assert torch.equal(all_logits(stored, TEXT[:width]), ours[:width])


def test_an_expert_of_a_merged_tensor_keeps_its_integers(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "qwen3_moe", **BIG)
    file = from_checkpoint(path, {}, "Q4_K").write(tmp_path / "model.gguf")
    opened = open_checkpoint(file)
    assert lossless(opened).name == "stored"
    found = [
        load_grouped(opened, f"model.layers.1.mlp.experts.{e}.up_proj.weight") for e in (0, 1, 5)
    ]
    first = found[0]
    assert first is not None and first.shape == (256, 256)
    assert isinstance(first, Blocks) and first.format.name == "Q4_K"
    exact = load_tensors(opened, opened.tensors, torch.float32)
    for expert, one in zip((0, 1, 5), found, strict=True):
        name = f"model.layers.1.mlp.experts.{expert}.up_proj.weight"
        assert one is not None and torch.equal(one.dequantize(), exact[name])


def test_memory_is_planned_for_all_experts(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "qwen3_moe", **BIG)
    opened = open_checkpoint(from_checkpoint(path, {}, "Q4_K").write(tmp_path / "model.gguf"))
    plain = open_checkpoint(path)
    for checkpoint in (opened, plain):
        demand = Demand.of_checkpoint("target", checkpoint, torch.float32)
        assert demand.weights == 4 * plain.num_parameters
    brief = Demand.of_checkpoint("target", opened, None).weights
    assert brief == pytest.approx(opened.total_bytes, rel=0.05)


@needs_kernels
def test_drafted_text_equals_undrafted_text_of_four_bits(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "qwen3_moe", **BIG)
    file = from_checkpoint(path, {}, "Q4_K").write(tmp_path / "model.gguf")
    options: dict[str, Any] = {"max_new_tokens": 40, "ignore_eos": True}
    plain = outrider.load(file, mode="none", dtype="stored").generate([7, 8, 9], **options)
    drafted = outrider.load(file, drafter="recycling", dtype="stored")
    found = drafted.generate([7, 8, 9], **options)
    assert found.token_ids == plain.token_ids
    assert found.speculation.target.drafted > 0


SETTINGS: dict[str, tuple[str, Any, str]] = {
    "too many": ("expert_count", 1 << 20, "expert_count 1048576, expected"),
    "none": ("expert_count", 0, "no qwen3moe.expert_count"),
    "others": ("expert_count", 5, r"_exps.weight has the shape \[6, .* for 5 experts"),
    "used": ("expert_used_count", 7, "num_experts_per_tok 7, but 6 experts"),
    "none used": ("expert_used_count", 0, "expert_used_count 0"),
    "size": ("expert_feed_forward_length", "wide", "expert_feed_forward_length 'wide'"),
    "other size": ("expert_feed_forward_length", 25, r"implies \[32, 25\]"),
    "sigmoid": ("expert_gating_func", 2, "expert_gating_func 2, which is not supported"),
    "scale": ("expert_weights_scale", 2.5, "expert_weights_scale 2.5, which is not"),
    "no sum": ("expert_weights_norm", False, "expert_weights_norm False, which is not"),
    "shared": ("expert_shared_count", 1, "expert_shared_count 1, which is not"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_wrong_setting_is_refused_in_one_line(case: str, sound: GgufFile, tmp_path: Path) -> None:
    key, wrong, message = SETTINGS[case]
    settings = {**sound.settings, f"qwen3moe.{key}": wrong}
    file = sound.changed(settings=settings).write(tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match=message) as caught:
        Decoder.load(file)
    assert str(caught.value).isprintable()


def test_wrong_tensors_are_refused_in_one_line(sound: GgufFile, tmp_path: Path) -> None:
    def refused(message: str, tensors: list[Tensor]) -> None:
        file = sound.changed(tensors=tensors).write(tmp_path / "m.gguf")
        with pytest.raises(CheckpointError, match=message):
            Decoder.load(file)

    known = {tensor.name: tensor for tensor in sound.tensors}
    name = "blk.1.ffn_up_exps.weight"
    rest = [tensor for tensor in sound.tensors if tensor.name != name]
    count, rows, inputs = known[name].shape
    refused("holds|lacks tensor", rest)
    refused("shape", [*rest, replace(known[name], shape=(count * rows, inputs))])
    refused("shape", [*rest, replace(known[name], shape=(count // 2, rows * 2, inputs))])
    again = replace(known[name], name="blk.1.ffn_up.3.weight", shape=(rows, inputs))
    refused("second tensor", [*sound.tensors, replace(again, data=bytes(4 * rows * inputs))])
    router = "blk.1.ffn_gate_inp.weight"
    refused("unexpected tensor", [t for t in sound.tensors if t.name != router])
    dense = {**sound.settings, "general.architecture": "qwen3"}
    dense |= {k.replace("qwen3moe", "qwen3"): v for k, v in sound.settings.items() if "moe." in k}
    file = sound.changed(settings=dense).write(tmp_path / "dense.gguf")
    with pytest.raises(CheckpointError, match="mixture of experts of the architecture 'qwen3'"):
        open_checkpoint(file)
