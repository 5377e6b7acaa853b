"""Collects all metrics of a set of captions in one record."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from outrider.captioning.metrics.attributes import Facts, facts
from outrider.captioning.metrics.clip import ClipScorer, clip_score
from outrider.captioning.metrics.diversity import Diversity
from outrider.captioning.metrics.intervals import Mean
from outrider.captioning.metrics.misalignment import PREFIX, WordScores, word_scores
from outrider.captioning.metrics.reference_scores import References, bleu, check_references, cider
from outrider.captioning.metrics.retrieval import Retrieval, retrieval_rate
from outrider.captioning.metrics.words import check_captions
from outrider.captioning.scenes.things import SceneTruth
from outrider.core.errors import OptionError

Progress = Callable[[str, int, int], None]
"""Called with the name of the metric, the number done, and the total number."""

BATCH = 16
"""Number of images in a batch for retrieval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactReport:
    """Metrics of captions against the known facts of their scenes.

    Attributes:
        recall: share of the scene's facts that are named.
        hallucination_rate: share of the named facts that are false; None if none are named.
        recall_of: recall by kind of fact.
    """

    recall: Mean | None
    hallucination_rate: Mean | None
    recall_of: dict[str, float]

    @classmethod
    def of(cls, captions: Sequence[str], truths: Sequence[SceneTruth]) -> "FactReport":
        """Compare captions with scenes. Raises `OptionError` if their numbers differ."""
        check_captions(captions, truths=truths)
        return cls.of_facts([facts(c, truth) for c, truth in zip(captions, truths, strict=True)])

    @classmethod
    def of_facts(cls, found: Sequence[Facts]) -> "FactReport":
        """Build the report from the counts of each caption."""
        total = sum(found, start=Facts())
        true, said = [f.true for f in found], [f.said for f in found]
        return cls(
            recall=Mean.of_shares(true, [f.there for f in found]),
            hallucination_rate=Mean.of_shares([f.said - f.true for f in found], said),
            recall_of={kind: total.recall_of(kind) for kind in sorted(total.there_of)},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "recall": self.recall and self.recall.to_dict(),
            "hallucination_rate": self.hallucination_rate and self.hallucination_rate.to_dict(),
            "recall_of": dict(self.recall_of),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipReport:
    """Metrics of captions against their images, for one scorer.

    Attributes:
        scorer: name of the scorer.
        clip_score: 2.5 * max(cosine, 0).
        truncated: number of captions longer than its text window.
        retrieval: retrieval of images by captions; None for fewer captions than a batch.
        f_score: F-CLIPScore of Nam et al.; like the next two, None if words were not scored.
        blamed_words: share of words with a score below `threshold`; None without one.
        threshold: see `misalignment.calibrate`.
    """

    scorer: str
    clip_score: Mean
    truncated: int
    retrieval: Retrieval | None = None
    f_score: Mean | None = None
    blamed_words: Mean | None = None
    threshold: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "scorer": self.scorer,
            "clip_score": self.clip_score.to_dict(),
            "truncated": self.truncated,
            "retrieval": self.retrieval and self.retrieval.to_dict(),
            "f_score": self.f_score and self.f_score.to_dict(),
            "blamed_words": self.blamed_words and self.blamed_words.to_dict(),
            "threshold": self.threshold,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionReport:
    """The result of `score_captions`.

    Attributes:
        captions: number of captions.
        diversity: length and diversity, needed to interpret the other metrics.
        clip: metrics against the images; None without a scorer.
        bleu: BLEU-1 to BLEU-4, from 0 to 1; None without references, like `cider`.
        cider: CIDEr-D, from 0 to 10; None also for a single image.
        facts: metrics against known scenes; None without truths.
        each: for each caption its `clip_score`, `cider`, `words` and counts of `facts`, if
            available.
    """

    captions: int
    diversity: Diversity
    clip: ClipReport | None = None
    bleu: tuple[float, ...] | None = None
    cider: Mean | None = None
    facts: FactReport | None = None
    each: dict[str, list[Any]] = field(default_factory=dict)

    def to_dict(self, *, each: bool = False) -> dict[str, Any]:
        """Plain data for JSON.

        Args:
            each: add the figures of every caption, as lists.
        """
        out: dict[str, Any] = {
            "captions": self.captions,
            "diversity": self.diversity.to_dict(),
            "clip": self.clip and self.clip.to_dict(),
            "bleu": self.bleu and list(self.bleu),
            "cider": self.cider and self.cider.to_dict(),
            "facts": self.facts and self.facts.to_dict(),
        }
        if each:
            out["each"] = {
                name: [_plain(own) for own in values] for name, values in self.each.items()
            }
        return out


def _plain(own: Any) -> Any:
    if isinstance(own, WordScores):
        return own.to_dict()
    if isinstance(own, Facts):
        return {"there": own.there, "said": own.said, "true": own.true}
    return own


def score_captions(
    captions: Sequence[str],
    *,
    images: Sequence[Any] | Tensor | None = None,
    scorer: ClipScorer | None = None,
    references: References | None = None,
    truths: Sequence[SceneTruth] | None = None,
    blame: bool = False,
    threshold: float | None = None,
    prefix: str = PREFIX,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> CaptionReport:
    """Compute all metrics that the given data allow.

    All data are checked before anything is computed.

    Args:
        captions: captions with at least one word.
        images: PIL images, or their vectors from `embed_images` of the scorer.
        scorer: for metrics against images; requires `images`.
        references: human captions, at least one for each caption.
        truths: the contents of the scenes, if known.
        blame: whether to score words with CLIP4DM as well.
        threshold: words with a lower score are marked as wrong; see `misalignment.calibrate`.
        prefix: text before captions whose words are scored; use an empty one for scorers not
            trained on such texts.
        batch: number of images in a batch for retrieval.
        progress: called with the progress of slow metrics.

    Raises:
        OptionError: the data are inconsistent, or cannot be scored.
        LogitsError: the scorer gives NaN.
        MissingExtraError: sacrebleu is needed and not installed.
    """
    check_captions(captions, images=images, references=references, truths=truths)
    if references is not None:
        check_references(captions, references)
    _check_scorer(images, scorer, blame, threshold)
    each: dict[str, list[Any]] = {}
    rare, grams = None, None
    if references is not None:
        grams = bleu(captions, references)
        if len(captions) > 1:
            each["cider"] = cider(captions, references)
            rare = Mean.of(each["cider"])
    if truths is not None:
        pairs = zip(captions, truths, strict=True)
        each["facts"] = [facts(caption, truth) for caption, truth in pairs]
    clip = None
    if scorer is not None and images is not None:
        words = _Words(blame=blame, threshold=threshold, prefix=prefix)
        clip = _against_images(captions, images, scorer, words, batch, each, progress)
    return CaptionReport(
        captions=len(captions),
        diversity=Diversity.of(captions),
        clip=clip,
        bleu=grams,
        cider=rare,
        facts=None if truths is None else FactReport.of_facts(each["facts"]),
        each=each,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """Options of word scoring: whether to score words, the threshold, and the prefix."""

    blame: bool
    threshold: float | None
    prefix: str


def _check_scorer(
    images: Any, scorer: ClipScorer | None, blame: bool, threshold: float | None
) -> None:
    if scorer is not None and images is None:
        raise OptionError("a scorer is given, but no images", hint="Give images")
    if scorer is None and (blame or threshold is not None):
        raise OptionError("blame=True needs a scorer, but none is given", hint="Give a CLIP")
    if threshold is not None and not blame:
        raise OptionError("threshold has no effect without blame=True", hint="Give both")
    if blame and scorer is not None and not scorer.causal:
        raise OptionError(f"only a CLIP can score words, and {scorer.name} is not one")


def _against_images(
    captions: Sequence[str],
    images: Sequence[Any] | Tensor,
    scorer: ClipScorer,
    words: _Words,
    batch: int,
    each: dict[str, list[Any]],
    progress: Progress | None,
) -> ClipReport:
    def telling(what: str) -> Callable[[int, int], None] | None:
        return progress and partial(progress, what)

    seen = images
    if not isinstance(seen, Tensor):
        seen = scorer.embed_images(seen, progress=telling("images"))
    told = scorer.embed_captions(captions, progress=telling("captions"))
    each["clip_score"] = clip_score(seen, told.vectors).tolist()
    blamed = list[WordScores]()
    if words.blame:
        blamed = word_scores(scorer, seen, captions, prefix=words.prefix, progress=telling("words"))
        each["words"] = list(blamed)
    return ClipReport(
        scorer=scorer.name,
        clip_score=Mean.of(each["clip_score"]),
        truncated=len(told.truncated),
        retrieval=(retrieval_rate(told.vectors, seen, batch) if len(captions) >= batch else None),
        f_score=Mean.of([own.f_score for own in blamed]) if words.blame else None,
        blamed_words=_blamed(blamed, words.threshold),
        threshold=words.threshold,
    )


def _blamed(scored: Sequence[WordScores], threshold: float | None) -> Mean | None:
    if threshold is None:
        return None
    return Mean.of_shares(
        [len(own.below(threshold)) for own in scored], [len(own.words) for own in scored]
    )
