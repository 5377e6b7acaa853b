"""Which architectures of `transformers` run, judged by their configurations alone."""

import importlib.util
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from outrider.core.errors import CheckpointError
from outrider.models.caches.masks import AttentionLayout
from outrider.models.transformers.pretrained import quiet, refuse_unfit


def transformers_models() -> dict[str, str | None]:
    """Return every `model_type` with a causal language model: None, or why it is refused.

    The default configuration of each is judged by the rules that apply when a checkpoint is loaded.
    Loading also checks that a draft tree is read correctly, which needs weights.
    """
    with quiet():
        return {kind: _refusal(kind) for kind in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)}


def _refusal(kind: str) -> str | None:
    config: Any = None
    try:
        config = CONFIG_MAPPING[kind]()
        refuse_unfit(config, kind, type(kind, (), {"_is_stateful": _is_stateful(config)}))
        AttentionLayout.of(config, kind)
    except CheckpointError as error:
        return error.problem.removeprefix(f"model {kind} ({config.model_type}) ")
    except Exception as error:  # the defaults of some configurations do not fit together
        return f"its default configuration cannot be built: {type(error).__name__}"
    return None


def _is_stateful(config: Any) -> bool:
    """Whether its models keep a state; the source says so, and importing it takes seconds."""
    module = type(config).__module__.replace("configuration_", "modeling_")
    found = importlib.util.find_spec(module)
    source = found and found.origin
    return bool(source) and "_is_stateful = True" in _text(str(source))


def _text(file: str) -> str:
    return Path(file).read_text("utf-8")
