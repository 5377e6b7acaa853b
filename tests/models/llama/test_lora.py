"""Adapters: the sums that peft makes, and what is refused."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from outrider import load
from outrider.core.errors import CheckpointError, OptionError
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.lora import CONFIG, WEIGHTS, Adapter, add_to_modules, with_adapter
from outrider.models.llama.text_stack import text_checkpoint
from outrider.models.loading import FallbackWarning, load_model
from tests.models.setups.adapting import adapted
from tests.models.setups.looking import PICTURES, Looker
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import all_logits, apart, close, edited, next_logits, random_ids
from tests.models.setups.runners import KINDS
from tests.models.setups.vision_checkpoints import FAMILIES, make_vision_checkpoint

IDS = random_ids(9)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("plain"))


def _model(path: Path, dtype: torch.dtype = torch.float64) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


@pytest.fixture(scope="module")
def adapter(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    adapted(_model(plain), folder)
    return folder


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {"layers.1.self_attn.v_proj": 7}},
    "head": {"target_modules": ["q_proj", "lm_head"]},
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_sum_is_pefts(plain: Path, tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    merged = adapted(_model(plain, dtype), tmp_path, **SETTINGS[name])
    checkpoint = with_adapter(open_checkpoint(plain), Adapter.load(tmp_path))
    tolerance = 1e-6 if dtype == torch.float64 else 1e-5  # files hold float32 matrices
    weights = Decoder.load(checkpoint, dtype=dtype).weights
    expected = merged.model.layers[1].mlp.down_proj.weight.data
    projection: Any = weights.layers[1].down
    close(projection.weight, expected, tolerance)
    head: Any = weights.head
    close(head.weight, merged.lm_head.weight.data, tolerance)
    with torch.no_grad():
        logits = merged(torch.tensor([IDS])).logits[0]
    close(all_logits(Decoder.load(checkpoint, dtype=dtype), IDS), logits, 1e-4)
    bare = all_logits(Decoder.load(plain, dtype=dtype), IDS)
    assert float((bare - logits).abs().max()) > 0.05

    whole = _model(plain, dtype)
    add_to_modules(whole, Adapter.load(tmp_path), "it")
    with torch.no_grad():
        close(whole(torch.tensor([IDS])).logits[0], logits, tolerance)


FUSED: dict[str, list[str]] = {
    "olmo2": ["k_proj", "up_proj"],
    "phi3": ["qkv_proj", "gate_up_proj"],
    "glm4": ["q_proj", "gate_up_proj"],
}


@pytest.mark.parametrize("kind", FUSED)
def test_adapters_of_other_architectures(kind: str, tmp_path: Path) -> None:
    """Rows that the decoder puts into another order are changed before that."""
    path = make_checkpoint(tmp_path / "model", kind, **KINDS[kind])
    merged = adapted(_model(path), tmp_path / "a", std=0.1, target_modules=FUSED[kind])
    text = random_ids(12)
    with torch.no_grad():
        expected = merged(torch.tensor([text])).logits[0]
    checkpoint = with_adapter(open_checkpoint(path), Adapter.load(tmp_path / "a"))
    logits = all_logits(Decoder.load(checkpoint, dtype=torch.float64), text)
    close(logits, expected, 1e-5)
    apart(logits, all_logits(Decoder.load(path, dtype=torch.float64), text))


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_of_image_text_models(family: str, tmp_path: Path) -> None:
    path = make_vision_checkpoint(tmp_path / "whole", family)
    whole = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float64).eval()
    merged = adapted(whole, tmp_path / "adapter")
    adapter = Adapter.load(tmp_path / "adapter")
    text = text_checkpoint(with_adapter(open_checkpoint(path), adapter))
    assert text is not None
    with torch.no_grad():
        expected = merged(torch.tensor([IDS])).logits[0]
    close(all_logits(Decoder.load(text, dtype=torch.float64), IDS), expected, 1e-5)
    again: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float64).eval()
    add_to_modules(again, adapter, family)
    with torch.no_grad():
        close(again(torch.tensor([IDS])).logits[0], expected, 1e-5)


def test_an_adapter_of_zeros_changes_nothing(plain: Path, tmp_path: Path) -> None:
    adapted(_model(plain), tmp_path, std=0.0)
    base = open_checkpoint(plain)
    checkpoint = with_adapter(base, Adapter.load(tmp_path))
    ours = all_logits(Decoder.load(checkpoint, dtype=torch.float32), IDS)
    assert torch.equal(ours, all_logits(Decoder.load(base, dtype=torch.float32), IDS))


def test_the_fingerprint_changes(plain: Path, adapter: Path, tmp_path: Path) -> None:
    base = open_checkpoint(plain)
    one = with_adapter(base, Adapter.load(adapter))
    adapted(_model(plain), tmp_path, seed=1)
    two = with_adapter(base, Adapter.load(tmp_path))
    assert len({base.fingerprint, one.fingerprint, two.fingerprint}) == 3
    assert with_adapter(base, Adapter.load(adapter)).fingerprint == one.fingerprint


def test_two_adapters_add_up(plain: Path, adapter: Path) -> None:
    once = with_adapter(open_checkpoint(plain), Adapter.load(adapter))
    twice = with_adapter(once, Adapter.load(adapter))
    bare, one, two = (
        Decoder.load(c, dtype=torch.float64).weights.layers[0].down for c in (plain, once, twice)
    )
    weights: Any = (bare, one, two)
    steps = [b.weight - a.weight for a, b in pairwise(weights)]
    close(steps[0], steps[1], 1e-12)


def test_an_adapter_of_another_model_is_refused(adapter: Path, tmp_path: Path) -> None:
    wide = make_checkpoint(tmp_path / "wide", intermediate_size=64)
    with pytest.raises(CheckpointError, match=r"for another model.*down_proj of shape \[32, 48\]"):
        with_adapter(open_checkpoint(wide), Adapter.load(adapter))
    short = make_checkpoint(tmp_path / "short", num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.\S+; .* has 1 layers with"):
        with_adapter(open_checkpoint(short), Adapter.load(adapter))
    model = _model(short)
    before = model.model.layers[0].mlp.down_proj.weight.clone()
    with pytest.raises(CheckpointError, match="for another model"):
        add_to_modules(model, Adapter.load(adapter), "short")
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight, before)


def test_a_shared_head_is_refused(plain: Path, tmp_path: Path) -> None:
    adapted(_model(plain), tmp_path / "adapter", target_modules=["lm_head"])
    tied = make_checkpoint(tmp_path / "tied", tie_word_embeddings=True)
    adapter = Adapter.load(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="shares with its embeddings"):
        with_adapter(open_checkpoint(tied), adapter)
    with pytest.raises(CheckpointError, match="shares with its embeddings"):
        add_to_modules(_model(tied), adapter, "tied")


def _copy(adapter: Path, target: Path, **changes: Any) -> Path:
    target.mkdir()
    settings = json.loads((adapter / CONFIG).read_text()) | changes
    (target / CONFIG).write_text(json.dumps(settings))
    (target / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes())
    return target


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "use_dora True, which is not supported"),
    "bias": ({"bias": "all"}, "bias 'all', which is not supported"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "transposed": ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    "another kind": ({"peft_type": "IA3"}, "type 'IA3'; only LORA"),
    "another base": ({"init_lora_weights": "pissa"}, "was initialized with pissa"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_plain_lora_is_refused(adapter: Path, tmp_path: Path, name: str) -> None:
    changes, message = ODD[name]
    with pytest.raises(CheckpointError, match=message):
        Adapter.load(_copy(adapter, tmp_path / "odd", **changes))


def test_damaged_folders_are_refused(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no adapter at"):
        Adapter.load(tmp_path / "nowhere")
    folder = _copy(adapter, tmp_path / "torn")
    (folder / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="is damaged or truncated"):
        Adapter.load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=f"has no {WEIGHTS}"):
        Adapter.load(folder)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match="is a pickle"):
        Adapter.load(folder)
    (folder / CONFIG).write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        Adapter.load(folder)


KEYS: dict[str, tuple[str, str]] = {
    "vision_encoder": (
        "model.vision_model.encoder.layers.0.self_attn.q_proj",
        "changes the vision tower",
    ),
    "old vision encoder": ("visual.blocks.0.attn.qkv", "changes the vision tower"),
    "projector": ("model.connector.modality_projection.proj", "changes the vision tower"),
    "elsewhere": ("transformer.h.0.attn.c_attn", "not a part of a known decoder"),
}


@pytest.mark.parametrize("name", KEYS)
def test_what_lies_outside_the_decoder_is_refused(adapter: Path, tmp_path: Path, name: str) -> None:
    module, message = KEYS[name]
    folder = _copy(adapter, tmp_path / "odd")
    sides = {f"base_model.model.{module}.lora_{s}.weight": torch.zeros(3, 3) for s in "AB"}
    save_file(load_file(adapter / WEIGHTS) | sides, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=message):
        Adapter.load(folder)


def test_names_with_the_adapters_own_are_known(adapter: Path, tmp_path: Path) -> None:
    folder = _copy(adapter, tmp_path / "named")
    renamed = {
        key.replace(".weight", ".default.weight"): tensor
        for key, tensor in load_file(adapter / WEIGHTS).items()
    }
    save_file(renamed, folder / WEIGHTS)
    assert Adapter.load(folder).fingerprint == Adapter.load(adapter).fingerprint
    first = min(renamed)
    save_file({key: t for key, t in renamed.items() if key != first}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="has no complete update"):
        Adapter.load(folder)
    save_file(
        renamed | {"base_model.model.lm_head.lora_embedding_A": torch.zeros(2, 2)}, folder / WEIGHTS
    )
    with pytest.raises(CheckpointError, match="not a LoRA update of a matrix"):
        Adapter.load(folder)


def test_loading_takes_an_adapter(plain: Path, adapter: Path) -> None:
    bare = load_model(plain, dtype="float32", threads=1)
    model = load_model(plain, dtype="float32", threads=1, adapter=adapter)
    assert model.info.fingerprint != bare.info.fingerprint
    whole = _model(plain)
    add_to_modules(whole, Adapter.load(adapter), "it")
    with torch.no_grad():
        close(all_logits(model, IDS).double(), whole(torch.tensor([IDS])).logits[0], 1e-3)
    with pytest.raises(OptionError, match="already built"):
        load_model(model, adapter=adapter)


def test_the_runner_of_transformers_takes_an_adapter(
    plain: Path, adapter: Path, tmp_path: Path
) -> None:
    """A checkpoint that no own runner knows: its activation is an odd one."""
    odd = edited(plain, tmp_path / "odd", hidden_act="mish")
    with pytest.warns(FallbackWarning, match="mish"):
        model = load_model(odd, dtype="float64", adapter=adapter)
    with pytest.warns(FallbackWarning, match="mish"):
        bare = load_model(odd, dtype="float64")
    assert model.info.fingerprint != bare.info.fingerprint
    whole = _model(odd)
    add_to_modules(whole, Adapter.load(adapter), "it")
    with torch.no_grad():
        close(all_logits(model, IDS), whole(torch.tensor([IDS])).logits[0], 1e-8)


def test_generators_take_an_adapter_of_the_target(adapter: Path, tmp_path: Path) -> None:
    target = make_checkpoint(tmp_path / "target", tokenizer=True)
    draft = make_checkpoint(tmp_path / "draft", tokenizer=True, num_hidden_layers=1)
    how: dict[str, Any] = {"draft": draft, "drafter": "model", "dtype": "float64"}
    plain, changed = load(target, **how), load(target, adapter=adapter, **how)
    asked: dict[str, Any] = {"max_new_tokens": 12}
    text = plain.generate("hello", **asked).token_ids
    assert changed.generate("hello", **asked).token_ids != text
    alone = load(target, adapter=adapter, drafter="none", dtype="float64")
    assert (
        alone.generate("hello", **asked).token_ids == changed.generate("hello", **asked).token_ids
    )
    wide = make_checkpoint(tmp_path / "wide", tokenizer=True, intermediate_size=64)
    with pytest.raises(CheckpointError, match="for another model"):
        load(wide, adapter=adapter)


def test_models_that_see_take_an_adapter(tmp_path: Path) -> None:
    path = make_vision_checkpoint(tmp_path / "whole", "qwen2_vl")
    whole = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float64).eval()
    merged = adapted(whole, tmp_path / "adapter")
    model: Any = load_model(path, dtype="float64", adapter=tmp_path / "adapter")
    bare: Any = load_model(path, dtype="float64")
    assert model.info.fingerprint != bare.info.fingerprint
    look = Looker(path).look("what", PICTURES["one"])
    look.whole = merged
    [cache] = model.inner.start([look.prompt])
    close(next_logits(model.inner, cache), look.after(), 5e-5)
