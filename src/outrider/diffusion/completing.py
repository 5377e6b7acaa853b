"""Restrictions on answers that are written in any order."""

from outrider.protocols.denoiser import Completable as Completable

MOST_REFUSALS = 100
"""Refused tokens of one round, after which the round ends. If it has committed nothing, the answer
is completed without the model."""
