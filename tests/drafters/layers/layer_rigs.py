"""Drafters that are a part of the target, and requests for them."""

from collections.abc import Sequence
from typing import Any

from outrider.core.types import Prompt
from outrider.drafters.layers.del_ import DynamicExit
from outrider.drafters.layers.layer_search import SearchSettings
from outrider.drafters.layers.skip import EvenSkip
from outrider.drafters.layers.swift import Swift
from outrider.protocols import Request
from outrider.sampling import Sampler, SamplingParams

LAYERS = 6
PROMPTS = [(5, 9, 40, 3), (7,), (11, 12, 13, 14, 15)]
QUICK = SearchSettings(context=4, good=2.0)


def all_of(model: Any) -> list[Any]:
    return [EvenSkip(model=model), Swift(model=model, settings=QUICK), DynamicExit(model=model)]


def request_of(model: Any, prompt: Sequence[int] = PROMPTS[0], **options: Any) -> Request:
    read = Prompt(token_ids=tuple(prompt))
    request = Request(read, Sampler(SamplingParams.of(seed=5, **options), prompt_ids=prompt))
    [request.target_cache] = model.start([read])
    return request
