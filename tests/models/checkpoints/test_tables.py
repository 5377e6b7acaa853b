"""Tables of fields: what they accept and how they describe it; real configurations pass."""

import json
import warnings
from typing import Any

import pytest

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.fields import Field, FieldError, check_fields
from outrider.models.checkpoints.tables import check_adapter, check_config, check_processor

SIZE = Field("size", ("whole number",), least=1, most="layers", null=False)
SHARE = Field("share", ("number",), least=0, most=1, above=True)
IDS = Field("ids", ("whole number",), least=0, levels=(0, 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [(SIZE, 1), (SIZE, 4096), (SHARE, None), (SHARE, 1), (SHARE, 0.5), (IDS, 3), (IDS, [])],
)
def test_accepted(field: Field, value: Any) -> None:
    field.check("it.json", value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (SIZE, "64", "it.json has size '64', expected a whole number from 1 to 4096. Correct"),
        (SIZE, 5000, 'If the file is right, set OUTRIDER_CHECKPOINT_LIMITS="layers=..."'),
        (SIZE, None, "it.json has size null, expected"),
        (SIZE, True, "it.json has size True, expected"),
        (SIZE, 2.0, "it.json has size 2.0, expected"),
        (SHARE, 0, "expected a number above 0 to 1, or null"),
        (SHARE, float("nan"), "has share nan"),
        (SHARE, float("inf"), "has share inf"),
        (IDS, [1, [2]], "expected a whole number from 0, or a list of them, or null"),
        (IDS, [1, -1], r"has ids \[1, -1\]"),
    ],
)
def test_refused(field: Field, value: Any, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        field.check("it.json", value)


def test_a_needed_field() -> None:
    with pytest.raises(FieldError, match=r"it\.json has no part\.a, expected text, or null"):
        check_fields("it.json", {}, [Field("a", ("text",), needed=True)], "part.")


def test_messages_are_short() -> None:
    with pytest.raises(FieldError) as caught:
        SIZE.check("it.json", "x" * 100_000)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"text_config": {"hidden_size": "64"}}, "text_config.hidden_size"),
        ({"vision_config": {"hidden_size": "64"}}, "vision_config.hidden_size"),
        ({"rope_scaling": {"factor": [2]}}, "rope_scaling.factor"),
        ({"rope_parameters": {"full": {"rope_theta": "x"}}}, "rope_parameters.full.rope_theta"),
        ({"text_config": {"rope_scaling": {"type": 1}}}, "text_config.rope_scaling.type"),
        ({"quantization_config": {"bits": "four"}}, "quantization_config.bits"),
        ({"text_config": {"_attn_implementation": "a/b"}}, "text_config._attn_implementation"),
        ({"attn_implementation": {"": "a/b"}}, "attn_implementation"),
    ],
)
def test_nested_settings(config: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        check_config("config.json", config)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"size": {"height": 10**9, "width": 2}}, "size.height"),
        ({"crop_size": 10**9}, "crop_size"),
        ({"image_mean": "grey"}, "image_mean"),
        ({"image_processor": {"do_resize": "yes"}}, "image_processor.do_resize"),
    ],
)
def test_settings_of_processors(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        check_processor("preprocessor_config.json", settings)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"alpha_pattern": {"q_proj": "big"}}, r"alpha_pattern\['q_proj'\]"),
        ({"rank_pattern": {"q_proj": 0.5}}, r"rank_pattern\['q_proj'\]"),
    ],
)
def test_patterns_of_adapters(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        check_adapter("adapter_config.json", {"peft_type": "LORA"} | settings)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_configurations_of_transformers_pass() -> None:
    """The default configuration of every causal and every image-text model."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    )

    checked = 0
    for kind in {*MODEL_FOR_CAUSAL_LM_MAPPING, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING}:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                text = kind().to_json_string(use_diff=False)
            except Exception:  # needs arguments, or a package that is not installed
                continue
        check_config(kind.__name__, json.loads(text))
        checked += 1
    assert checked > 200
