"""Loads models with `transformers`: without output, complete, and from safetensors only."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)

from outrider.core.errors import CheckpointError, OutriderError
from outrider.models.caches.masks import AttentionLayout
from outrider.models.checkpoints.folder_files import check_folder, explain_code, quiet
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tensors import check_finite

_MASKED_KERNELS = (None, "eager", "sdpa")
_SAMPLES = 64


def load_pretrained(
    source: str | Path,
    *,
    name: str,
    dtype: torch.dtype,
    device: torch.device | str,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, str | None]:
    """Load the model; return it with the checkpoint's fingerprint if it is a folder.

    Models that the configuration rules out are refused before the weights are read.

    Raises:
        CheckpointError: the model cannot be read or run, or lacks weights.
    """
    folder = Path(source).expanduser()
    fingerprint = None
    if folder.is_dir():
        fingerprint = open_checkpoint(folder).fingerprint
        check_folder(folder)
    place = str(folder) if folder.is_dir() else str(source)
    with reading(place), quiet():
        config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
        vision_model = has_vision(config)
        mapping = (
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if vision_model else MODEL_FOR_CAUSAL_LM_MAPPING
        )
        kind: Any = mapping.get(type(config), None)
        refuse_unfit(config, name, kind)
        AttentionLayout.of(config, name)
        make = AutoModelForImageTextToText if vision_model else AutoModelForCausalLM
        loaded: Any = make.from_pretrained(
            place,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{place} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[0]}",
            hint="Download it again, or check that its config.json belongs to it",
        )
    check_parameters(model, place)
    return model.to(device), fingerprint


def check_parameters(model: torch.nn.Module, place: str) -> None:
    """Raise `CheckpointError` if a parameter of a loaded model holds NaN or infinite values."""
    for name, parameter in model.named_parameters():
        check_finite(parameter, name, place)


def has_vision(config: PretrainedConfig) -> bool:
    """Whether a configuration describes an image-text model with a vision part."""
    known = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return known and getattr(config, "vision_config", None) is not None


def refuse_unfit(config: PretrainedConfig, name: str, kind: type | None) -> None:
    """Raise `CheckpointError` for models that cannot run with masks.

    `kind` is the model's class, if known. Rejected drafts must be rolled back: rows of a cache can
    be cut, but a recurrent state cannot.
    """
    hint = "Use a decoder-only model with attention layers, such as Llama, Qwen or GPT-2"
    what = f"model {name} ({config.model_type})"
    if config.is_encoder_decoder:
        raise CheckpointError(f"{what} is an encoder-decoder, not a causal model", hint=hint)
    if getattr(kind, "_is_stateful", False):
        raise CheckpointError(
            f"{what} keeps a recurrent state, which cannot be rolled back", hint=hint
        )
    if _has_alibi(config):
        raise CheckpointError(
            f"{what} uses ALiBi, whose distances follow the order of reading, so that it cannot "
            "read siblings of a draft tree",
            hint=hint,
        )
    kernel = getattr(config, "_attn_implementation", None)
    if kernel not in _MASKED_KERNELS:
        raise CheckpointError(
            f"{what} uses attention {kernel!r}, which does not support tree masks",
            hint='Call model.set_attn_implementation("sdpa") first',
        )


def _has_alibi(config: Any) -> bool:
    """Whether attention has a bias by distance: always in Bloom, by a setting elsewhere."""
    nested = getattr(getattr(config, "attn_config", None), "alibi", False)
    return config.model_type == "bloom" or bool(getattr(config, "alibi", nested))


def sampled_fingerprint(model: torch.nn.Module) -> str:
    """Hash the configuration and evenly spaced elements of each weight."""
    config: Any = model.config
    settings = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(_sample(weight.detach()).numpy().tobytes())
    return digest.hexdigest()[:16]


def _sample(weight: Tensor) -> Tensor:
    flat = weight.flatten()
    at = torch.linspace(0, len(flat) - 1, min(len(flat), _SAMPLES), dtype=torch.float64)
    return flat[at.long().to(flat.device)].double().cpu()


@contextmanager
def reading(place: str, what: str = "a causal language model") -> Iterator[None]:
    """Context manager: turn errors of `transformers` for a bad source into one line."""
    try:
        yield
    except OutriderError:
        raise
    except Exception as error:  # a wrong value in a file may raise anything
        explain_code(place, error)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"transformers cannot load {place}: {reason[:200]}",
            hint=f"Give a folder or hub name of {what} with safetensors weights",
        ) from error
