"""Classifier-free guidance: prefers tokens that the images make more likely.

Kornblith et al., "Guiding image captioning models toward more specific captions" (arXiv
2307.16686). Their gamma is `scale` here. A guided model is a `LanguageModel` like any other, so
drafts are verified against the guided distribution and do not change the text.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from outrider.core.errors import OptionError
from outrider.core.types import Exactness, IntArray, Prompt, Rows
from outrider.guidance.cache import GuidedCache
from outrider.guidance.mix import mix
from outrider.models.wrappers.passing import ModelWrapper, opened_segment
from outrider.protocols import Cache, LanguageModel, Segment
from outrider.protocols.method import Method, Paper


class Guided(ModelWrapper):
    """A `LanguageModel` around `inner`, whose logits are `null + scale * (seen - null)`.

    `seen` are the logits after the prompt with its images, `null` those after the same prompt with
    `ImagePrompt.blanked()` images. Each text is read twice, in one forward of the inner model. A
    scale of 1 gives the model's own rows bit for bit, 0 those without images. In the paper,
    captions with a scale above 1 name more of what is there and are less fluent; those of
    `tiny-vision` name less (docs/negative-results.md). Prompts without images are read once and are
    not guided.

    A model that drafts with its own layers still can: its drafts are not guided. They follow the
    text with its images only, at half the cost; verification is guided.

    A token that is excluded (-inf) after the images stays excluded. A token that is excluded only
    without them makes the row unusable, which ends that request with an error.

    Args:
        inner: the model that reads images.
        scale: strength of the guidance; finite and at least 0.

    Raises:
        OptionError: the scale is out of range.
    """

    def __init__(self, inner: LanguageModel, scale: float) -> None:
        check_scale(scale)
        info = replace(
            inner.info,
            find_fingerprint=lambda: f"{inner.info.fingerprint}-guided-{scale:g}",
            find_bytes_per_token=lambda: 2 * inner.info.bytes_per_token,
        )
        super().__init__(inner, info, _seen)
        self.guidance = float(scale)
        self.chain_decoder = None  # the inner model would choose from logits that are not mixed
        self.segmented = None  # pieces refer to tokens of one text, and there are two
        self.selector = None  # both texts select their chunks when they are read

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[Cache]:
        """Read the prompts; those with images are also read with blank images."""
        old = list(reuse) if reuse is not None else [None] * len(prompts)
        blanks = {id(p): _blank(p) for p in prompts if p.image_prompt is not None}
        twins = [i for i, prompt in enumerate(prompts) if id(prompt) in blanks]
        caches = self.inner.start(
            [*prompts, *(blanks[id(prompts[i])] for i in twins)],
            [*(cache and _seen(cache) for cache in old), *(_unseen(old[i]) for i in twins)],
        )
        out = list(caches[: len(prompts)])
        for i, unseen in zip(twins, caches[len(prompts) :], strict=True):
            out[i] = GuidedCache(out[i], unseen, self.guidance)
        return out

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Read the segments after both texts of a guided prompt, in one forward."""
        pairs = [
            (i, replace(segment, cache=segment.cache.unseen))
            for i, segment in enumerate(segments)
            if isinstance(segment.cache, GuidedCache)
        ]
        twins = [i for i, _ in pairs]
        rows = self.inner.forward(
            [
                *(opened_segment(segment, _seen) for segment in segments),
                *(segment for _, segment in pairs),
            ],
            [*want, *(want[i] for i in twins)],
        )
        out = rows[: len(segments)]
        for i, null in zip(twins, rows[len(segments) :], strict=True):
            out[i] = self._mixed(out[i], null)
        return out

    def _mixed(self, seen: Rows, null: Rows) -> Rows:
        if self.guidance == 1.0:
            return seen
        # Without a chooser: the model's own would choose from logits that are not mixed.
        logits = mix((seen.logits, null.logits), (self.guidance, 1.0 - self.guidance))
        return replace(seen, logits=logits, chooser=None)


def guide(model: LanguageModel, scale: float) -> LanguageModel:
    """Guide `model` by the images of its prompts; return it unchanged if the scale is 1.

    Raises:
        OptionError: the scale is out of range, or the model does not read images.
    """
    check_scale(scale)
    if scale == 1.0:
        return model
    if not model.info.image_token_ids:
        raise OptionError(
            f"guidance is {scale:g}, but model {model.info.name} does not read images",
            hint="Leave guidance out, or load an image-text model with its processor",
        )
    return Guided(model, scale)


def check_scale(scale: float) -> None:
    """Raise `OptionError` unless `scale` is a finite number of at least 0."""
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not is_number or not math.isfinite(scale) or scale < 0.0:
        raise OptionError(
            f"guidance is {scale!r}",
            hint="Give a number of at least 0: 1 is none, 1.5 to 3 make captions more specific",
        )


def _blank(prompt: Prompt) -> Prompt:
    """Return the same prompt with blank images."""
    assert prompt.image_prompt is not None
    return replace(prompt, image_prompt=prompt.image_prompt.blanked())


def _seen(cache: Cache) -> Cache:
    return cache.seen if isinstance(cache, GuidedCache) else cache


def _unseen(cache: Cache | None) -> Cache | None:
    return cache.unseen if isinstance(cache, GuidedCache) else None


METHOD = Method(
    name="classifier-free",
    cls=Guided,
    summary="captions describe more of the image: --guidance, load(guidance=...)",
    paper=Paper("classifier-free guidance for captions", "2307.16686"),
    promise=Exactness.LOSSY,
    needs="a model that reads images",
)
