"""Tests once whether a text stack with its vision encoder gives the same logits as the whole model.

The text stacks of some models need more of an image than embeddings and positions, or let image
tokens attend to each other. That gives no error but wrong text, so a small image is read both ways.
"""

import torch

from outrider.core.errors import CheckpointError
from outrider.core.types import as_ids
from outrider.models.transformers.model import TransformersModel
from outrider.models.transformers.tree_check import TOLERANCE
from outrider.models.vision.encoder import TransformersVisionEncoder
from outrider.models.vision.processor import Inputs
from outrider.protocols import Segment

_ANSWER = 3
"""Tokens read after the question, to check their positions."""


def check_sight(model: TransformersModel, vision_encoder: TransformersVisionEncoder) -> None:
    """Compare logits after a small image, and after a few tokens of an answer.

    Raises:
        CheckpointError: the logits differ, the model fails, or it has sliding windows over tokens
            with several places. Its own windows count indices, which a small image would not
            reveal.
    """
    if model.info.reads_axes and model.layout.window is not None:
        raise _refusal(model.info.name, "its sliding windows do not use the positions of tokens")
    try:
        error = _largest_error(model, vision_encoder)
    except Exception as failure:
        reason = f"{type(failure).__name__}: {' '.join(str(failure).split())[:120]}"
        raise _refusal(model.info.name, f"it fails on one ({reason})") from failure
    if not error <= TOLERANCE.get(model.dtype, TOLERANCE[torch.bfloat16]):
        raise _refusal(
            model.info.name,
            f"its logits differ by {error:.1%} of their spread, so its text stack reads more than "
            "embeddings and positions",
        )


def _largest_error(model: TransformersModel, vision_encoder: TransformersVisionEncoder) -> float:
    """Return the largest difference of any logit, as a share of the spread of the plain logits."""
    trial = vision_encoder.image_processor.trial
    answer = list(range(1, 1 + _ANSWER))
    [view] = vision_encoder.views([trial])
    [cache] = model.start([view])
    want = as_ids(range(-1, _ANSWER))
    [rows] = model.forward([Segment(cache, as_ids(answer))], [want])
    plain = model.forward_plainly(_followed(vision_encoder.image_processor.inputs(trial), answer))
    expected = plain[0, -len(want) :].double()
    spread = (expected.max() - expected.min()).clamp_min(1e-30)
    return float((rows.logits.double() - expected).abs().max() / spread)


def _followed(inputs: Inputs, answer: list[int]) -> Inputs:
    """Append text to the same prompt."""
    more = torch.tensor([answer])
    behind = {
        "input_ids": more,
        "attention_mask": torch.ones_like(more),
        "mm_token_type_ids": torch.zeros_like(more),
        "token_type_ids": torch.zeros_like(more),
    }
    added = {key: torch.cat((inputs[key], behind[key]), 1) for key in behind if key in inputs}
    return {**inputs, **added}


def _refusal(name: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"model {name} cannot read images through its embeddings: {why}",
        hint="Use an image-text model with a plain causal text stack, such as SmolVLM, Qwen2-VL "
        "or LLaVA",
    )
