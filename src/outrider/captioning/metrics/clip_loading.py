"""Loads a scorer with `transformers`: without output, complete, and from safetensors only."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from outrider.core.errors import CheckpointError, MissingExtraError
from outrider.models.checkpoints.folder_files import check_folder, quiet
from outrider.models.sources.finding import local_folder
from outrider.models.transformers.pretrained import check_parameters, reading


def load_parts(source: str | Path, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """Load model, image processor and tokenizer of a folder or a hub name.

    Raises:
        CheckpointError: it cannot be read, lacks weights, or is not a model of images and texts.
        MissingExtraError: pillow is not installed.
    """
    if find_spec("PIL") is None:
        raise MissingExtraError("pillow", "vision")
    folder = local_folder(source)
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no model folder at {folder}",
            hint="Give the folder of a CLIP or SigLIP model",
        )
    place = str(folder)
    check_folder(folder)
    with reading(place, "a CLIP model"), quiet():
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        if not hasattr(config, "text_config") or not hasattr(config, "vision_config"):
            raise CheckpointError(
                f"{place} ({config.model_type}) is not a model of images and texts",
                hint="Give a CLIP or SigLIP model",
            )
        loaded: Any = AutoModel.from_pretrained(
            place,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        # This backend does not need torchvision.
        processor = AutoImageProcessor.from_pretrained(
            place, backend="pil", trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"{place} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[0]}",
            hint="Download it again, or check that its config.json belongs to it",
        )
    check_parameters(model, place)
    return model, processor, tokenizer
