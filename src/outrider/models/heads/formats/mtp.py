"""MTP heads inside the checkpoint of their target (`mtp.*`, as in Qwen3-Next and Qwen3.5).

Facts (vLLM, modules `qwen3_next_mtp` and `qwen3_5_mtp`; speculators, `MTPConverter`):
`fc` reads `[norm(embedding); norm(state)]`, embedding first; the state is that of the last layer
after the final norm, and the next step reads the output of `mtp.norm` in its place. Embeddings and
head are those of the target. Norms of Qwen3-Next and Qwen3.5 store their weight minus 1.

All published checkpoints of these two have gates at the output of attention, and most have
experts; one Llama-shaped layer runs neither, so they are refused.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import Checkpoint, UnsupportedCheckpointError
from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.heads.config import LAYER, HeadConfig, HeadKind
from outrider.models.heads.formats.head_file import HeadFile, Verifier
from outrider.models.heads.formats.layers import read_layer
from outrider.models.heads.formats.recognising import HeadFormat
from outrider.models.heads.formats.settings import VOCAB
from outrider.models.heads.formats.stored import StoredHead

_PREFIX = "mtp."
_GATED = ("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text")
"""Architectures with gates unless config.json denies it, and with norms that store weight - 1."""
_FIELDS = (
    VOCAB,
    Field("num_hidden_layers", ("whole number",), null=False, least=1, needed=True),
    Field("attn_output_gate", ("true or false",)),
)


def read_mtp(checkpoint: Checkpoint) -> HeadFile:
    """Read the MTP head of a target.

    Raises:
        UnsupportedCheckpointError: attention with gates, experts, or more than one layer.
        CheckpointError: values that are missing or wrong.
    """
    where = str(checkpoint.path)
    file = str(Path(where) / "config.json")
    settings: Mapping[str, JsonValue] = checkpoint.config.get("text_config") or checkpoint.config
    check_fields(file, settings, _FIELDS)
    names = {
        name.removeprefix(_PREFIX): name for name in checkpoint.tensors if name.startswith(_PREFIX)
    }
    stored = StoredHead(checkpoint=checkpoint, names=names, where=where)
    kind = settings.get("model_type")
    normed = f"{LAYER}self_attn.q_norm.weight" in names
    plain = {"model_type": "qwen3" if normed else "llama", "num_hidden_layers": 1}
    layer = read_layer({**settings, **plain, "layer_types": None}, settings["vocab_size"], where)
    queries = stored.shape(f"{LAYER}self_attn.q_proj.weight")
    rows = layer.num_heads * layer.head_dim
    _refuse(
        where,
        {
            "experts": any(".experts." in name for name in names),
            "gates at the output of attention": settings.get("attn_output_gate", kind in _GATED)
            or (queries is not None and queries[0] == 2 * rows),
            "more than one layer": "layers.1.input_layernorm.weight" in names,
        },
    )
    head = HeadConfig(
        kind=HeadKind.MTP,
        layer=layer,
        states=(settings["num_hidden_layers"],),
        target_width=layer.hidden_size,
        target_vocab=settings["vocab_size"],
    )
    shapes = {name: stored.shape(name) or () for name in names}
    stored.check(head, shapes | {"ids": (head.draft_vocab,)})
    tensors = stored.floats(list(shapes))
    if kind in _GATED:
        tensors = {name: one + 1 if "norm" in name else one for name, one in tensors.items()}
    architectures = checkpoint.config.get("architectures") or ()
    return HeadFile(
        config=head,
        tensors=tensors | {"ids": torch.arange(head.draft_vocab, dtype=torch.int32)},
        verifier=Verifier(
            name_or_path=where,
            architectures=tuple(architectures),
            hidden_size=head.target_width,
            vocab_size=head.target_vocab,
        ),
        format=HeadFormat.MTP.value,
    )


def _refuse(where: str, found: Mapping[str, bool]) -> None:
    for what, there in found.items():
        if there:
            raise UnsupportedCheckpointError(
                f"the MTP head of {where} has {what}, which heads do not support",
                hint="Draft without its MTP head, or with an EAGLE-3 head",
            )
