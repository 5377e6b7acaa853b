"""Many images, one caption each: read ahead, written in batches, and none lost to another."""

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
    """What was written about one image, or why nothing was.

    Attributes:
        image: as it was given: a path, or an image.
        text: the caption; empty with an `error`.
        error: one line.
        result: figures and tokens; None where nothing was written. Its seconds are those of the
            batch, whose images share their forwards.
        clip_score: how well it fits its image; None without a scorer, or a word to score.
    """

    image: Any
    text: str = ""
    error: str | None = None
    result: Result | None = None
    clip_score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: `image` and `error`, or `image`, `caption`, `seconds` and
        `speculation`, and `clip_score` and `guidance` where there is some."""
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
class _Look:
    """An image as it was given, and in RGB or with what is wrong with it."""

    given: Any
    image: Any = None
    error: str | None = None


class Captioner:
    """Captions images with one generator.

    A caption depends on its image, the question, the settings and the seed, not on the batch it
    was written in. What is wrong with an image, or with what the model makes of it, is the `error`
    of its own caption.

    Args:
        generator: of a model that sees.
        question: what it is asked about each image.
        batch_size: images that share their forwards.
        scorer: gives each caption its CLIPScore; of a long one, by as much as it reads.
        **sampling: as for `Generator.generate`.

    Raises:
        OptionError: an option is unknown or out of range, or the model does not see.
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
            raise OptionError("the question is empty", hint=f"Ask something, such as {QUESTION!r}")
        generator.params(**sampling)
        check_reads_images(generator.strategy.target, [_SEEN])
        self.generator = generator
        self.question = question
        self.batch_size = batch_size
        self.scorer = scorer
        self.sampling = sampling

    def caption(self, images: Iterable[Any]) -> Iterator[Caption]:
        """A caption for each of `images` (paths or `PIL.Image.Image`), in order, as they come.

        Images are taken as they are needed: at most two batches are read ahead. Whoever stops
        early keeps every caption that was handed out.
        """
        batch: list[_Look] = []
        with _reading_ahead(images, self.batch_size) as looks:
            for look in looks:
                batch.append(look)
                if sum(one.error is None for one in batch) == self.batch_size:
                    yield from self._captions(batch)
                    batch = []
            yield from self._captions(batch)

    def _captions(self, batch: Sequence[_Look]) -> Iterator[Caption]:
        written = iter(self._written([look for look in batch if look.error is None]))
        for look in batch:
            failed = look.error is not None
            yield Caption(image=look.given, error=look.error) if failed else next(written)

    def _written(self, looks: Sequence[_Look]) -> list[Caption]:
        """One caption for each; where the model fails over a batch, it is asked one by one."""
        try:
            results = self._ask([look.image for look in looks]) if looks else []
        except Exception as error:
            if len(looks) > 1:
                return [caption for look in looks for caption in self._written([look])]
            return [Caption(image=looks[0].given, error=_line(error))]
        told = [_told(look, result) for look, result in zip(looks, results, strict=True)]
        return told if self.scorer is None else self._scored(looks, told)

    def _scored(self, looks: Sequence[_Look], captions: list[Caption]) -> list[Caption]:
        """With their scores; one that can not be scored keeps its caption."""
        from outrider.captioning.metrics.clip import clip_score

        assert self.scorer is not None
        able = [i for i, caption in enumerate(captions) if words(caption.text)]
        if not able:
            return captions
        images, texts = [looks[i].image for i in able], [captions[i].text for i in able]
        try:
            seen = self.scorer.embed_images(images)
            scores = clip_score(seen, self.scorer.embed_captions(texts).vectors).tolist()
        except Exception:
            if len(captions) == 1:
                return captions
            pairs = zip(looks, captions, strict=True)
            return [one for look, own in pairs for one in self._scored([look], [own])]
        found = dict(zip(able, scores, strict=True))
        return [replace(own, clip_score=found.get(i)) for i, own in enumerate(captions)]

    def _ask(self, images: Sequence[Any]) -> list[Result]:
        prompts = [self.generator.prompt(self.question, images=[image]) for image in images]
        return self.generator.generate(prompts, **self.sampling)


def _told(look: _Look, result: Result) -> Caption:
    if result.error is not None:
        return Caption(image=look.given, error=result.error)
    return Caption(image=look.given, text=result.text.strip(), result=result)


@contextmanager
def _reading_ahead(images: Iterable[Any], ahead: int) -> Iterator[Iterator[_Look]]:
    """Images in RGB, in order; a thread of its own reads up to `ahead` of them in advance."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="images")

    def looks() -> Iterator[_Look]:
        waiting: deque[Future[_Look]] = deque()
        for given in images:
            waiting.append(pool.submit(_look, given))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield looks()
    finally:  # whoever stops early does not wait for images that nobody wants
        pool.shutdown(wait=False, cancel_futures=True)


def _look(given: Any) -> _Look:
    try:
        return _Look(given, _image(given))
    except MissingExtraError:
        raise
    except Exception as error:  # an image of the caller's own may raise anything
        return _Look(given, error=_line(error))


def _image(given: Any) -> Any:
    from PIL import Image

    if isinstance(given, str | Path):
        return read_image(given)
    if isinstance(given, Image.Image):
        return as_rgb(given)
    raise OptionError(f"an image can not be {given!r:.60}", hint="Give a path or a PIL.Image")


def _line(error: Exception) -> str:
    """What went wrong, in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, OutriderError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
