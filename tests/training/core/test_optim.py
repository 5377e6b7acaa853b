import pytest
import torch
from torch import nn

from outrider.training.core.optim import make_optimizers


class Untied(nn.Module):
    """The parameter names of a Llama-shaped model with a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(16, 4)
        self.mlp = nn.Linear(4, 4)
        self.lm_head = nn.Linear(4, 16, bias=False)


@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
def test_matrices_with_a_row_for_each_token_are_left_to_adamw(name):
    model = Untied()
    optimizers = make_optimizers(model, "draft")
    own = {
        key: [p for group in one.param_groups for p in group["params"]]
        for key, one in optimizers.items()
    }
    table = getattr(model, name).weight
    assert any(p is table for p in own["draft.adamw"])
    assert [p is model.mlp.weight for p in own["draft.muon"]] == [True]
    assert len(own["draft.adamw"]) == 3, "both tables and the bias"
    assert torch.is_tensor(table)
