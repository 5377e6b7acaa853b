"""A model that reads images: a vision encoder before the runner of a text stack.

Every tier that reads images makes its own view of `Prompt.image_prompt`: its own placeholders,
features and positions. Tiers without a vision encoder read only the question, `Prompt.token_ids`.
"""

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

from outrider.core.types import IntArray, Prompt, Rows
from outrider.models.wrappers.passing import ModelWrapper
from outrider.protocols import Cache, LanguageModel, Segment, VisionEncoder


class VisionLanguageModel(ModelWrapper):
    """A `LanguageModel` around `inner`, whose `start` turns images into prompts for `inner`.

    Caches and all other capabilities are those of `inner`. `Cache.report` holds the seconds for
    encoding the images.

    Args:
        inner: runs the text stack.
        vision_encoder: makes prompts for `inner`.
    """

    def __init__(self, inner: LanguageModel, vision_encoder: VisionEncoder) -> None:
        super().__init__(inner, replace(inner.info, image_token_ids=vision_encoder.image_token_ids))
        self.vision_encoder = vision_encoder

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> Sequence[Cache]:
        """Encode the images and read the prompts; return one cache for each prompt. Prompts without
        images are read as they are. Equal prompts (the same object) are encoded once.

        Raises:
            ContextError: a view does not fit into the window.
            OptionError: the model cannot read a question or an image.
        """
        begun = perf_counter()
        once = {id(p): p for p in prompts if p.image_prompt is not None}
        seen = self.vision_encoder.views(
            [p.image_prompt for p in once.values() if p.image_prompt is not None]
        )
        views = dict(zip(once, seen, strict=True))
        seconds = perf_counter() - begun
        caches = self.inner.start([views.get(id(p), p) for p in prompts], reuse)
        for prompt, cache in zip(prompts, caches, strict=True):
            cache.report.vision_seconds = seconds if id(prompt) in views else 0.0
        return caches

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        """Run the forward of the inner model."""
        return self.inner.forward(segments, want)
