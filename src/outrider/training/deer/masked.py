"""A language model with one more embedding, for masked tokens, and all of its weights trained."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from outrider.core.errors import OptionError
from outrider.models.checkpoints.json_file import read_object
from outrider.training.deer.blocks import MASK, Rows, seen


class MaskedModel(nn.Module):
    """A Llama model that reads masks.

    Args:
        model: the model, in float32.
        both: whether the masks of a block read those behind them.
        mask: `[hidden]` the embedding of a mask; None: the mean of all embeddings.

    Attributes:
        model: the same.
        mask: the embedding of a mask.
    """

    def __init__(self, model: LlamaForCausalLM, both: bool, mask: Tensor | None = None) -> None:
        super().__init__()
        self.model, self._both = model, both
        first = model.model.embed_tokens.weight.detach().mean(0) if mask is None else mask
        self.mask = nn.Parameter(first.clone())

    @classmethod
    def load(cls, folder: Path, both: bool) -> "MaskedModel":
        """Load the weights of a folder.

        Raises:
            OptionError: it is not a Llama model.
        """
        kind = read_object(folder / "config.json").get("model_type")
        if kind != "llama":
            raise OptionError(
                f"the draft model is of type {kind!s:.40}, and only llama is trained",
                hint="Begin with a Llama model",
            )
        model = LlamaForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False
        )
        return cls(model, both)

    def logits(self, texts: Sequence[Rows]) -> Float[Tensor, "labels vocab"]:
        """Return the logits of the rows that have labels, text by text."""
        width = max(len(text.ids) for text in texts)
        ids = np.zeros((len(texts), width), dtype=np.int64)
        positions = np.zeros_like(ids)
        visible = np.zeros((len(texts), width, width), dtype=np.bool_)
        visible[:, np.arange(width), np.arange(width)] = True  # padding reads itself
        for i, text in enumerate(texts):
            count = len(text.ids)
            ids[i, :count], positions[i, :count] = text.ids, text.positions
            visible[i, :count, :count] = seen(text, self._both)
        masked = torch.from_numpy(ids == MASK)[..., None]
        x = self.model.model.embed_tokens(torch.from_numpy(np.maximum(ids, 0)))
        hidden = torch.zeros(len(texts), 1, width, width)
        hidden.masked_fill_(torch.from_numpy(~visible)[:, None], torch.finfo(torch.float32).min)
        states = self.model.model(
            inputs_embeds=torch.where(masked, self.mask, x),
            attention_mask=hidden,
            position_ids=torch.from_numpy(positions),
            use_cache=False,
        ).last_hidden_state
        at = np.concatenate([i * width + text.at for i, text in enumerate(texts)])
        return self.model.lm_head(states.flatten(0, 1)[torch.from_numpy(at)])

    def loss(self, texts: Sequence[Rows]) -> Float[Tensor, ""]:
        """Return the weighted cross-entropy of all labels, divided by the number of texts."""
        labels = torch.from_numpy(np.concatenate([text.labels for text in texts]))
        weights = torch.from_numpy(np.concatenate([text.weights for text in texts]))
        losses = F.cross_entropy(self.logits(texts), labels, reduction="none")
        return (losses * weights).sum() / len(texts)
