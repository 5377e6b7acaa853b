"""The contracts between the packages: models, caches, drafters, rules, policies and requests.

Every other package implements or uses one of these protocols.
"""

from outrider.protocols.cache import Cache, CacheReport
from outrider.protocols.denoiser import Denoiser, Reading, RowStore
from outrider.protocols.drafter import Drafter, DrafterState
from outrider.protocols.info import ModelInfo
from outrider.protocols.learner import Learner
from outrider.protocols.model import (
    CAPABILITIES,
    Capabilities,
    ChainDecoder,
    ChainRequest,
    ContextSelector,
    HiddenStates,
    LanguageModel,
    Layered,
    Segment,
    Segmented,
    TokenEmbedding,
)
from outrider.protocols.policy import DraftPolicy
from outrider.protocols.request import Request
from outrider.protocols.rule import NO_NEEDS, AcceptanceRule, Needs
from outrider.protocols.vision import VisionEncoder

__all__ = [
    "CAPABILITIES",
    "NO_NEEDS",
    "AcceptanceRule",
    "Cache",
    "CacheReport",
    "Capabilities",
    "ChainDecoder",
    "ChainRequest",
    "ContextSelector",
    "Denoiser",
    "DraftPolicy",
    "Drafter",
    "DrafterState",
    "HiddenStates",
    "LanguageModel",
    "Layered",
    "Learner",
    "ModelInfo",
    "Needs",
    "Reading",
    "Request",
    "RowStore",
    "Segment",
    "Segmented",
    "TokenEmbedding",
    "VisionEncoder",
]
