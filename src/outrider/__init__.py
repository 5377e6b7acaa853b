"""Outrider: faster decoding for language models. Draft, qualify, verify.

>>> import outrider
>>> pyramid = outrider.load("tiny")
>>> result = pyramid.generate("Once upon a time", max_new_tokens=64, temperature=0.8, seed=1)
>>> print(result.text, result.speculation.to_dict()["acceptance_rate"])
"""

from typing import TYPE_CHECKING

from outrider.core.lazy import on_first_use

if TYPE_CHECKING:
    from outrider.context.config import ContextConfig
    from outrider.core.errors import OutriderError, OutriderWarning
    from outrider.core.types import Prompt
    from outrider.core.version import __version__
    from outrider.engine.compat import generate
    from outrider.engine.generator import Generator
    from outrider.engine.load import load
    from outrider.engine.result import Result
    from outrider.engine.stream import Stream
    from outrider.sampling import SamplingParams
    from outrider.sampling.checker import Checker
    from outrider.sampling.constraint import Constraint
    from outrider.strategy import Profile, PyramidConfig, Strategy, pyramid
    from outrider.strategy.guiding import Guidance
    from outrider.tuning.tune import tune

__all__ = [
    "Checker",
    "Constraint",
    "ContextConfig",
    "Generator",
    "Guidance",
    "OutriderError",
    "OutriderWarning",
    "Profile",
    "Prompt",
    "PyramidConfig",
    "Result",
    "SamplingParams",
    "Strategy",
    "Stream",
    "__version__",
    "generate",
    "load",
    "pyramid",
    "tune",
]

__getattr__ = on_first_use(
    __name__,
    {
        "Checker": "sampling.checker",
        "Constraint": "sampling.constraint",
        "ContextConfig": "context.config",
        "Generator": "engine.generator",
        "Guidance": "strategy.guiding",
        "OutriderError": "core.errors",
        "OutriderWarning": "core.errors",
        "Profile": "strategy",
        "Prompt": "core.types",
        "PyramidConfig": "strategy",
        "Result": "engine.result",
        "SamplingParams": "sampling",
        "Strategy": "strategy",
        "Stream": "engine.stream",
        "__version__": "core.version",
        "generate": "engine.compat",
        "load": "engine.load",
        "pyramid": "strategy",
        "tune": "tuning.tune",
    },
)
