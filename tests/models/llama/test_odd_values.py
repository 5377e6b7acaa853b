"""Settings of the architectures with odd values: read, or refused in one line."""

from pathlib import Path
from typing import Any

import pytest

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.gguf.rotary import Factors
from outrider.models.checkpoints.gguf.settings import read_settings
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tables import check_config
from outrider.models.llama.config import read_config
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.make_gguf import from_checkpoint
from tests.models.setups.runners import KINDS, OTHERS

VALUES: tuple[Any, ...] = (
    *(None, True, "x", "", [], {}, [1], {"a": 1}, 0, -1, 1, 2.5, 1e-320, 1e300, 10**400),
    *(float("nan"), float("inf")),
)
FIELDS = (
    *("hidden_activation", "query_pre_attn_scalar", "attn_logit_softcapping", "logits_scaling"),
    *("final_logit_softcapping", "embedding_multiplier", "residual_multiplier"),
    *("attention_multiplier", "rope_local_base_freq", "sliding_window_pattern", "layer_types"),
    *("partial_rotary_factor", "original_max_position_embeddings", "rope_parameters"),
    *("rope_scaling", "rms_norm_offset", "use_bidirectional_attention", "sliding_window"),
    *("rope_theta", "attention_bias", "head_dim"),
)
ROPE = (
    *("full_attention", "sliding_attention", "short_factor", "long_factor", "factor"),
    *("rope_type", "rope_theta", "partial_rotary_factor", "attention_factor"),
    "original_max_position_embeddings",
)


GGUF = (
    *("attn_logit_softcapping", "final_logit_softcapping", "attention.sliding_window"),
    *("attention.sliding_window_pattern", "rope.freq_base", "rope.freq_base_swa"),
    *("rope.dimension_count", "rope.dimension_sections", "embedding_scale", "residual_scale"),
    *("attention.scale", "logit_scale", "rope.scaling.original_context_length"),
    *("rope.scaling.attn_factor", "rope.scaling.finetuned", "rope.scaling.type"),
)


def refused_or_read(config: dict[str, Any], what: str) -> None:
    try:
        check_config("config.json", config)
        read_config(config)
    except CheckpointError as error:
        assert "\n" not in str(error), what


@pytest.mark.parametrize("kind", OTHERS)
def test_odd_values(kind: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", kind, **KINDS[kind])
    sound = open_checkpoint(path).config
    read_config(sound)
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4}
    for value in VALUES:
        for field in FIELDS:
            refused_or_read(sound | {field: value}, f"{field} {value!r:.20}")
        for base in (sound["rope_parameters"], longrope | {"long_factor": [1.0] * 4}):
            for field in ROPE:
                rope = base | {field: value}
                refused_or_read(sound | {"rope_parameters": rope}, f"{field} {value!r:.20}")
                inner = {"full_attention": rope, "sliding_attention": rope}
                refused_or_read(sound | {"rope_parameters": inner}, f"{field} {value!r:.20}")


@pytest.mark.parametrize("kind", [kind for kind in OTHERS if kind != "mixtral"])  # `llama` there
def test_odd_values_in_gguf_files(kind: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", kind, **KINDS[kind])
    sound = from_checkpoint(path, {}).settings
    decoded = {"attention.sliding_window_pattern": [True, False], "block_count": 2}
    prefix = sound["general.architecture"]
    sound = {**sound, **{f"{prefix}.{key}": one for key, one in decoded.items()}}
    for value in (*VALUES, [True], [[1]], -1.5):
        for field in GGUF:
            for factors in (Factors(), Factors(short=[1.0] * 4, long=[2.0] * 4)):
                try:
                    config = read_settings(
                        "m.gguf",
                        {**sound, f"{prefix}.{field}": value},
                        vocabulary=288,
                        names=("lm_head.weight",),
                        factors=factors,
                    )
                except CheckpointError as error:
                    assert "\n" not in str(error)
                else:
                    refused_or_read(config, f"{field} {value!r:.20}")
