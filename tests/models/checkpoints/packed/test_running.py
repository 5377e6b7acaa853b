"""Packed checkpoints run, and write what the same weights write as float32."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import outrider
from outrider import kernels
from outrider.cli.commands.info import facts
from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.checkpoint import load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.packed import awq, bitsandbytes, compressed, gptq, words
from outrider.models.checkpoints.packed.integers import Integers
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.text_stack import text_stack
from outrider.models.loading import FallbackWarning, load_model
from outrider.models.vision.image_model import VisionLanguageModel
from outrider.models.vision.loading import BlindWarning
from tests.models.checkpoints.packed.packers import KINDS, pack_checkpoint
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import all_logits, random_ids
from tests.models.setups.vision_checkpoints import make_vision_checkpoint

TEXT = random_ids(24)
HOW: dict[str, tuple[str, dict[str, Any]]] = {
    "GPTQ in another order": ("gptq", {"mixed": True}),
    "GPTQ of 8 bits": ("gptq", {"bits": 8, "symmetric": True}),
    "GPTQ of whole rows": ("gptq", {"group": -1}),
    "symmetric GPTQ": ("gptq_v2", {"symmetric": True, "group": 64}),
    "AWQ of 64": ("awq", {"group": 64}),
    "small groups": ("gptq", {"group": 16}),
    "octets of a row": ("int8", {"bits": 8, "group": -1, "symmetric": True}),
}
"""Further settings; those of `KINDS` are zero points and groups of 32."""

needs_kernels = pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return make_checkpoint(folder, tokenizer=True, hidden_size=64, intermediate_size=96)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_is_that_of_the_same_weights(kind: str, source: Path, tmp_path: Path) -> None:
    texts = []
    for folder in pack_checkpoint(source, tmp_path, kind):
        model = outrider.load(folder, mode="none", dtype="float32", device="cpu", threads=1)
        result = model.generate("Once upon a time", max_new_tokens=24)
        texts.append((result.token_ids, result.text))
    assert texts[0] == texts[1] and len(texts[0][0]) > 8


@needs_kernels
@pytest.mark.parametrize("kind", (*KINDS, *HOW))
def test_kernels_run_stored_integers(kind: str, source: Path, tmp_path: Path) -> None:
    """Near float32 (activations have 8 bits); a row does not depend on others beside it."""
    name, how = HOW.get(kind, (kind, {}))
    packed, _ = pack_checkpoint(source, tmp_path, name, **how)
    stored = NativeDecoder.load(packed, dtype=None, threads=1)
    exact = NativeDecoder.load(packed, dtype=torch.float32, threads=1)
    ours, theirs = all_logits(stored, TEXT), all_logits(exact, TEXT)
    assert float((ours - theirs).norm() / theirs.norm()) < 0.05
    for width in (1, 3, 9):
        assert torch.equal(all_logits(stored, TEXT[:width]), ours[:width])


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_drafted_text_is_the_undrafted_one(kind: str, source: Path, tmp_path: Path) -> None:
    packed, _ = pack_checkpoint(source, tmp_path, kind)
    ways: tuple[dict[str, Any], ...] = ({"mode": "none"}, {"drafter": "lookup"})
    plain, drafted = (
        outrider.load(packed, dtype="stored", device="cpu", threads=1, **how).generate(
            "one two one two", max_new_tokens=32, ignore_eos=True
        )
        for how in ways
    )
    assert drafted.token_ids == plain.token_ids and len(plain.token_ids) == 32


def test_an_order_of_inputs_runs(source: Path, tmp_path: Path) -> None:
    packed, plain = pack_checkpoint(source, tmp_path, "gptq", mixed=True)
    names = open_checkpoint(plain).tensors
    found, expected = (
        load_tensors(open_checkpoint(p), names, torch.float32) for p in (packed, plain)
    )
    assert all(torch.equal(found[name], expected[name]) for name in names)


def test_other_devices_say_that_weights_are_decoded(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, _ = pack_checkpoint(source, tmp_path, "awq")
    monkeypatch.setattr("outrider.models.loading.resolve_device", lambda _: torch.device("meta"))
    monkeypatch.setattr("outrider.models.loading.decoder_for", lambda _: Decoder)
    with pytest.warns(FallbackWarning, match=r"runs in bfloat16: .*\(AWQ-4\) are decoded on meta"):
        load_model(packed, dtype="bfloat16")


def test_a_decoder_of_bfloat16(source: Path, tmp_path: Path) -> None:
    packed, plain = pack_checkpoint(source, tmp_path, "gptq")
    found, expected = (Decoder.load(p, dtype=torch.bfloat16) for p in (packed, plain))
    for one, other in zip(found.weights.layers, expected.weights.layers, strict=True):
        assert torch.equal(one.down.weight, other.down.weight)  # pyright: ignore


@pytest.mark.parametrize(("only", "sees"), [("text_model.layers", True), ("layers", False)])
def test_image_text_models(only: str, sees: bool, tmp_path: Path) -> None:
    """The text part is packed; a packed vision encoder is not read."""
    images = make_vision_checkpoint(tmp_path / "images", "idefics3")
    packed, plain = pack_checkpoint(images, tmp_path, "gptq", only=only)
    with nullcontext() if sees else pytest.warns(BlindWarning):
        found = load_model(packed, dtype="float32", device="cpu", threads=1)
    assert isinstance(found, VisionLanguageModel) == sees
    expected = text_stack(open_checkpoint(plain)).checkpoint
    text = text_stack(open_checkpoint(packed)).checkpoint
    assert text is not None and expected is not None
    for name, tensor in load_tensors(expected, expected.tensors, torch.float32).items():
        assert torch.equal(load_tensors(text, [name], torch.float32)[name], tensor)


def test_facts_name_the_format(source: Path, tmp_path: Path) -> None:
    packed, _ = pack_checkpoint(source, tmp_path, "compressed")
    found = facts("it", open_checkpoint(packed), "auto", torch.float32)
    assert found["runner"] == "outrider"
    with_most = {t.dtype for t in open_checkpoint(packed).tensors.values()}
    assert with_most == {"F32", "CT-4"}


def test_shards(source: Path, tmp_path: Path) -> None:
    """The parts of a matrix may lie in several files."""
    packed, plain = pack_checkpoint(source, tmp_path, "gptq")
    whole = load_file(packed / "model.safetensors")
    (packed / "model.safetensors").unlink()
    halves = [dict(list(whole.items())[i::2]) for i in range(2)]
    names = {}
    for i, half in enumerate(halves):
        save_file(half, packed / f"model-{i}.safetensors")
        names |= dict.fromkeys(half, f"model-{i}.safetensors")
    index = packed / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    name = "model.layers.1.mlp.down_proj.weight"
    found, expected = (
        load_tensors(open_checkpoint(p), [name], torch.float32) for p in (packed, plain)
    )
    assert torch.equal(found[name], expected[name])


@pytest.mark.parametrize(("value", "good"), [(0.0, True), (0.5, False)])
def test_biases_that_add_nothing(value: float, good: bool, source: Path, tmp_path: Path) -> None:
    packed, _ = pack_checkpoint(source, tmp_path, "gptq")
    tensors = load_file(packed / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.bias"] = torch.full((64,), value)
    save_file(tensors, packed / "model.safetensors")
    if good:
        Decoder.load(packed)
        return
    with pytest.raises(CheckpointError, match=r"unexpected tensor .*down_proj\.bias"):
        Decoder.load(packed)


def swapped(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Take the upper half of each octet first."""
    return lambda packed, bits: original(packed, bits).unflatten(1, (-1, 2)).flip(2).flatten(1)


MUTATIONS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "nibbles of GPTQ": ("gptq", lambda m: m.setattr(gptq, "unpack", swapped(words.unpack))),
    "nibbles of AWQ": ("awq", lambda m: m.setattr(awq, "unpack", swapped(words.unpack))),
    "nibbles of others": (
        "compressed",
        lambda m: m.setattr(compressed, "unpack", swapped(words.unpack)),
    ),
    "zero minus one": ("gptq", lambda m: m.setattr(gptq, "_ONES", {4: 0, 8: 0})),
    "zero of version 2": ("gptq_v2", lambda m: m.setattr(gptq, "_LAYOUTS", ("gptq",))),
    "order of AWQ": ("awq", lambda m: m.setattr(awq, "_PLACES", (0, 2, 4, 6, 1, 3, 5, 7))),
    "order of inputs": (
        "gptq",
        lambda m: m.setattr(
            Integers, "_spread", lambda self, values: values[:, self._in_order().long()]
        ),
    ),
    "scales of nf4": (
        "nf4",
        lambda m: m.setattr(
            bitsandbytes.Blocks, "_scales", lambda self: self.parts.read("weight.absmax").flip(0)
        ),
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_are_seen(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, mutate = MUTATIONS[name]
    how: dict[str, Any] = {} if kind in ("awq", "nf4") else {"mixed": name == "order of inputs"}
    packed, plain = pack_checkpoint(source, tmp_path, kind, **how)
    matrix = "model.layers.0.mlp.up_proj.weight"
    expected = load_tensors(open_checkpoint(plain), [matrix], torch.float32)[matrix]
    found = load_tensors(open_checkpoint(packed), [matrix], torch.float32)[matrix]
    assert torch.equal(found, expected)
    mutate(monkeypatch)
    checkpoint = open_checkpoint(packed)
    changed = matrix not in checkpoint.tensors
    if not changed:
        changed = not torch.equal(
            load_tensors(checkpoint, [matrix], torch.float32)[matrix], expected
        )
    assert changed
