"""Names of tensors in GGUF files and in Hugging Face checkpoints."""

import re

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

FACTORS = "rope_freqs.weight"
"""Divisors of the frequencies of rotary embeddings."""

_OUTER = {theirs: ours for ours, theirs in OUTER.items()}
_PARTS = {theirs: ours for ours, theirs in PARTS.items()}
_IN_LAYER = re.compile(
    r"blk\.(?P<layer>0|[1-9][0-9]{0,5})\.(?P<part>[a-z_]{1,60})\.(?P<ending>weight|bias)"
)


def from_gguf(name: str) -> str | None:
    """Return the Hugging Face name of a tensor; None if there is none."""
    if name in _OUTER:
        return _OUTER[name]
    found = _IN_LAYER.fullmatch(name)
    if found is None or found["part"] not in _PARTS:
        return None
    return f"model.layers.{found['layer']}.{_PARTS[found['part']]}.{found['ending']}"
