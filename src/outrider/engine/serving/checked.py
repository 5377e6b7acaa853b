"""Checks a request before it enters the queue, on any thread."""

import secrets
from collections.abc import Mapping
from dataclasses import replace

from outrider.core.errors import ContextError
from outrider.core.types import Prompt
from outrider.core.values import JsonValue
from outrider.engine.generator import Generator
from outrider.engine.prompt_size import places_of
from outrider.engine.requests import params_for
from outrider.inputs.images.messages import check_reads_images
from outrider.models.caches.prefill import check_ids, check_prompt
from outrider.protocols import LanguageModel
from outrider.sampling import SamplingParams
from outrider.strategy.guiding import check_contrast


def checked(
    generator: Generator, prompt: Prompt, sampling: Mapping[str, JsonValue]
) -> SamplingParams:
    """Return the parameters of a request: the checkpoint's defaults and `sampling`, with a seed.

    Without `max_new_tokens`, the answer may fill the window.

    Raises:
        OptionError: an option is unknown or out of range, or the target does not read images.
        ContextError: the prompt does not fit, or holds ids that the target does not know.
    """
    target = generator.strategy.target
    check_reads_images(target, [prompt])
    check_contrast([prompt], target, generator.guidance)
    window = generator.context_length or target.info.context_length
    places = _places(prompt, target)
    if prompt.contrast is not None:
        places = max(places, _places(prompt.contrast, target))
    if places >= window:
        over = places + 1 - window
        raise ContextError(
            f"the prompt has {places} tokens; the context is limited to {window} and one is "
            "needed for the answer",
            hint=f"Shorten the prompt by {over} token{'s' if over > 1 else ''}",
        )
    given = dict(sampling)
    if given.get("max_new_tokens") is None:
        given["max_new_tokens"] = window - places
    params = params_for(
        prompt,
        generator.params(**given),
        target,
        defaults=generator.defaults,
        given=given,
        context_length=generator.context_length,
    )
    most = min(params.max_new_tokens, window - places)
    return replace(
        params,
        seed=secrets.randbits(48) if params.seed is None else params.seed,
        max_new_tokens=most,
        min_new_tokens=min(params.min_new_tokens, most),
    )


def _places(prompt: Prompt, target: LanguageModel) -> int:
    """Check the ids of a prompt, and count the places that it takes."""
    if prompt.context is not None:
        check_ids(target, prompt.token_ids, "the prompt")
    elif prompt.image_prompt is None:
        check_prompt(target, prompt)
    return places_of(prompt, target)
