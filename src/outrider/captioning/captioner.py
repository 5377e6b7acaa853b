"""Captions many images: files are read ahead, captions are generated in batches, errors are
isolated.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outrider.captioning.metrics.words import words
from outrider.core.checks import AT_LEAST_ONE
from outrider.core.errors import MissingExtraError, OptionError, OutriderError
from outrider.core.types import ImagePrompt, Prompt
from outrider.engine.generator import Generator
from outrider.engine.result import Result
from outrider.inputs.images.files import need_pillow, read_image
from outrider.inputs.images.messages import check_reads_images
from outrider.inputs.images.pixels import as_rgb

if TYPE_CHECKING:
    from outrider.captioning.metrics.clip import ClipScorer

QUESTION = "Describe the image in one sentence."

_SEEN = Prompt(token_ids=(0,), image_prompt=ImagePrompt(messages=(), images=()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Caption:
    """The caption of one image, or the reason why there is none.

    Attributes:
        image: the image as given: a path, or an image.
        text: the caption; empty with an `error`.
        error: the error in one line.
        result: figures and tokens; None with an `error`. Its seconds are those of the batch, whose
            images share their forwards.
        clip_score: CLIPScore of caption and image; None without a scorer, or for a caption without
            words.
    """

    image: Any
    text: str = ""
    error: str | None = None
    result: Result | None = None
    clip_score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        The keys are `image` and `error`, or `image`, `caption`, `seconds` and `speculation`, and
        `clip_score` and `guidance` if they are set.
        """
        name = {"image": str(self.image)}
        if self.error is not None or self.result is None:
            return name | {"error": self.error}
        figures = self.result.to_dict()
        kept = ("seconds", "speculation", "guidance")
        told: dict[str, Any] = {"caption": self.text}
        if self.clip_score is not None:
            told["clip_score"] = self.clip_score
        return name | told | {k: figures[k] for k in kept if k in figures}


@dataclass(frozen=True, slots=True, eq=False)
class _Input:
    """An image as given, with its RGB data or its error."""

    given: Any
    image: Any = None
    error: str | None = None


class Captioner:
    """Captions images with one generator.

    A caption depends on its image, the question, the settings and the seed, not on its batch. An
    error with an image affects only its own caption, where it is the `error`.

    Args:
        generator: a generator whose target reads images.
        question: the question for each image.
        batch_size: number of images that share their forwards.
        scorer: computes the CLIPScore of each caption; of a long caption it reads only the
            beginning.
        **sampling: as for `Generator.generate`.

    Raises:
        OptionError: an option is unknown or out of range, or the model does not read images.
        MissingExtraError: pillow is not installed.
    """

    def __init__(
        self,
        generator: Generator,
        question: str = QUESTION,
        *,
        batch_size: int = 8,
        scorer: "ClipScorer | None" = None,
        **sampling: Any,
    ) -> None:
        need_pillow()
        AT_LEAST_ONE.check("batch_size", batch_size)
        if not question.strip():
            raise OptionError(
                "the question is empty", hint=f"Give a question, such as {QUESTION!r}"
            )
        generator.params(**sampling)
        check_reads_images(generator.strategy.target, [_SEEN])
        self.generator = generator
        self.question = question
        self.batch_size = batch_size
        self.scorer = scorer
        self.sampling = sampling

    def caption(self, images: Iterable[Any]) -> Iterator[Caption]:
        """Yield a caption for each of `images` (paths or `PIL.Image.Image`), in order.

        Images are consumed on demand: at most two batches are read ahead. If the caller stops
        early, all captions yielded so far are valid.
        """
        batch: list[_Input] = []
        with _reading_ahead(images, self.batch_size) as entries:
            for entry in entries:
                batch.append(entry)
                if sum(one.error is None for one in batch) == self.batch_size:
                    yield from self._captions(batch)
                    batch = []
            yield from self._captions(batch)

    def _captions(self, batch: Sequence[_Input]) -> Iterator[Caption]:
        written = iter(self._written([entry for entry in batch if entry.error is None]))
        for entry in batch:
            failed = entry.error is not None
            yield Caption(image=entry.given, error=entry.error) if failed else next(written)

    def _written(self, entries: Sequence[_Input]) -> list[Caption]:
        """Generate one caption for each image; if a batch fails, generate them one by one."""
        try:
            results = self._ask([entry.image for entry in entries]) if entries else []
        except Exception as error:
            if len(entries) > 1:
                return [caption for entry in entries for caption in self._written([entry])]
            return [Caption(image=entries[0].given, error=_line(error))]
        told = [_told(entry, result) for entry, result in zip(entries, results, strict=True)]
        return told if self.scorer is None else self._scored(entries, told)

    def _scored(self, entries: Sequence[_Input], captions: list[Caption]) -> list[Caption]:
        """Add scores; a caption that cannot be scored is kept without a score."""
        from outrider.captioning.metrics.clip import clip_score

        assert self.scorer is not None
        able = [i for i, caption in enumerate(captions) if words(caption.text)]
        if not able:
            return captions
        images, texts = [entries[i].image for i in able], [captions[i].text for i in able]
        try:
            seen = self.scorer.embed_images(images)
            scores = clip_score(seen, self.scorer.embed_captions(texts).vectors).tolist()
        except Exception:
            if len(captions) == 1:
                return captions
            pairs = zip(entries, captions, strict=True)
            return [one for entry, own in pairs for one in self._scored([entry], [own])]
        found = dict(zip(able, scores, strict=True))
        return [replace(own, clip_score=found.get(i)) for i, own in enumerate(captions)]

    def _ask(self, images: Sequence[Any]) -> list[Result]:
        prompts = [self.generator.prompt(self.question, images=[image]) for image in images]
        return self.generator.generate(prompts, **self.sampling)


def _told(entry: _Input, result: Result) -> Caption:
    if result.error is not None:
        return Caption(image=entry.given, error=result.error)
    return Caption(image=entry.given, text=result.text.strip(), result=result)


@contextmanager
def _reading_ahead(images: Iterable[Any], ahead: int) -> Iterator[Iterator[_Input]]:
    """Yield images in RGB, in order; a separate thread reads up to `ahead` of them in advance."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="images")

    def entries() -> Iterator[_Input]:
        waiting: deque[Future[_Input]] = deque()
        for given in images:
            waiting.append(pool.submit(_prepare, given))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield entries()
    finally:  # a caller that stops early does not wait for further images
        pool.shutdown(wait=False, cancel_futures=True)


def _prepare(given: Any) -> _Input:
    try:
        return _Input(given, _image(given))
    except MissingExtraError:
        raise
    except Exception as error:  # a caller's image object may raise any exception
        return _Input(given, error=_line(error))


def _image(given: Any) -> Any:
    from PIL import Image

    if isinstance(given, str | Path):
        return read_image(given)
    if isinstance(given, Image.Image):
        return as_rgb(given)
    raise OptionError(f"an image is {given!r:.60}", hint="Give a path or a PIL.Image")


def _line(error: Exception) -> str:
    """Describe the error in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, OutriderError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
