"""One round of speculative decoding, sessions around it, and the record of one request."""

from outrider.decoding.deferred import Deferred, DeferredState
from outrider.decoding.generation import Generation, TokenLogprob
from outrider.decoding.ledger import uncount
from outrider.decoding.opening import open_lanes
from outrider.decoding.round import run_round
from outrider.decoding.session import Session, generate
from outrider.decoding.stage import Earlier, Lane, Learned, Round, Stage

__all__ = [
    "Deferred",
    "DeferredState",
    "Earlier",
    "Generation",
    "Lane",
    "Learned",
    "Round",
    "Session",
    "Stage",
    "TokenLogprob",
    "generate",
    "open_lanes",
    "run_round",
    "uncount",
]
