"""Models in float64 that compute some parts in float32."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    PreTrainedModel,
)

import outrider
from outrider.core.errors import CheckpointError
from outrider.models.transformers import tree_check
from outrider.models.transformers.model import TransformersModel

pytestmark = pytest.mark.usefixtures("unchecked")


def gemma2() -> PreTrainedModel:
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=288,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
        )
    )


def gptj() -> PreTrainedModel:
    """GPT-J of large weights: with the usual ones its rounding in float32 changes no logit."""
    config = GPTJConfig(
        vocab_size=288,
        n_embd=32,
        n_layer=2,
        n_head=4,
        rotary_dim=4,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    return GPTJForCausalLM(config)


@pytest.mark.parametrize("make", [gemma2, gptj])
def test_they_run(make: Callable[[], PreTrainedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = make().double().eval()  # pyright: ignore[reportCallIssue]
    ids = torch.tensor([[5, 9, 40]])
    options = {"max_new_tokens": 8, "pad_token_id": 0}
    theirs: Tensor = model.generate(  # pyright: ignore
        ids, attention_mask=torch.ones_like(ids), **options
    )
    assert outrider.generate(model, ids, **options).tolist() == theirs.tolist()
    monkeypatch.setattr(tree_check, "_largest_error", lambda _: 0.5)
    with pytest.raises(CheckpointError, match=r"differ by 0\.5 of their spread"):
        TransformersModel(model)
