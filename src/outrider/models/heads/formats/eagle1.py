"""Heads of EAGLE-1, which EAGLE-2 uses as well, in the format of SafeAILab/EAGLE.

Facts (SafeAILab/EAGLE, module `cnets1`, and `main` of its training):

- `fc` reads `[embedding; state]`, embedding first, neither of them normed, and has a bias unless
  config.json sets `bias` false. The layer has no norm before attention and one before its MLP.
- The state is the last one of `output_hidden_states`, which is that after the final norm of the
  target. What the layer gives is such a state as well: the target's head is applied to it without
  another norm, and the next step reads it.
- config.json is that of a decoder with one layer. The head drafts the whole vocabulary.
"""

import re
from pathlib import Path

import torch

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.fields import check_fields
from outrider.models.heads.config import HeadConfig, HeadKind
from outrider.models.heads.formats.head_file import HeadFile, Verifier
from outrider.models.heads.formats.layers import read_layer
from outrider.models.heads.formats.recognising import PREFIX, HeadFormat
from outrider.models.heads.formats.settings import VOCAB
from outrider.models.heads.formats.stored import StoredHead

_IGNORED = re.compile(r"(.*\.)?rotary_emb\..*|embed_tokens\.padding_idx")


def read_eagle1(checkpoint: Checkpoint, layers: int | None) -> HeadFile:
    """Read an original head of EAGLE-1.

    Args:
        checkpoint: the opened files.
        layers: number of layers of the target, whose final state the head reads.

    Raises:
        CheckpointError: values that are missing, wrong, or not supported; or `layers` is None.
    """
    config, where = checkpoint.config, str(checkpoint.path)
    check_fields(str(Path(where) / "config.json"), config, (VOCAB,))
    if layers is None:
        raise CheckpointError(
            f"the head {where} does not name the number of layers of its target",
            hint="Load it with its target, or give layers=",
        )
    names = {name.removeprefix(PREFIX): name for name in checkpoint.tensors}
    kept = {plain: name for plain, name in names.items() if not _IGNORED.fullmatch(plain)}
    stored = StoredHead(checkpoint=checkpoint, names=kept, where=where)
    vocab = config["vocab_size"]
    layer = read_layer(config, vocab, where)
    head = HeadConfig(
        kind=HeadKind.EAGLE1,
        layer=layer,
        states=(layers,),
        target_width=layer.hidden_size,
        target_vocab=vocab,
        fuse_bias="fc.bias" in kept,
    )
    shapes = {name: stored.shape(name) or () for name in kept}
    stored.check(head, shapes | {"ids": (vocab,)})
    return HeadFile(
        config=head,
        tensors=stored.floats(list(shapes)) | {"ids": torch.arange(vocab, dtype=torch.int32)},
        verifier=Verifier(hidden_size=head.target_width, vocab_size=vocab),
        format=HeadFormat.ORIGINAL_EAGLE1.value,
    )
