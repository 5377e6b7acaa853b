"""Outrider: faster decoding for language models. Draft, qualify, verify.

>>> import outrider
>>> pyramid = outrider.load("tiny")
>>> result = pyramid.generate("Once upon a time", max_new_tokens=64, temperature=0.8, seed=1)
>>> print(result.text, result.speculation.to_dict()["acceptance_rate"])
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outrider.context.config import ContextConfig
    from outrider.core.errors import OutriderError, OutriderWarning
    from outrider.core.types import Prompt
    from outrider.engine.compat import generate
    from outrider.engine.generator import Generator, Stream
    from outrider.engine.load import load
    from outrider.engine.result import Result
    from outrider.sampling import SamplingParams
    from outrider.strategy import PyramidConfig, Strategy, pyramid

_HOMES = {
    "ContextConfig": "outrider.context.config",
    "Generator": "outrider.engine.generator",
    "OutriderError": "outrider.core.errors",
    "OutriderWarning": "outrider.core.errors",
    "Prompt": "outrider.core.types",
    "PyramidConfig": "outrider.strategy",
    "Result": "outrider.engine.result",
    "SamplingParams": "outrider.sampling",
    "Strategy": "outrider.strategy",
    "Stream": "outrider.engine.generator",
    "generate": "outrider.engine.compat",
    "load": "outrider.engine.load",
    "pyramid": "outrider.strategy",
}

try:
    __version__ = version("outrider")
except PackageNotFoundError:
    __version__ = "0"

__all__ = [
    "ContextConfig",
    "Generator",
    "OutriderError",
    "OutriderWarning",
    "Prompt",
    "PyramidConfig",
    "Result",
    "SamplingParams",
    "Strategy",
    "Stream",
    "generate",
    "load",
    "pyramid",
]


def __getattr__(name: str) -> Any:
    """Import on first use: `outrider --help` must not wait for PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'outrider' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
