"""Decoding with static shapes: programs that can be captured once and replayed."""

import torch

from outrider.models.cuda.decoder import StaticDecoder
from outrider.models.llama.decoder import Decoder

__all__ = ["StaticDecoder", "decoder_for"]


def decoder_for(device: torch.device) -> type[Decoder]:
    """Return the class that runs Llama-shaped checkpoints in floating point on `device`."""
    return StaticDecoder if device.type == "cuda" else Decoder
