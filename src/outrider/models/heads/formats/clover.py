"""Clover heads in our own format, whose config.json has three fields more than other heads of ours.

The official repository (github.com/XiaoBin1992/clover) publishes code and no weights. Its training
would write `clover_head_mlp_rnn.*`, `layers.*`, `clover_head_mlp2.*` and so on, for features before
the last norm of the target, which no runner returns here, so such files are not read.
"""

from collections.abc import Mapping
from pathlib import Path

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.heads.clover.config import CloverConfig
from outrider.models.heads.config import HeadKind
from outrider.models.heads.formats.head_file import HeadFile, Verifier
from outrider.models.heads.formats.layers import layer_settings, read_layer
from outrider.models.heads.formats.own import NEEDED, own_file
from outrider.models.heads.formats.recognising import HeadFormat
from outrider.models.heads.formats.settings import (
    EXTRAS,
    FIELDS,
    STATES,
    VOCAB,
    extras_of,
    read_extras,
    speculators_config,
)

_MOST = 64
_OWN = (
    Field("clover_layers", ("whole number",), least=0, most=_MOST, null=False, needed=True),
    Field("clover_regressive", ("true or false",), null=False, needed=True),
    Field("clover_heads", ("whole number",), least=1, most=_MOST, null=False, needed=True),
)


def read_clover(checkpoint: Checkpoint) -> HeadFile:
    """Read Clover heads.

    Args:
        checkpoint: the opened files.

    Raises:
        CheckpointError: values that are missing or wrong.
    """
    config, where = checkpoint.config, str(checkpoint.path)
    file = str(Path(where) / "config.json")
    trained = read_extras(config, file)
    check_fields(file, config, (*FIELDS, *NEEDED, *_OWN))
    settings: Mapping[str, JsonValue] = config["transformer_layer_config"]
    check_fields(file, settings, (VOCAB,), "transformer_layer_config.")
    if len(config[STATES.name] or ()) != 1:
        raise CheckpointError(
            f"{file} has {STATES.name} {config[STATES.name]}, expected the last state",
            hint="Download its files again, or write it again",
        )
    head = CloverConfig(
        kind=HeadKind.CLOVER,
        layer=read_layer(settings, config["draft_vocab_size"], where),
        states=tuple(config[STATES.name]),
        target_width=config["target_hidden_size"],
        target_vocab=settings["vocab_size"],
        layers=config["clover_layers"],
        regressive=config["clover_regressive"],
        heads=config["clover_heads"],
    )
    return own_file(checkpoint, head, HeadFormat.CLOVER, trained)


def clover_settings(
    config: CloverConfig,
    verifier: Verifier,
    rotary: Mapping[str, JsonValue] | None,
    trained: Mapping[str, JsonValue] | None,
) -> dict[str, JsonValue]:
    """Return config.json of Clover heads.

    Args:
        config: their shape.
        verifier: their target.
        rotary: the target's config.json, for heads with scaled rotary embeddings.
        trained: how they were trained.
    """
    return {
        "architectures": ["OutriderCloverSpeculator"],
        "speculators_model_type": HeadKind.CLOVER.value,
        "speculators_version": "0.5.0",
        "speculators_config": speculators_config(HeadKind.CLOVER.value, verifier),
        "transformer_layer_config": layer_settings(config.layer, config.target_vocab, rotary),
        "draft_vocab_size": config.draft_vocab,
        "target_hidden_size": config.target_width,
        STATES.name: list(config.states),
        "clover_layers": config.layers,
        "clover_regressive": config.regressive,
        "clover_heads": config.heads,
        EXTRAS: extras_of(verifier, trained),
    }
