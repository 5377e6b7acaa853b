"""Converts logits to the chosen token, and tokens to text."""

from outrider.sampling.params import LogitsProcessor, SamplingParams, StoppingCriterion
from outrider.sampling.processors import pure
from outrider.sampling.sampler import NOT_FINITE, NOTHING_ALLOWED, Sampler

__all__ = [
    "NOTHING_ALLOWED",
    "NOT_FINITE",
    "LogitsProcessor",
    "Sampler",
    "SamplingParams",
    "StoppingCriterion",
    "pure",
]
