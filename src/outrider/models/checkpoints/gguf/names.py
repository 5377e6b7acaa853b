"""Names of tensors in GGUF files and in Hugging Face checkpoints."""

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


def from_gguf(name: str) -> str | None:
    """Return the Hugging Face name of a tensor; None if there is none."""
    if name in _OUTER:
        return _OUTER[name]
    block, _, rest = name.partition(".")
    number, _, rest = rest.partition(".")
    part, _, ending = rest.partition(".")
    if block != "blk" or not number.isdecimal() or ending not in ("weight", "bias"):
        return None
    return f"model.layers.{int(number)}.{_PARTS[part]}.{ending}" if part in _PARTS else None
