"""One round of speculative decoding, the loop around it, and the record of one request."""

from outrider.decoding.generation import Generation, TokenLogprob
from outrider.decoding.loop import generate, open_lanes
from outrider.decoding.round import Lane, Round, Stage, run_round, settle, uncount

__all__ = [
    "Generation",
    "Lane",
    "Round",
    "Stage",
    "TokenLogprob",
    "generate",
    "open_lanes",
    "run_round",
    "settle",
    "uncount",
]
