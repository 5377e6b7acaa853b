"""`outrider caption`: writes a sentence about each image."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from outrider.cli.options.caching import Caching
from outrider.cli.options.guiding import Guiding
from outrider.cli.options.options import (
    Runtime,
    Sampling,
    Speculation,
    Tiers,
    load_generator,
    option,
)
from outrider.cli.ui import failures, interrupt
from outrider.cli.ui.caption_file import CaptionFile
from outrider.cli.ui.progress import ImageProgress
from outrider.cli.ui.render import Screen, print_json, summary
from outrider.cli.ui.waiting import Waiting
from outrider.core.errors import OptionError

if TYPE_CHECKING:
    from outrider.captioning.captioner import Caption
    from outrider.captioning.metrics.clip import ClipScorer

QUESTION = "Describe the image in one sentence."

FAILED = 1
"""Exit code if an image has no caption."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionTiers(Tiers):
    """Options that name the models; the target must read images."""

    target: Annotated[
        str,
        option(
            panel="Models",
            help="The image-text model whose captions you want: a "
            "family name, a folder or a hub name. Qualifier and draft model may read "
            "images or not.",
        ),
    ] = "tiny-vision"


def caption(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="JPEG, PNG, WebP and GIF files; folders, searched at any depth; patterns such as "
            "'photos/*.jpg'.",
            show_default=False,
        ),
    ],
    tiers: VisionTiers,
    speculation: Speculation,
    sampling: Sampling,
    guiding: Guiding,
    runtime: Runtime,
    caching: Caching,
    question: Annotated[
        str,
        option(
            "--question",
            "--prompt",
            panel="Captions",
            metavar="TEXT",
            help="The question for each image.",
        ),
    ] = QUESTION,
    batch_size: Annotated[
        int,
        option(panel="Captions", help="Images per batch. The captions do not depend on it.", min=1),
    ] = 8,
    adapter: Annotated[
        Path | None,
        option(
            panel="Models",
            metavar="DIR",
            help="A LoRA adapter of the target in peft's format, such "
            "as one from `outrider train vizer`.",
        ),
    ] = None,
    score: Annotated[
        str | None,
        option(
            panel="Captions",
            metavar="CLIP",
            help="Report the CLIPScore of each caption by this model "
            "(a folder or a hub name), and the mean.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            panel="Output",
            metavar="FILE",
            help="Append JSON lines to FILE instead of printing. "
            "Images that already have a caption in FILE are skipped, so the same command "
            "continues an interrupted run.",
        ),
    ] = None,
    json: Annotated[
        bool,
        option(
            "--json",
            panel="Output",
            help="Print one JSON object per image, as soon as its caption is ready.",
        ),
    ] = False,
) -> None:
    """Write a sentence about each image.

    One image: its caption goes to standard output, one line of figures to standard error.
    Several: a line `path: caption` each, in order. An image that cannot be read or captioned
    does not affect other images: it is reported on standard error (with --json and --out in its
    place, as {image, error}), and the exit code is 1. Ctrl-C keeps all finished captions.

    For example:

      outrider caption photo.jpg
      outrider caption photos/ --json > captions.jsonl
      outrider caption photos/ more/*.png --out captions.jsonl --batch-size 16
      outrider caption photo.jpg --question "What colour is the door?"
      outrider caption photos/ --guidance 2 --temperature 0.7 --seed 1
      outrider caption photos/ --target ./smolvlm --draft ./smollm --adapter runs/vizer/adapter
      outrider caption photos/ --out captions.jsonl --score openai/clip-vit-base-patch32
    """
    from outrider.captioning.captioner import Captioner
    from outrider.inputs.images.files import find_images, need_pillow

    if out is not None and json:
        raise OptionError("--out and --json cannot be combined", hint="Leave --json out")
    if not question.strip():
        raise OptionError("the question is empty", hint="Leave --question out, or give a question")
    need_pillow()
    settings = sampling.given()
    how = guiding.given() | caching.given()
    # Pillow also warns about files that it can read.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    screen = Screen()
    with ExitStack() as stack:
        waiting = stack.enter_context(Waiting(screen))
        waiting.say("finding images")
        found = [str(path) for path in find_images(images)]
        file = None if out is None else stack.enter_context(CaptionFile(out))
        todo = found if file is None else _not_done(found, file, screen)
        if not todo:
            return
        waiting.say("loading models")
        if adapter is not None:
            how["adapter"] = adapter
        generator = load_generator(tiers, runtime, speculation, **how)
        captioner = Captioner(
            generator,
            question,
            batch_size=batch_size,
            scorer=None if score is None else _scorer(score, runtime),
            **settings,
        )
        waiting.end()
        bar = stack.enter_context(ImageProgress(screen, len(todo)))
        report = _Report(screen, bar, file, json=json, alone=len(found) == 1)
        try:
            report.all(captioner.caption(todo))
        except KeyboardInterrupt:
            report.end()
            raise typer.Exit(interrupt.EXIT_CODE) from None
    report.end()
    if report.failed:
        raise typer.Exit(FAILED)


def _scorer(source: str, runtime: Runtime) -> "ClipScorer":
    from outrider.captioning.metrics.clip import ClipScorer

    return ClipScorer.load(source, device=runtime.device or "auto")


def _not_done(found: Sequence[str], file: CaptionFile, screen: Screen) -> list[str]:
    todo = [image for image in found if image not in file.done]
    if skipped := len(found) - len(todo):
        screen.note(f"{_images(skipped)} of {len(found)} captioned in {file.path} already: skipped")
    return todo


class _Report:
    """Writes captions to their outputs, one by one, and counts them."""

    def __init__(
        self,
        screen: Screen,
        bar: ImageProgress,
        file: CaptionFile | None,
        *,
        json: bool,
        alone: bool,
    ) -> None:
        self.screen, self.bar, self.file = screen, bar, file
        self.json, self.alone = json, alone
        self.done = self.failed = 0
        self._scores: list[float] = []
        self._begun = perf_counter()

    def all(self, captions: Iterator["Caption"]) -> None:
        for one in captions:
            self._put(one)
            self.done += one.error is None
            self.failed += one.error is not None
            if one.clip_score is not None:
                self._scores.append(one.clip_score)
            self.bar.step(self.failed)

    def end(self) -> None:
        """Print one line about all captions; a single image has its own line."""
        self.bar.end()
        if self.alone and not self.json and self.file is None:
            return
        line = f"{_images(self.done)} captioned in {perf_counter() - self._begun:.1f} s"
        if self.failed:
            line += f", {self.failed} failed"
        if self._scores:
            line += _score(sum(self._scores) / len(self._scores))
        self.screen.note(line if self.file is None else f"{line}; see {self.file.path}")

    def _put(self, one: "Caption") -> None:
        if self.file is not None:
            self.file.write(one.to_dict())
            return
        with self.bar.aside():
            if self.json:
                print_json(one.to_dict())
                sys.stdout.flush()
            elif one.error is not None:
                failures.say("error", _named(one))
            elif self.alone:
                self.screen.write(f"{one.text}\n")
                assert one.result is not None
                scored = "" if one.clip_score is None else _score(one.clip_score)
                self.screen.note(summary(one.result.to_dict()) + scored)
            else:
                self.screen.write(f"{_one_line(one.image)}: {' '.join(one.text.split())}\n")


def _named(one: "Caption") -> str:
    """Return the error of an image with the image's name, which the message may already contain."""
    error, image = str(one.error), str(one.image)
    return error if image in error else f"{image}: {error}"


def _one_line(image: object) -> str:
    """Return the name of an image without line breaks."""
    return str(image).replace("\r", "\\r").replace("\n", "\\n")


def _score(value: float) -> str:
    return f", CLIPScore {value:.3f}"


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"
