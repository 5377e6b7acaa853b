"""The context window: one number, with its reason, everywhere."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

import outrider
from outrider.cli.app import main
from outrider.core.errors import ContextError, OutriderWarning
from outrider.models.checkpoints.window import read_window
from tests.models.setups.make_checkpoints import make_checkpoint, write_tokenizer

LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
}


@pytest.mark.parametrize(
    ("config", "tokens", "reason"),
    [
        ({"max_position_embeddings": 512}, 512, "max_position_embeddings"),
        ({"n_positions": 99}, 99, "n_positions"),
        ({}, None, "config.json sets no number"),
        (
            {
                "max_position_embeddings": 512,
                "original_max_position_embeddings": 64,
                "rope_scaling": LONG,
            },
            64,
            "original_max_position_embeddings: LongRoPE changes",
        ),
        (
            {
                "max_position_embeddings": 512,
                "rope_parameters": {
                    "rope_type": "dynamic",
                    "factor": 2.0,
                    "original_max_position_embeddings": 128,
                },
            },
            128,
            "dynamic RoPE scaling",
        ),
        (
            {
                "max_position_embeddings": 512,
                "original_max_position_embeddings": 64,
                "rope_scaling": {"rope_type": "yarn", "factor": 8.0},
            },
            512,
            "max_position_embeddings",
        ),
    ],
)
def test_windows(config: dict[str, Any], tokens: int | None, reason: str) -> None:
    window = read_window(config)
    assert window.tokens == tokens and reason in window.reason


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore::outrider.models.loading.FallbackWarning")
def test_info_load_and_errors_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=288,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        original_max_position_embeddings=64,
        rope_scaling=LONG,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    Phi3ForCausalLM(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    assert main(["info", str(tmp_path), "--json"]) == 0
    [figures] = json.loads(capsys.readouterr().out)["models"]
    assert figures["context"] == 64 and "LongRoPE" in figures["context_reason"]
    with pytest.warns(OutriderWarning, match="128, and .* at most 64 tokens .*LongRoPE"):
        gen = outrider.load(tmp_path, mode="none", dtype="float32", context_length=128)
    with pytest.raises(ContextError, match="limited to 64"):
        gen.generate("a" * 100)
    assert len(gen.generate("a" * 60, ignore_eos=True).token_ids) == 4


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wide", [2**31 - 1, 2**31, 2**32 - 1, 2**40])
def test_a_sliding_window_wider_than_any_text(wide: int, tmp_path: Path) -> None:
    """Some files write the largest number of 32 bits, or more, for "no window"."""
    options: dict[str, Any] = {"mode": "none", "dtype": "float32", "threads": 1, "device": "cpu"}
    prompt = [5, 9, 40, 3, 77] * 8
    texts = [
        outrider.load(
            make_checkpoint(tmp_path / str(window), "mistral", sliding_window=window), **options
        )
        .generate(prompt, max_new_tokens=8)
        .token_ids
        for window in (200, wide)
    ]
    assert texts[0] == texts[1]
