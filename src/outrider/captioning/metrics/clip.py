"""CLIPScore: the similarity of a caption and its image in a model trained to match the two."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from outrider.captioning.metrics.clip_loading import load_parts
from outrider.captioning.metrics.words import check_captions
from outrider.core.errors import CheckpointError, LogitsError, OptionError, OutriderWarning
from outrider.models.devices import resolve_device

Progress = Callable[[int, int], None]
"""Called with the number done and the total number."""

SCALE = 2.5
"""CLIPScore is 2.5 * max(cosine, 0) (Hessel et al. 2021, arXiv 2104.08718)."""


@dataclass(frozen=True, slots=True, eq=False)
class CaptionEmbeddings:
    """Embeddings of captions in the space of a scorer.

    Attributes:
        vectors: unit vectors.
        truncated: whether a caption is longer than the text window, so that only its beginning was
            read.
    """

    vectors: Float[Tensor, "captions width"]
    truncated: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Token ids of texts.

    Attributes:
        ids: padded on the right.
        spans: for each text and id the range of its characters; (0, 0) for added ids.
        truncated: whether a text was cut.
    """

    ids: Int[Tensor, "texts length"]
    spans: tuple[tuple[tuple[int, int], ...], ...]
    truncated: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ClipScorer:
    """A frozen model that embeds images and texts in one space, such as CLIP or SigLIP.

    Attributes:
        model: the model of `transformers`, with eager attention in its text part.
        processor: its image processor.
        tokenizer: its tokenizer.
        name: its name in reports.
        batch_size: number of images or captions in one forward.
    """

    model: Any
    processor: Any
    tokenizer: Any
    name: str = "clip"
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise OptionError(f"batch size {self.batch_size} is below 1", hint="Give 1 or more")
        for part in ("get_text_features", "get_image_features"):
            if not hasattr(self.model, part):
                raise CheckpointError(
                    f"{self.name} ({type(self.model).__name__}) does not embed images and texts",
                    hint="Give a CLIP or SigLIP model",
                )
        self.model.eval()
        if self.causal:
            # CLIP4DM needs attention maps, which only the eager implementation returns.
            self.model.text_model.set_attn_implementation("eager")
            self._check_end()

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str = "auto",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 32,
    ) -> "ClipScorer":
        """Load a folder, or a hub name, with its processor and its tokenizer.

        Args:
            source: folder or hub name of a checkpoint with safetensors weights.
            device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
            dtype: dtype of weights and embeddings. Thresholds of CLIP4DM hold for one dtype.
            batch_size: number of images or captions in one forward.

        Raises:
            CheckpointError: the checkpoint cannot be read, or is not such a model.
            MissingExtraError: pillow is not installed.
        """
        model, processor, tokenizer = load_parts(source, dtype)
        return cls(
            model=model.to(resolve_device(device)).requires_grad_(False),
            processor=processor,
            tokenizer=tokenizer,
            name=Path(source).name,
            batch_size=batch_size,
        )

    @property
    def window(self) -> int:
        """Largest number of ids of a text, with added ones."""
        return self.model.config.text_config.max_position_embeddings

    @property
    def causal(self) -> bool:
        """Whether texts are read from left to right and pooled at their end token, as in CLIP."""
        return self.model.config.model_type == "clip"

    @torch.no_grad()
    def embed_images(
        self, images: Sequence[Any], *, progress: Progress | None = None
    ) -> Float[Tensor, "images width"]:
        """Compute unit vectors of PIL images, on the CPU. They can be reused for many captions.

        Raises:
            OptionError: there are no images, or a value is not a PIL image.
            LogitsError: the model gives NaN.
        """
        if not len(images):
            raise OptionError("there are no images to score", hint="Give at least one")
        for place, image in enumerate(images):
            if not hasattr(image, "convert"):
                raise OptionError(
                    f"image {place} is a {type(image).__name__}", hint="Give PIL images"
                )
        found: list[Tensor] = []
        for start in range(0, len(images), self.batch_size):
            batch = [image.convert("RGB") for image in images[start : start + self.batch_size]]
            pixels = self.processor(images=batch, return_tensors="pt")["pixel_values"]
            features = self.model.get_image_features(pixel_values=self._placed(pixels))
            found.append(self._unit(features, "image", start))
            _tell(progress, start + len(batch), len(images))
        return torch.cat(found)

    @torch.no_grad()
    def embed_captions(
        self, captions: Sequence[str], *, progress: Progress | None = None
    ) -> CaptionEmbeddings:
        """Compute unit vectors of captions, on the CPU, and which captions were cut.

        Raises:
            OptionError: there are no captions, or one has no words.
            LogitsError: the model gives NaN.
        """
        check_captions(captions)
        found: list[Tensor] = []
        cut: list[int] = []
        for start in range(0, len(captions), self.batch_size):
            encoded = self.encode(captions[start : start + self.batch_size])
            features = self.model.get_text_features(input_ids=encoded.ids.to(self.model.device))
            found.append(self._unit(features, "caption", start))
            cut += [start + place for place in encoded.truncated]
            _tell(progress, min(start + self.batch_size, len(captions)), len(captions))
        return CaptionEmbeddings(torch.cat(found), tuple(cut))

    def score(
        self,
        images: Sequence[Any] | Tensor,
        captions: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> Float[Tensor, " captions"]:
        """Compute the CLIPScore of each caption for its image, from 0 to 2.5.

        Args:
            images: one for each caption: PIL images, or their vectors from `embed_images`.
            captions: captions with at least one word.
            progress: called with the number of captions.

        Raises:
            OptionError: numbers differ, or a value cannot be scored.
            LogitsError: the model gives NaN.

        Warns:
            OutriderWarning: captions are longer than the text window.
        """
        check_captions(captions, images=images)
        seen = images if isinstance(images, Tensor) else self.embed_images(images)
        told = self.embed_captions(captions, progress=progress)
        if told.truncated:
            warnings.warn(
                f"{len(told.truncated)} captions are longer than the {self.window} ids that "
                f"{self.name} reads: the rest is ignored",
                OutriderWarning,
                stacklevel=2,
            )
        return clip_score(seen, told.vectors)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Convert texts to ids, cut to the window."""
        given = self.tokenizer(
            list(texts),
            padding="longest" if self.causal else "max_length",
            truncation=True,
            max_length=self.window,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        whole = self.tokenizer(list(texts), verbose=False)["input_ids"]
        spans = tuple(
            tuple((0, 0) if added else (start, stop) for (start, stop), added in pairs)
            for pairs in (
                zip(offsets, mask, strict=True)
                for offsets, mask in zip(
                    given["offset_mapping"].tolist(),
                    given["special_tokens_mask"].tolist(),
                    strict=True,
                )
            )
        )
        cut = tuple(place for place, ids in enumerate(whole) if len(ids) > self.window)
        return Encoded(given["input_ids"], spans, cut)

    def ends(self, ids: Int[Tensor, "texts length"]) -> Int[Tensor, " texts"]:
        """Return the position where a causal model pools each text: its first end token."""
        end = self.model.config.text_config.eos_token_id
        # Old checkpoints have a wrong end id in their configuration: their end token is the largest
        # id.
        return ids.argmax(dim=-1) if end == 2 else (ids == end).int().argmax(dim=-1)

    def _placed(self, pixels: Tensor) -> Tensor:
        return pixels.to(self.model.device, self.model.dtype)

    def _unit(self, output: Any, what: str, start: int) -> Tensor:
        vectors = torch.nn.functional.normalize(features_of(output), dim=-1).cpu()
        bad = (~vectors.isfinite()).any(dim=-1).nonzero()
        if len(bad):
            raise LogitsError(f"{self.name} gives NaN for {what} {start + int(bad[0])}")
        return vectors

    def _check_end(self) -> None:
        """Check that texts of different length are each pooled at their own last id."""
        ids = self.encode(["a", "a red thing and another"])
        last = [max(i for i, s in enumerate(own) if s[1]) + 1 for own in ids.spans]
        if self.ends(ids.ids).tolist() != last:
            raise CheckpointError(
                f"the tokenizer of {self.name} does not end texts with the end token that the "
                f"model expects ({self.model.config.text_config.eos_token_id})",
                hint="Use the tokenizer that the model was trained with",
            )


def clip_score(
    images: Float[Tensor, "captions width"], captions: Float[Tensor, "captions width"]
) -> Float[Tensor, " captions"]:
    """Return 2.5 * max(cosine, 0) of paired unit vectors."""
    return SCALE * (images * captions).sum(dim=-1).clamp(min=0)


def features_of(output: Any) -> Tensor:
    """Return the embedding in the result of `get_text_features`; old releases return it
    directly.
    """
    return output if isinstance(output, Tensor) else output.pooler_output


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
