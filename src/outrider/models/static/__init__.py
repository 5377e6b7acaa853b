"""Decoding with static shapes: programs that can be captured once and replayed."""

from outrider.models.static.decoder import StaticDecoder

__all__ = ["StaticDecoder"]
