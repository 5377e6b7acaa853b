"""Adds the vision encoder to a runner loaded from an image-text checkpoint, or explains in one line
why there is none.
"""

import warnings
from typing import Any

import torch

from outrider.core.errors import CheckpointError, MissingExtraError, OutriderWarning
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.vision.image_model import VisionLanguageModel
from outrider.protocols import LanguageModel, VisionEncoder


class BlindWarning(OutriderWarning):
    """A model with a vision part runs without reading images."""


def shows_images(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has a vision part."""
    return checkpoint.config.get("vision_config") is not None


def with_vision(
    inner: LanguageModel,
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    device: torch.device,
    name: str,
    trust_remote_code: bool,
) -> LanguageModel:
    """Return `inner` with the vision encoder of its checkpoint. Without a usable vision encoder,
    return `inner` itself with a `BlindWarning`.

    Args:
        inner: runs the text stack; the vision tower of a `TransformersModel` is reused.
        checkpoint: the whole checkpoint.
        dtype: dtype of the vision encoder; float32 for int8.
        device: device of model and vision encoder.
        name: their name in error messages.
        trust_remote_code: run Python that comes with the checkpoint.
    """
    dtype = dtype if dtype.is_floating_point else torch.float32
    how: dict[str, Any] = {"name": name, "trust_remote_code": trust_remote_code}
    try:
        vision_encoder = _vision_encoder(inner, checkpoint, {"dtype": dtype, "device": device}, how)
    except (CheckpointError, MissingExtraError) as error:
        warnings.warn(f"{name} does not read images: {error}", BlindWarning, stacklevel=3)
        return inner
    return VisionLanguageModel(inner, vision_encoder)


def _vision_encoder(
    inner: LanguageModel, checkpoint: Checkpoint, where: dict[str, Any], how: dict[str, Any]
) -> VisionEncoder:
    """Build the vision encoder. Raises `CheckpointError` and `MissingExtraError`."""
    from outrider.models.transformers.model import TransformersModel
    from outrider.models.vision.encoder import (  # takes seconds to import
        TransformersVisionEncoder,
        refuse_blind,
    )
    from outrider.models.vision.image_check import check_sight
    from outrider.models.vision.processor import ImageProcessor

    if not isinstance(inner, TransformersModel):
        return TransformersVisionEncoder.load(checkpoint, **where, **how)
    config = inner.model.config
    refuse_blind(config, how["name"])
    image_processor = ImageProcessor.load(checkpoint.path, config, **how)
    vision_encoder = TransformersVisionEncoder(inner.model, image_processor, name=how["name"])
    check_sight(inner, vision_encoder)
    return vision_encoder
