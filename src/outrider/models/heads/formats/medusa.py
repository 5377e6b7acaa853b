"""Medusa heads: the published format, and our own with shared output rows.

Facts of the published format, from github.com/FasterDecoding/Medusa (modules `medusa_model` and
`medusa_model_new`):

- config.json holds `medusa_num_heads`, `medusa_num_layers` and `base_model_name_or_path`. The
  number of heads in it is wrong in some repositories, so the tensors are counted.
- Tensor `k.j.linear.weight` is block j of head k, `k.n.weight` its output rows, where n is the
  number of blocks; some files put `medusa_head.` before the names. The weights are in
  `medusa_lm_head.safetensors`, without those of the target.
- The blocks of a head are built by multiplying a list, so they are one block that runs n times.
  Files that drop tensors which share memory hold the first one only: it takes the place of the
  others.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.heads.config import HeadKind
from outrider.models.heads.formats.head_file import HeadFile, Verifier
from outrider.models.heads.formats.own import own_file
from outrider.models.heads.formats.recognising import HeadFormat
from outrider.models.heads.formats.settings import (
    FIELDS,
    STATES,
    VOCAB,
    extras_of,
    read_extras,
    speculators_config,
)
from outrider.models.heads.formats.stored import StoredHead
from outrider.models.heads.medusa.config import MedusaConfig, block_bias, block_weight, rows_of

WEIGHTS = "medusa_lm_head.safetensors"
"""The file of the weights in published repositories."""

_MOST = 64
_HEADS = Field("medusa_num_heads", ("whole number",), least=1, most=_MOST)
_BLOCKS = Field("medusa_num_layers", ("whole number",), least=1, most=_MOST)
_BASE = Field("base_model_name_or_path", ("text",))
_OWN_ROWS = Field("medusa_own_rows", ("true or false",))
_NEEDED = tuple(
    replace(one, null=False, needed=True)
    for one in (_HEADS, _BLOCKS, VOCAB, *(f for f in FIELDS if f.kinds == ("whole number",)))
)
_NAME = re.compile(r"(?:medusa_heads?\.)?(\d{1,2})\.(\d{1,2})\.(linear\.)?(weight|bias)")
_AGAIN = "Download its files again, or convert it again"


def read_medusa(checkpoint: Checkpoint, layers: int | None) -> HeadFile:
    """Read heads in the published format.

    Args:
        checkpoint: the opened files.
        layers: number of layers of the target, which is the number of its last state.

    Raises:
        CheckpointError: values that are missing, wrong, or not supported.
    """
    where = str(checkpoint.path)
    check_fields(str(Path(where) / "config.json"), checkpoint.config, (_HEADS, _BLOCKS, _BASE))
    if layers is None:
        raise CheckpointError(
            f"the head {where} does not name the last state of its target, which it reads",
            hint="Load it with its target, or give layers=, the number of layers of the target",
        )
    names, heads, blocks = _names(checkpoint, where)
    stored = StoredHead(checkpoint=checkpoint, names=names, where=where)
    shape = stored.shape(rows_of(0)) or ()
    if len(shape) != 2:
        raise CheckpointError(
            f"the output rows of the head {where} have shape {list(shape)}, expected a matrix",
            hint=_AGAIN,
        )
    config = MedusaConfig(
        kind=HeadKind.MEDUSA,
        states=(layers,),
        target_width=shape[1],
        target_vocab=shape[0],
        heads=heads,
        drafts=shape[0],
        blocks=blocks,
        own_rows=True,
    )
    shapes = {name: stored.shape(name) or () for name in names}
    stored.check(config, shapes | {"ids": (shape[0],)})
    tensors = stored.floats(list(names)) | {"ids": torch.arange(shape[0], dtype=torch.int32)}
    verifier = Verifier(
        name_or_path=checkpoint.config.get("base_model_name_or_path"),
        hidden_size=shape[1],
        vocab_size=shape[0],
    )
    return HeadFile(
        config=config, tensors=tensors, verifier=verifier, format=HeadFormat.MEDUSA.value
    )


def _names(checkpoint: Checkpoint, where: str) -> tuple[dict[str, str], int, int]:
    """Return our names and those of the file, the number of heads, and that of blocks."""
    blocks: dict[tuple[int, int, str], str] = {}
    rows: dict[int, tuple[int, str]] = {}
    for name in checkpoint.tensors:
        if (found := _NAME.fullmatch(name)) is None:
            continue
        head, place = int(found[1]), int(found[2])
        if found[3]:
            blocks[head, place, found[4]] = name
        elif found[4] == "weight":
            rows[head] = place, name
    depths = {place for place, _ in rows.values()}
    if not rows or sorted(rows) != list(range(len(rows))) or len(depths) != 1:
        raise CheckpointError(
            f"the output rows of the heads in {where} are those of heads {sorted(rows)} after "
            f"{sorted(depths)} blocks, expected heads from 0 on with equally many blocks",
            hint=_AGAIN,
        )
    [depth] = depths
    names = {rows_of(head): name for head, (_, name) in rows.items()}
    for head in rows:
        for place in range(depth):
            for part, named in (("weight", block_weight), ("bias", block_bias)):
                # one block that runs several times may be stored once
                name = blocks.get((head, place, part), blocks.get((head, 0, part)))
                if name is not None:
                    names[named(head, place)] = name
    return names, len(rows), depth


def read_own_medusa(checkpoint: Checkpoint) -> HeadFile:
    """Read heads in our own format.

    Raises:
        CheckpointError: values that are missing or wrong.
    """
    config, where = checkpoint.config, str(checkpoint.path)
    file = str(Path(where) / "config.json")
    trained = read_extras(config, file)
    check_fields(file, config, (*_NEEDED, STATES, _BASE, _OWN_ROWS))
    if len(config[STATES.name] or ()) != 1:
        raise CheckpointError(
            f"{file} has {STATES.name} {config[STATES.name]}, expected the last state",
            hint=_AGAIN,
        )
    head = MedusaConfig(
        kind=HeadKind.MEDUSA,
        states=tuple(config[STATES.name]),
        target_width=config["target_hidden_size"],
        target_vocab=config["vocab_size"],
        heads=config["medusa_num_heads"],
        drafts=config["draft_vocab_size"],
        blocks=config["medusa_num_layers"],
        own_rows=bool(config.get("medusa_own_rows")),
    )
    return own_file(checkpoint, head, HeadFormat.OWN_MEDUSA, trained)


def medusa_settings(
    config: MedusaConfig, verifier: Verifier, trained: Mapping[str, JsonValue] | None
) -> dict[str, JsonValue]:
    """Return config.json of heads in our own format."""
    return {
        "architectures": ["OutriderMedusaSpeculator"],
        "speculators_model_type": HeadKind.MEDUSA.value,
        "speculators_version": "0.5.0",
        "speculators_config": speculators_config(HeadKind.MEDUSA.value, verifier),
        "base_model_name_or_path": verifier.name_or_path,
        "medusa_num_heads": config.heads,
        "medusa_num_layers": config.blocks,
        "medusa_own_rows": config.own_rows,
        "vocab_size": config.target_vocab,
        "draft_vocab_size": config.draft_vocab,
        "target_hidden_size": config.target_width,
        STATES.name: list(config.states),
        "outrider": extras_of(verifier, trained),
    }
