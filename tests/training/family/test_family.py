import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from outrider.training.core.config import load_config

MakeConfig = Callable[..., Path]


@pytest.mark.usefixtures("unchecked")
def test_the_exported_family_loads_and_generates(finished: Path) -> None:
    for tier in ("target", "qualifier", "draft"):
        folder = finished / "family" / tier
        model: Any = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ends = [0, tokenizer.convert_tokens_to_ids("<|end|>")]
        assert model.dtype == torch.bfloat16
        assert model.generation_config.eos_token_id == ends
        assert model.config.tie_word_embeddings
        assert model.config.vocab_size == len(tokenizer) == 300
        out = model.generate(**tokenizer("Ann went", return_tensors="pt"), max_new_tokens=3)
        assert out.shape[1] > 2


def test_the_card_the_prompts_and_the_metrics(finished: Path) -> None:
    card = (finished / "family" / "MODEL_CARD.md").read_text()
    assert "| draft | " in card
    assert "On the target's own greedy continuations" in card
    assert str(finished) not in card
    lines = (finished / "family" / "prompts.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["chat", "chat"]
    metrics = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {"stage", "tokens_per_second", "eta_minutes", "loss"} <= metrics[0].keys()


def test_sources_keep_their_share(make_config: MakeConfig, finished: Path) -> None:
    stream = np.load(finished / "corpus" / "train.npy")
    config = load_config(make_config())
    assert stream.dtype == np.uint16
    assert len(stream) == pytest.approx(config.corpus.tokens, rel=0.1)
