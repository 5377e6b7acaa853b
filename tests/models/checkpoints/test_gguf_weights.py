"""Weights of GGUF files: adapters, memory, and a real model against `transformers`."""

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import outrider
from outrider.bench.scaling.scale import cost_scale
from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.checkpoint import load_grouped, load_tensors
from outrider.models.checkpoints.gguf.header import read_header
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.lora import Adapter, with_adapter
from outrider.models.memory import Demand
from tests.models.llama.test_logits import CASES
from tests.models.setups.make_checkpoints import make_checkpoint, make_model
from tests.models.setups.make_gguf import from_checkpoint
from tests.models.setups.reference import all_logits, close, random_ids

TEXT = random_ids(40)
Q8 = {"attn_q": "Q8_0", "attn_v": "Q8_0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"), "qwen3")


def test_an_adapter_changes_the_weights_of_the_file(folder: Path, tmp_path: Path) -> None:
    """A changed matrix has no integers; the others keep them."""
    from tests.models.setups.adapting import adapted

    adapted(make_model("qwen3"), tmp_path / "adapter", target_modules=["q_proj"])
    checkpoint = open_checkpoint(from_checkpoint(folder, Q8).write(tmp_path / "m.gguf"))
    adapter = Adapter.load(tmp_path / "adapter")
    changed = with_adapter(checkpoint, adapter)
    queries, values = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "qv")
    before, after = (load_tensors(c, [queries], torch.float32) for c in (checkpoint, changed))
    update = adapter.updates["layers.0.self_attn.q_proj"]
    close(after[queries], update(before[queries]))
    assert not torch.equal(after[queries], before[queries])
    assert load_grouped(checkpoint, queries) is not None and load_grouped(changed, queries) is None
    assert load_grouped(changed, values) is not None
    assert changed.fingerprint != checkpoint.fingerprint


ARCHITECTURES = [
    *("gemma2", "gemma2 uncapped", "gemma3", "gemma3 layers", "gemma3 capped", "gemma3 rope"),
    *("phi3", "phi3 window", "phi3 partial", "phi3 longrope", "phi3 longrope partial"),
    *("olmo2", "olmo2 bias", "granite", "granite bias"),
    *("glm4", "glm4 without bias", "glm4 all pairs"),
]


@pytest.mark.parametrize("case", ARCHITECTURES)
def test_a_file_of_another_architecture_gives_the_logits_of_its_folder(
    case: str, tmp_path: Path
) -> None:
    kind, options = CASES[case]
    changes = {"query_pre_attn_scalar": options.get("head_dim", 8)}  # files do not hold it
    if kind.startswith("gemma"):
        options = options | changes | {"hidden_activation": "gelu_pytorch_tanh"}
    path = make_checkpoint(tmp_path / "model", kind, **options)
    file = from_checkpoint(path, {}).write(tmp_path / "model.gguf")
    ours, theirs = Decoder.load(file), Decoder.load(path)
    close(all_logits(ours, TEXT), all_logits(theirs, TEXT), tolerance=1e-5)
    assert ours.info.num_parameters == theirs.info.num_parameters
    assert ours.info.context_length == theirs.info.context_length


def test_only_the_pages_of_a_tensor_are_read(folder: Path, tmp_path: Path) -> None:
    """A file of 8 GB: opening, planning and reading one small tensor take little memory."""
    sound = from_checkpoint(folder, {})
    large = [replace(one, shape=(1 << 20, 1 << 10)) for one in sound.tensors[:2]]
    offsets = [0, 4 << 30]
    small = replace(sound.tensors[2], offset=8 << 30, data=b"")
    tensors = [replace(one, offset=o, data=b"") for one, o in zip(large, offsets, strict=True)]
    file = sound.changed(tensors=[*tensors, small]).write(tmp_path / "m.gguf")
    entry = len(sound.tensors[2].data)
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size + (8 << 30))
        stream.seek(0, 2)
        stream.write(sound.tensors[2].data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    checkpoint = open_checkpoint(file)
    assert Demand.of_checkpoint("target", checkpoint, torch.float32).weights == (8 << 30) + entry
    name = next(name for name, info in checkpoint.tensors.items() if info.nbytes == entry)
    read = load_tensors(checkpoint, [name], torch.float32)[name]
    assert read.numpy().tobytes() == sound.tensors[2].data
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_file_that_is_cut_after_opening(folder: Path, tmp_path: Path) -> None:
    file = from_checkpoint(folder, Q8).write(tmp_path / "m.gguf")
    checkpoint = open_checkpoint(file)
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 5000)
    with pytest.raises(CheckpointError, match=r"m\.gguf' cannot be read"):
        Decoder.load(checkpoint)


def test_a_gguf_file_is_not_cost_scaled(folder: Path, tmp_path: Path) -> None:
    file = from_checkpoint(folder, {}).write(tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match="cost scaling needs a Hugging Face folder"):
        cost_scale(file, "x4", tmp_path / "out")


def test_settings_that_fit_no_decoder_are_refused(folder: Path, tmp_path: Path) -> None:
    """No other runner reads GGUF, so the reason is an error and not a warning."""
    sound = from_checkpoint(folder, {})
    settings = {**sound.settings, "qwen3.attention.head_count_kv": 3}
    file = sound.changed(settings=settings).write(tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match=r"m\.gguf cannot be run: 4 heads .* 3 key-value"):
        outrider.load(file, device="cpu", dtype="float32", mode="none")


# -- a real model ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_file_gives_the_logits_of_transformers(smollm2: Path) -> None:
    pytest.importorskip("gguf")
    from transformers import AutoModelForCausalLM

    theirs: Any = AutoModelForCausalLM.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32
    ).eval()
    text = random_ids(60, vocab_size=theirs.config.vocab_size)
    with torch.no_grad():
        expected = theirs(torch.tensor([text]), use_cache=False).logits[0]
    close(all_logits(Decoder.load(smollm2), text), expected, tolerance=1e-4)


@pytest.mark.slow
def test_all_tensors_of_a_real_file_are_those_of_the_gguf_package(smollm2: Path) -> None:
    gguf = pytest.importorskip("gguf")
    from outrider.models.checkpoints.gguf.tensors import GgufTensor

    header = read_header(smollm2)
    reader = gguf.GGUFReader(smollm2)
    assert len(reader.tensors) == len(header.entries)
    for tensor in reader.tensors:
        ours = GgufTensor(file=smollm2, entry=header.entries[tensor.name])
        theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(ours.read().numpy(), theirs)
        if (grouped := ours.grouped()) is not None:
            np.testing.assert_array_equal(grouped.dequantize().numpy(), theirs)


@pytest.mark.slow
def test_a_real_file_as_target_and_draft(smollm2: Path) -> None:
    """Drafted text equals undrafted text, and the file ends its own turn."""
    messages = [{"role": "user", "content": "Name one river. One word."}]
    options: dict[str, Any] = {"dtype": "stored", "threads": 1}
    plain = outrider.load(smollm2, mode="none", **options).generate(messages, max_new_tokens=40)
    drafted = outrider.load(smollm2, draft=smollm2, drafter="model", **options).generate(
        messages, max_new_tokens=40
    )
    assert drafted.token_ids == plain.token_ids
    assert plain.text and "<|im_end|>" not in plain.text
