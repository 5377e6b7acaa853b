"""A bidirectional Llama-shaped model, its loss on masked answers, and its files."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from outrider.core.errors import writing
from outrider.training.core.formats import END_OF_TEXT
from outrider.training.core.tokenizer import save_tokenizer
from outrider.training.denoiser.data import Pair, end_id

MASK = "<|mask|>"
ARCHITECTURE = "OutriderDenoiserForMaskedDiffusion"
MODEL_TYPE = "outrider_denoiser"


@dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """Texts with masked answers.

    Attributes:
        ids: tokens, with masks; after the end of a text, zeros.
        labels: the tokens themselves.
        seen: the positions of the texts.
        masked: the masked positions.
        weight: the weight of each masked position in the loss, `1 / (t L)`.
    """

    ids: Int[Tensor, "texts length"]
    labels: Int[Tensor, "texts length"]
    seen: Bool[Tensor, "texts length"]
    masked: Bool[Tensor, "texts length"]
    weight: Float[Tensor, "texts length"]


class DenoisingModel(nn.Module):
    """A Llama-shaped model whose rows read the whole text.

    Args:
        model: the model that training starts from; a row is added to its embedding.
        shifted: row i predicts position i + 1.
        mask_id: the id of a masked position.
    """

    def __init__(self, model: LlamaForCausalLM, shifted: bool, mask_id: int) -> None:
        super().__init__()
        self.model, self.shifted, self.mask_id = model, shifted, mask_id

    @classmethod
    def starting_from(cls, folder: Path, shifted: bool) -> "DenoisingModel":
        """Load an autoregressive model in float32 and add a token, the mask."""
        model = LlamaForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, attn_implementation="sdpa"
        )
        mask_id = int(model.config.vocab_size)
        model.resize_token_embeddings(mask_id + 1, mean_resizing=False)
        with torch.no_grad():
            table = model.model.embed_tokens.weight
            table[mask_id] = table[:mask_id].mean(0)
        return cls(model, shifted, mask_id)

    def hidden(
        self, ids: Int[Tensor, "texts length"], seen: Bool[Tensor, "texts length"]
    ) -> Float[Tensor, "texts length hidden"]:
        """Return the last hidden states at the positions that they predict.

        With shifted rows, position 0 has no row of its own and takes that of itself.
        """
        mask = seen[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
        out = self.model.model(input_ids=ids, attention_mask=mask, use_cache=False)
        found = out.last_hidden_state
        return torch.cat((found[:, :1], found[:, :-1]), dim=1) if self.shifted else found

    def logits(self, hidden: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        """Return logits of rows; the logit of the mask is minus infinity."""
        found = self.model.lm_head(hidden)
        return found.index_fill(-1, torch.tensor([self.mask_id]), -torch.inf)

    def losses(self, texts: Masked) -> Float[Tensor, " texts"]:
        """Return the loss of each text: `-(1/(t L))` times the sum of the log-probabilities of the
        masked tokens (LLaDA, arXiv 2502.09992)."""
        hidden = self.hidden(texts.ids, texts.seen)[texts.masked]
        lost = F.cross_entropy(self.logits(hidden), texts.labels[texts.masked], reduction="none")
        rows = texts.masked.nonzero()[:, 0]
        return torch.zeros(len(texts.ids)).index_add(0, rows, lost * texts.weight[texts.masked])


def mask_answers(
    pairs: Sequence[Pair], mask_id: int, epsilon: float, rng: np.random.Generator
) -> Masked:
    """Mask a share t of each answer, with t even in (epsilon, 1) over the texts of a batch.

    Each position of an answer is masked with probability t; prompts are never masked.
    """
    count, length = len(pairs), max(pair.size for pair in pairs)
    ids = np.zeros((count, length), dtype=np.int64)
    seen, masked = np.zeros((2, count, length), dtype=np.bool_)
    weight = np.zeros((count, length), dtype=np.float32)
    shares = epsilon + (1 - epsilon) * (rng.permutation(count) + rng.random(count)) / count
    for row, (pair, share) in enumerate(zip(pairs, shares, strict=True)):
        begin, end = len(pair.prompt), pair.size
        ids[row, :begin], ids[row, begin:end] = pair.prompt, pair.answer
        seen[row, :end] = True
        masked[row, begin:end] = rng.random(end - begin) < share
        weight[row, begin:end] = 1 / (share * (end - begin))
    return Masked(
        ids=torch.from_numpy(np.where(masked, mask_id, ids)),
        labels=torch.from_numpy(ids),
        seen=torch.from_numpy(seen),
        masked=torch.from_numpy(masked),
        weight=torch.from_numpy(weight),
    )


def with_mask(tokenizer: Tokenizer) -> Tokenizer:
    """Add the mask to a tokenizer, behind its last id."""
    tokenizer.add_special_tokens([AddedToken(MASK, special=True)])
    return tokenizer


def export(model: DenoisingModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write bfloat16 weights, the configuration and the tokenizer."""
    small = nn.Module.to(copy.deepcopy(model.model), torch.bfloat16)
    ends = [end_id(tokenizer), tokenizer.encode(END_OF_TEXT).ids[0]]
    settings = json.loads(model.model.config.to_json_string(use_diff=False))
    kept = (
        "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings "
        "mlp_bias num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps "
        "rope_parameters tie_word_embeddings vocab_size"
    )
    config = {name: settings[name] for name in kept.split() if name in settings} | {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "dtype": "bfloat16",
        "mask_token_id": model.mask_id,
        "shifted_logits": model.shifted,
        "eos_token_id": ends,
        "pad_token_id": ends[0],
    }
    tensors = {
        name: tensor.detach().contiguous()
        for name, tensor in small.named_parameters()
        if name != "lm_head.weight"
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
    save_tokenizer(tokenizer, folder, int(model.model.config.max_position_embeddings))
