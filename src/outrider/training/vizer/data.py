"""The images of a ViZer run: assigns them to phases, and leaves out unusable ones."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from outrider.core.errors import OptionError
from outrider.inputs.lines import numbered_lines
from outrider.training.vizer.captioner import ImageBatch, TrainableCaptioner
from outrider.training.vizer.config import VizerConfig

Say = Callable[[str], None]
"""Called with each line of progress."""


@dataclass(frozen=True, slots=True)
class Example:
    """An image that is read on demand, with its caption if one is given."""

    path: Path
    caption: str | None = None

    def image(self) -> Any:
        """Read the image in RGB. Raises `OptionError` for a bad file."""
        from outrider.inputs.images.files import read_image

        return read_image(self.path)


@dataclass(frozen=True, slots=True)
class Split:
    """The examples of each phase; held-out ones are in neither."""

    held_out: list[Example]
    mapper: list[Example]
    adapt: list[Example]

    @classmethod
    def of(cls, examples: Sequence[Example], config: VizerConfig) -> "Split":
        """Split the examples; the result depends only on the seed and the names.

        Raises:
            OptionError: too few examples remain for a step after those held out.
        """
        order = sorted(examples, key=lambda e: str(e.path))
        Random(f"vizer {config.seed}").shuffle(order)
        if len(order) < config.held_out + config.batch:
            raise OptionError(
                f"{len(order)} images are given; {config.held_out} are held out and a step takes "
                f"{config.batch}",
                hint="Give more images, or lower held_out and batch",
            )
        rest = order[config.held_out :]
        adapt = rest[-config.images :] if config.images else rest
        if len(adapt) < config.batch:
            raise OptionError(
                f"phase B has {len(adapt)} images, but a step takes {config.batch}",
                hint="Train on more images, or lower batch",
            )
        return cls(order[: config.held_out], rest[: config.mapper_images], adapt)


@dataclass(slots=True)
class Gallery:
    """Encodes images with a model. An unusable image is left out without affecting others.

    Attributes:
        subject: the model.
        say: called once for each image that is left out.
        left_out: the reasons, by the name of the file.
    """

    captioner: TrainableCaptioner
    say: Say
    left_out: dict[str, str] = field(default_factory=dict)

    def evaluation(self, examples: Sequence[Example]) -> tuple[list[Example], ImageBatch | None]:
        """Return the examples that the model could encode, and the encoded images; None if there
        are none.
        """
        kept, images = list[Example](), list[Any]()
        for example in examples:
            try:
                images.append(example.image())
            except OptionError as error:
                self._leave(example, error)
            else:
                kept.append(example)
        try:
            return kept, self.captioner.evaluation(images) if images else None
        except OptionError:  # one of them cannot be encoded, for example because a side is too long
            taken = [self._takes(e, image) for e, image in zip(kept, images, strict=True)]
            if all(taken):
                raise
        kept = [e for e, fine in zip(kept, taken, strict=True) if fine]
        images = [image for image, fine in zip(images, taken, strict=True) if fine]
        return kept, self.captioner.evaluation(images) if images else None

    def _takes(self, example: Example, image: Any) -> bool:
        try:
            self.captioner.evaluation([image])
        except OptionError as error:
            self._leave(example, error)
            return False
        return True

    def _leave(self, example: Example, error: OptionError) -> None:
        name = str(example.path)
        if name not in self.left_out:
            self.left_out[name] = str(error)
            self.say(f"left out: {error}" if name in str(error) else f"left out: {name}: {error}")


def fingerprint(examples: Sequence[Example], *, captions: bool) -> str:
    """Hash the names of images, and their captions if these are used."""
    lines = sorted([str(e.path), e.caption if captions else None] for e in examples)
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:16]


def read_captions(file: Path) -> Iterator[Example]:
    """Yield the examples of a file of JSON lines, `{"image": ..., "caption": ...}`; paths are
    relative to it.

    Raises:
        OptionError: the file does not exist, or a line has another form.
    """
    for number, line in numbered_lines(file, hint="Give JSON lines"):
        try:
            record = json.loads(line)
            path, caption = Path(record["image"]), record["caption"]
            if not isinstance(caption, str):
                raise TypeError(f"a caption is a text, not {caption!r:.40}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise OptionError(
                f"line {number} of {file} is not a caption ({type(error).__name__}: {error})",
                hint='Write {"image": "a.png", "caption": "a red star."}',
            ) from None
        yield Example(path if path.is_absolute() else file.parent / path, caption)
