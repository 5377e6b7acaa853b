"""Pairs of images and sentences: infinite drawn scenes, and sets of published images."""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outrider.captioning.scenes.phrases import Manner, caption
from outrider.captioning.scenes.scenes import Scenes
from outrider.core.errors import MissingExtraError, OptionError
from outrider.inputs.lines import numbered_lines
from outrider.training.vision_family.config import ImageSet, VisionFamilyConfig

Pixels = NDArray[np.uint8]
"""Pixels of an image, `[side, side, 3]`."""


def pixel_values(images: Sequence[Any], side: int) -> Tensor:
    """Convert RGB images to inputs of the vision encoder: `[n, 3, side, side]` between -1 and 1."""
    arrays = [np.asarray(image.resize((side, side), 1)) for image in images]  # 1: Lanczos
    return normalised(np.stack(arrays))


def normalised(pixels: NDArray[np.uint8]) -> Tensor:
    """Convert `[n, side, side, 3]` bytes to `[n, 3, side, side]` numbers between -1 and 1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


@dataclass(frozen=True, slots=True, eq=False)
class LoadedSet:
    """The images of one set, reduced to `side` pixels, with their sentences."""

    name: str
    pixels: NDArray[np.uint8]
    texts: tuple[str, ...]
    held_out: tuple[int, ...]

    @property
    def trained_on(self) -> tuple[int, ...]:
        """Indices of records that are not held out."""
        kept = set(range(len(self.texts))) - set(self.held_out)
        return tuple(sorted(kept))


def load_set(which: ImageSet, data: Path, side: int) -> LoadedSet:
    """Read and reduce all images of a set.

    Raises:
        OptionError: a file is missing, or no record fulfills `only`.
    """
    records = _records(which, data)
    wanted = {record["file"]: record[which.text] for record in records}
    pixels: dict[str, Pixels] = {}
    place = data / which.images
    if not place.is_file():
        raise OptionError(f"there is no image set at {place}", hint="Give --data DIR that holds it")
    with tarfile.open(place) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name in wanted and name not in pixels and (file := tar.extractfile(member)):
                pixels[name] = _reduced(file.read(), side)
    names = [name for name in wanted if name in pixels]
    if not names:
        raise OptionError(f"{place} holds none of the images of {which.records}")
    every = which.held_out
    return LoadedSet(
        which.name,
        np.stack([pixels[name] for name in names]),
        tuple(_sentence(str(wanted[name])) for name in names),
        tuple(range(every - 1, len(names), every)) if every else (),
    )


def _records(which: ImageSet, data: Path) -> list[dict[str, Any]]:
    file = data / which.records
    if not file.is_file():
        raise OptionError(f"there are no records at {file}", hint="Give --data DIR that holds them")
    records = [json.loads(line) for _, line in numbered_lines(file, extra="vision")]
    key, _, value = which.only.partition("=")
    return [r for r in records if not key or str(r.get(key)).lower() == value.lower()]


def _reduced(data: bytes, side: int) -> Pixels:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "vision") from error
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize((side, side), 1))  # 1: Lanczos


def _sentence(text: str) -> str:
    text = " ".join(text.split()).lower()
    return text if text.endswith((".", "!", "?")) else f"{text}."


class Pairs:
    """Training pairs by number: row r is always the same image and the same sentence.

    Args:
        manner: weights of vague, partial and exact sentences about scenes.
        sets: published images that are mixed in.
        scenes: share of drawn scenes.
        seed: seed of scenes and choices.
        side: width and height in pixels.
    """

    def __init__(
        self,
        manner: Manner,
        sets: Sequence[LoadedSet],
        weights: Sequence[float],
        scenes: float,
        seed: int,
        side: int,
    ) -> None:
        self.manner, self.seed, self.side = manner, seed, side
        self._scenes = Scenes(seed=seed, side=side)
        self._sets = [(s, s.trained_on) for s in sets]
        total = sum(weights)
        self._shares = [scenes, *((1 - scenes) * w / total for w in weights)]

    def batch(self, row: int, count: int) -> tuple[Tensor, list[str]]:
        """Return rows `row .. row + count`: `[count, 3, side, side]` and their sentences."""
        pairs = [self._pair(r) for r in range(row, row + count)]
        return normalised(np.stack([pixels for pixels, _ in pairs])), [text for _, text in pairs]

    def texts(self, row: int, count: int) -> list[str]:
        """Return the sentences only; no image is drawn."""
        return [self._choice(r)[2] for r in range(row, row + count)]

    def _pair(self, row: int) -> tuple[Pixels, str]:
        loaded, at, text = self._choice(row)
        if loaded is None:
            return np.asarray(self._scenes.image(row)), text
        return loaded.pixels[at], text

    def _choice(self, row: int) -> tuple[LoadedSet | None, int, str]:
        """Choose the set (None: the scenes), the record in it, and the sentence."""
        random = Random(f"pair {self.seed} {row}")
        choice = random.choices([None, *self._sets], self._shares)[0]
        if choice is None:
            truth = self._scenes.truth(row)
            return None, row, caption(truth, self.manner.detail(random), random)
        loaded, rows = choice
        at = random.choice(rows)
        return loaded, at, loaded.texts[at]


def load_sets(config: VisionFamilyConfig, data: Path) -> list[LoadedSet]:
    """Load all image sets of a configuration."""
    return [load_set(which, data, config.image_size) for which in config.sets]
