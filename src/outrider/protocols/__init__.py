"""The contracts between packages. Everything else in the package is one side of one of these."""

from outrider.protocols.cache import Cache
from outrider.protocols.context import ContextSelector
from outrider.protocols.drafter import Drafter
from outrider.protocols.model import (
    ChainRequest,
    LanguageModel,
    Layered,
    Segment,
    Segmented,
    Writer,
)
from outrider.protocols.policy import DraftPolicy
from outrider.protocols.request import Request
from outrider.protocols.rule import NO_NEEDS, AcceptanceRule, Needs
from outrider.protocols.vision import Eyes

__all__ = [
    "NO_NEEDS",
    "AcceptanceRule",
    "Cache",
    "ChainRequest",
    "ContextSelector",
    "DraftPolicy",
    "Drafter",
    "Eyes",
    "LanguageModel",
    "Layered",
    "Needs",
    "Request",
    "Segment",
    "Segmented",
    "Writer",
]
