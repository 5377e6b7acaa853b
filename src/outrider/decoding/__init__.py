"""One round of speculative decoding, the sessions that run rounds, and the record of one
request."""

from outrider.decoding.deferred import Deferred, DeferredState
from outrider.decoding.generation import Generation, TokenLogprob
from outrider.decoding.ledger import uncount
from outrider.decoding.opening import open_sequences
from outrider.decoding.round import run_round
from outrider.decoding.session import Session, generate
from outrider.decoding.stage import Earlier, Learned, Round, SequenceState, Stage

__all__ = [
    "Deferred",
    "DeferredState",
    "Earlier",
    "Generation",
    "Learned",
    "Round",
    "SequenceState",
    "Session",
    "Stage",
    "TokenLogprob",
    "generate",
    "open_sequences",
    "run_round",
    "uncount",
]
