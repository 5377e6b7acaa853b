"""EAGLE-3 heads: the format of speculators, and the original one.

Facts, with their sources:

- A row reads `[norm(embedding); norm(state)]`, embedding first; the residual stream is the fused
  state before its norm, or after it with `norm_before_residual`; the next step reads the stream
  before the last norm, or after it with `norm_output` (speculators, modules `core` and
  `model_definitions` of `eagle3`; vLLM and SGLang, module `llama_eagle3`; SafeAILab/EAGLE,
  module `cnets`).
- `norm_before_fc` is one norm of all states together (`input_norm`), `fc_norm` one of each state
  (`fc_norm.0` to `fc_norm.n`); they exclude each other (speculators, module `config`).
- Layer id i is the state that enters layer i, counted from 0, which is state i of
  `HiddenStates`. The default is 2, n // 2 and n - 3 of n layers (speculators,
  `resolve_target_layer_ids`; vLLM, `EagleModelMixin`; SGLang, `set_eagle3_layers_to_capture`).
- In `eagle_config` of original heads, ids that begin with 1 are layers whose output is read, which
  is one state later (SGLang; its rule for the first id is sgl-project/sglang#25454).
- The states are concatenated in the order of layers (both engines capture them in that order).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import Checkpoint, UnsupportedCheckpointError
from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.heads.config import LAYER, HeadConfig, HeadKind
from outrider.models.heads.formats.head_file import HeadFile, Verifier
from outrider.models.heads.formats.layers import read_layer
from outrider.models.heads.formats.recognising import PREFIX, HeadFormat
from outrider.models.heads.formats.settings import (
    FIELDS,
    LAYER_CONFIG,
    STATES,
    VOCAB,
    read_extras,
    read_verifier,
)
from outrider.models.heads.formats.stored import StoredHead
from outrider.models.heads.formats.vocabulary import ids_of

_NESTED = (STATES, Field("use_aux_hidden_state", ("true or false",)))

_RENAMED = {"midlayer.": LAYER, "input_norm.": "fc_input_norm."}
_IGNORED = re.compile(r"verifier_.*|rotary_emb\..*|.*\.rotary_emb\..*|embed_tokens\.padding_idx")
_STATE_NORM = re.compile(r"fc_norm\.(\d{1,3})\.weight")
_MAPS = ("d2t", "t2d")


def read_speculators(checkpoint: Checkpoint, layers: int | None) -> HeadFile:
    """Read a head in the format of speculators.

    Args:
        checkpoint: the opened files.
        layers: number of layers of the target; needed if the files do not name the states.

    Raises:
        CheckpointError: values that are missing, wrong, or not supported.
    """
    config, where = checkpoint.config, str(checkpoint.path)
    file = str(Path(where) / "config.json")
    check_fields(file, config, FIELDS)
    check_fields(file, config, (LAYER_CONFIG,))
    settings: Mapping[str, JsonValue] = config["transformer_layer_config"]
    if config.get("norm_before_fc") and config.get("fc_norm"):
        raise CheckpointError(
            f"{file} sets both norm_before_fc and fc_norm, expected at most one of them",
            hint="Correct the file, or download it again",
        )
    given = config.get("eagle_aux_hidden_state_layer_ids")
    states = _states(given, layers, where)
    found = _read(checkpoint, settings, states)
    verifier = read_verifier(config, found.verifier, file)
    return replace(found, verifier=verifier, trained=read_extras(config, file))


def read_original(checkpoint: Checkpoint, layers: int | None) -> HeadFile:
    """Read a head in the format of SafeAILab/EAGLE and lmsys.

    Args:
        checkpoint: the opened files.
        layers: number of layers of the target; needed if the files do not name the states.

    Raises:
        CheckpointError: values that are missing, wrong, or not supported.
    """
    config, where = checkpoint.config, str(checkpoint.path)
    file = str(Path(where) / "config.json")
    check_fields(file, config, (*FIELDS, Field("eagle_config", ("object",))))
    nested = config.get("eagle_config") or {}
    check_fields(file, nested, _NESTED, "eagle_config.")
    if nested.get("use_aux_hidden_state") is False:
        raise UnsupportedCheckpointError(
            f"the head {where} reads the last state only (use_aux_hidden_state), which is not "
            "supported",
            hint="Choose an EAGLE-3 head with fused states",
        )
    given = config.get("eagle_aux_hidden_state_layer_ids")
    if given is None and (ids := nested.get("eagle_aux_hidden_state_layer_ids")):
        given = [one + 1 for one in ids] if ids[0] == 1 else ids
    found = _read(checkpoint, config, _states(given, layers, where))
    return replace(found, format=HeadFormat.EAGLE3.value)


def _states(given: list[int] | None, layers: int | None, where: str) -> tuple[int, ...]:
    if given is None and layers is None:
        raise CheckpointError(
            f"the head {where} does not name the states of its target that it reads",
            hint="Load it with its target, or give layers=, the number of layers of the target",
        )
    if given is None:
        given = [2, layers // 2, layers - 3] if layers else []
    if not given or any(after <= one for one, after in pairwise(given)):
        raise CheckpointError(
            f"the head {where} reads states {given}, expected at least one, in ascending order",
            hint="Correct eagle_aux_hidden_state_layer_ids in config.json",
        )
    return tuple(given)


def _read(
    checkpoint: Checkpoint, settings: Mapping[str, JsonValue], states: tuple[int, ...]
) -> HeadFile:
    config, where = checkpoint.config, str(checkpoint.path)
    check_fields(str(Path(where) / "config.json"), settings, (VOCAB,))
    target = settings["vocab_size"]
    draft = config.get("draft_vocab_size") or target
    layer = read_layer(settings, draft, where)
    head = HeadConfig(
        kind=HeadKind.EAGLE3,
        layer=layer,
        states=states,
        target_width=config.get("target_hidden_size") or layer.hidden_size,
        target_vocab=target,
        norm_states=bool(config.get("fc_norm")),
        norm_fused=bool(config.get("norm_before_fc")),
        norm_before_residual=bool(config.get("norm_before_residual")),
        norm_output=bool(config.get("norm_output")),
    )
    stored = StoredHead(checkpoint=checkpoint, names=_names(checkpoint), where=where)
    norms = [name for name in stored.names if _STATE_NORM.fullmatch(name)]
    shapes = {
        name: stored.shape(name) or ()
        for name in stored.names
        if name not in norms and name not in _MAPS
    }
    stored.check(head, shapes | {"ids": (head.draft_vocab,)})
    tensors = stored.floats(list(shapes))
    if norms or head.norm_states:
        tensors["fc_norm.weight"] = _stacked(stored, norms, head)
    ids = ids_of(stored.whole(_MAPS), draft, target, where)
    return HeadFile(
        config=head,
        tensors=tensors | {"ids": ids},
        verifier=Verifier(hidden_size=head.target_width, vocab_size=target),
        format=HeadFormat.SPECULATORS.value,
    )


def _names(checkpoint: Checkpoint) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in checkpoint.tensors:
        plain = name.removeprefix(PREFIX)
        for theirs, ours in _RENAMED.items():
            if plain.startswith(theirs):
                plain = ours + plain.removeprefix(theirs)
        if _IGNORED.fullmatch(plain):
            continue
        if plain in found:
            raise CheckpointError(
                f"the head {checkpoint.path} holds {plain} twice",
                hint="Download its files again, or convert it again",
            )
        found[plain] = name
    return found


def _stacked(stored: StoredHead, norms: list[str], head: HeadConfig) -> torch.Tensor:
    """Return the norms of all states, `[states, target]`."""
    expected = [f"fc_norm.{index}.weight" for index in range(len(head.states))]
    odd = sorted(set(norms) ^ set(expected if head.norm_states else ()))
    odd += [name for name in norms if stored.shape(name) != (head.target_width,)]
    if odd:
        raise CheckpointError(
            f"the head {stored.where} lacks tensor {odd[0]}, or holds it against its "
            f"configuration (fc_norm {head.norm_states}, width {head.target_width})",
            hint="Download its files again, or convert it again",
        )
    loaded = stored.floats(expected)
    return torch.stack([loaded[name] for name in expected])
