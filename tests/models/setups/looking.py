"""What an image-text model of `transformers` makes of a question with images, and what it answers:
whole forwards with the pixels, without a cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText

from outrider.core.tree import path_to
from outrider.core.types import ImagePrompt, IntArray, Prompt
from outrider.models.vision.processor import ImageProcessor
from tests.models.setups.vision_checkpoints import picture

PICTURES = {
    "one": (picture(32, 16),),
    "two": (picture(24, 32, seed=1), picture(16, 16, seed=2)),
}
"""An image wider than high; one higher than wide and a small one."""


@dataclass
class Look:
    """One question with images, as the model `whole` reads it.

    Attributes:
        whole: the image-text model.
        inputs: what its processor made of the question.
        prompt: what its text part is given.
    """

    whole: Any
    inputs: dict[str, Tensor]
    prompt: Prompt

    @torch.no_grad()
    def logits(self, tokens: Sequence[int] = ()) -> Tensor:
        """`[len(prompt) + len(tokens), vocab]`, of the question and `tokens` after it."""
        more = torch.tensor([list(tokens)], dtype=torch.int64)
        inputs = dict(self.inputs)
        inputs["input_ids"] = torch.cat((inputs["input_ids"], more), dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "mm_token_type_ids" in inputs:
            inputs["mm_token_type_ids"] = torch.cat((inputs["mm_token_type_ids"], 0 * more), dim=1)
        return self.whole(**inputs, use_cache=False).logits[0]

    def after(self, tokens: Sequence[int] = ()) -> Tensor:
        """`[vocab]` after the question and `tokens`."""
        return self.logits(tokens)[-1]

    def node_logits(self, text: Sequence[int], tokens: IntArray, parents: IntArray) -> Tensor:
        """Row 0 after the question and `text`; row i + 1 after the path from there to node i."""
        paths = [path_to(parents, node) for node in range(-1, len(tokens))]
        return torch.stack([self.after([*text, *(int(tokens[n]) for n in p)]) for p in paths])


class Looker:
    """The image-text checkpoint at `path`, run by `transformers` in float64."""

    def __init__(self, path: Path) -> None:
        self.whole: Any = AutoModelForImageTextToText.from_pretrained(
            path, dtype=torch.float64, attn_implementation="eager"
        ).eval()
        self.image_processor = ImageProcessor.load(path, self.whole.config, name=path.name)

    @torch.no_grad()
    def look(self, question: str, images: Sequence[Image.Image]) -> Look:
        """A question about all of the images."""
        parts = [{"type": "image"} for _ in images] + [{"type": "text", "text": question}]
        image_prompt = ImagePrompt(
            messages=({"role": "user", "content": parts},), images=tuple(images)
        )
        inputs = {
            name: value.double() if value.is_floating_point() else value
            for name, value in self.image_processor.inputs(image_prompt).items()
        }
        given: dict[str, Any] = {}
        inner = self.whole.model
        text_part = inner.language_model if hasattr(inner, "language_model") else inner.text_model
        hook = text_part.register_forward_pre_hook(
            lambda _module, _args, named: given.update(named), with_kwargs=True
        )
        self.whole(**inputs, use_cache=False)
        hook.remove()
        places = given.get("position_ids")
        axes = None if places is None or places.ndim < 3 else places[-3:, 0].tolist()
        prompt = Prompt(
            token_ids=tuple(inputs["input_ids"][0].tolist()),
            embeddings=given["inputs_embeds"][0],
            axes=None if axes is None else tuple(tuple(axis) for axis in axes),
        )
        return Look(self.whole, inputs, prompt)
