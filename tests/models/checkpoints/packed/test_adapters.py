"""A LoRA adapter is added to the decoded weights of a packed matrix."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from outrider.models.checkpoints.checkpoint import load_grouped, load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.lora import Adapter, with_adapter
from tests.models.checkpoints.packed.packers import pack_checkpoint
from tests.models.setups.make_checkpoints import make_checkpoint


def test_an_adapter_changes_the_decoded_weights(tmp_path: Path) -> None:
    packed, plain = pack_checkpoint(make_checkpoint(tmp_path / "source"), tmp_path, "gptq")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    part = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    thin = {f"{part}A.weight": torch.randn(2, 32), f"{part}B.weight": torch.randn(32, 2)}
    save_file(thin, tmp_path / "adapter_model.safetensors")
    adapter = Adapter.load(tmp_path)
    found, expected = (with_adapter(open_checkpoint(p), adapter) for p in (packed, plain))
    name = "model.layers.0.self_attn.q_proj.weight"
    one, other = (load_tensors(c, [name], torch.float32)[name] for c in (found, expected))
    assert torch.equal(one, other)
    assert not torch.equal(one, load_tensors(open_checkpoint(plain), [name], torch.float32)[name])
    assert load_grouped(found, name) is None
