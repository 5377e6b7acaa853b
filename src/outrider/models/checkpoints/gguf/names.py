"""Names of tensors in GGUF files and in Hugging Face checkpoints."""

import re
from collections.abc import Mapping

OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
"""Tensors outside of the layers: Hugging Face's names and those of GGUF."""

PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""Tensors of a layer, without their number and their ending."""

_SANDWICH = {"post_feedforward_layernorm": "post_ffw_norm"}
OLMO2 = _SANDWICH | {"post_attention_layernorm": "post_attention_norm"}
GEMMA = OLMO2 | {"pre_feedforward_layernorm": "ffn_norm"}
FUSED = {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
GLM4 = {
    "post_self_attn_layernorm": "post_attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "post_mlp_layernorm": "post_ffw_norm",
    "mlp.gate_up_proj": "ffn_up",
}
"""Tensors that are called otherwise in some architectures, as in `PARTS`."""

FACTORS = "rope_freqs.weight"
"""Divisors of the frequencies of rotary embeddings."""
SHORT, LONG = "rope_factors_short.weight", "rope_factors_long.weight"
"""The same for LongRoPE."""

_OUTER = {theirs: ours for ours, theirs in OUTER.items()}
_IN_LAYER = re.compile(
    r"blk\.(?P<layer>0|[1-9][0-9]{0,5})\.(?P<part>[a-z_]{1,60})\.(?P<ending>weight|bias)"
)


def from_gguf(name: str, others: Mapping[str, str]) -> str | None:
    """Return the Hugging Face name of a tensor; None if there is none.

    Args:
        name: the name in the file.
        others: names of the architecture that differ from `PARTS`.
    """
    if name in _OUTER:
        return _OUTER[name]
    found = _IN_LAYER.fullmatch(name)
    parts = {theirs: ours for ours, theirs in (*PARTS.items(), *others.items())}
    if found is None or found["part"] not in parts:
        return None
    return f"model.layers.{found['layer']}.{parts[found['part']]}.{found['ending']}"
