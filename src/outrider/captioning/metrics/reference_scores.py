"""Scores against human captions: BLEU with sacrebleu, and CIDEr-D.

They count words that a reference happens to use. A true detail that no reference mentions lowers
both scores, so report them together with scores against the image.
"""

import math
from collections import Counter
from collections.abc import Sequence

from outrider.captioning.metrics.words import check_captions, grams, words
from outrider.core.errors import MissingExtraError, OptionError

References = Sequence[Sequence[str]]
"""For each caption at least one text."""

ORDERS = (1, 2, 3, 4)

_SIGMA = 6.0
_SCALE = 10.0

_Weights = dict[tuple[str, ...], float]


def bleu(captions: Sequence[str], references: References) -> tuple[float, ...]:
    """Compute BLEU-1 to BLEU-4 of all captions together, from 0 to 1 (Papineni et al. 2002).

    Uses sacrebleu, in lower case, with the tokenizer `13a`. One point of sacrebleu is 0.01 here.
    The COCO server uses another tokenizer, so its figures differ slightly.

    Raises:
        OptionError: captions or references that cannot be scored.
        MissingExtraError: sacrebleu is not installed.
    """
    check_references(captions, references)
    most = max(map(len, references))
    streams = [[own[i] if i < len(own) else None for own in references] for i in range(most)]
    scorers = [_sacrebleu()(max_ngram_order=order, lowercase=True) for order in ORDERS]
    return tuple(s.corpus_score(list(captions), streams).score / 100 for s in scorers)


def sentence_bleu(
    captions: Sequence[str], references: References, *, order: int = 4
) -> list[float]:
    """Compute the BLEU of each single caption, from 0 to 1, over runs of up to `order` words.

    Captions shorter than `order` use shorter runs only. For inspecting examples: the mean of these
    scores is not the BLEU of all captions.

    Raises:
        OptionError: captions or references that cannot be scored.
        MissingExtraError: sacrebleu is not installed.
    """
    check_references(captions, references)
    scorer = _sacrebleu()(max_ngram_order=order, lowercase=True, effective_order=True)
    pairs = zip(captions, references, strict=True)
    return [scorer.sentence_score(caption, list(own)).score / 100 for caption, own in pairs]


def cider(captions: Sequence[str], references: References) -> list[float]:
    """Compute the CIDEr-D of each caption, from 0 to 10 (Vedantam et al. 2015, arXiv 1411.5726).

    The mean over references and over runs of one to four words of the cosine between tf-idf
    weights, the caption's clipped to the reference's, times exp(-d^2 / 72), d being the difference
    in words, times 10. The idf is computed from these references, so values depend on the set:
    compare only captions of the same images. A text of fewer than four words, or with only runs
    that all images share, cannot reach 10.

    Words are split by `words`, not by the Penn Treebank tokenizer of the COCO server.

    Raises:
        OptionError: captions or references that cannot be scored, or a single image, for which
            every weight would be zero.
    """
    check_references(captions, references)
    if len(captions) < 2:
        raise OptionError(
            "CIDEr-D needs several images: with a single one, every word has weight zero",
            hint="Give more images",
        )
    told = [[words(reference) for reference in own] for own in references]
    images = _images_with(told)
    scores: list[float] = []
    for caption, own in zip(captions, told, strict=True):
        said = words(caption)
        similar = [_similar(said, reference, images, len(captions)) for reference in own]
        scores.append(_SCALE * sum(similar) / len(similar))
    return scores


def check_references(captions: Sequence[str], references: References) -> None:
    """Refuse captions without words, and images without a reference.

    Raises:
        OptionError: a caption or image is refused; the message names it.
    """
    check_captions(captions, references=references)
    for place, own in enumerate(references):
        if isinstance(own, str):
            raise OptionError(
                f"references of caption {place} are a text, not a list", hint="Give a list of texts"
            )
        if not len(own):
            raise OptionError(
                f"caption {place} has no references",
                hint="Give references, or leave this caption out",
            )
        try:
            check_captions(own)
        except OptionError as error:
            raise OptionError(f"references of caption {place}: {error.problem}") from error


def _sacrebleu() -> type:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingExtraError("sacrebleu", "vision") from error
    return BLEU


def _images_with(told: Sequence[Sequence[Sequence[str]]]) -> Counter[tuple[str, ...]]:
    """Count for each run of words how many images have a reference with it."""
    found: Counter[tuple[str, ...]] = Counter()
    for own in told:
        found.update({g for reference in own for n in ORDERS for g in grams(reference, n)})
    return found


def _similar(
    said: Sequence[str],
    reference: Sequence[str],
    images: Counter[tuple[str, ...]],
    num_images: int,
) -> float:
    """Return the mean similarity over orders, from 0 to 1."""
    total = 0.0
    for order in ORDERS:
        mine = _weights(said, order, images, num_images)
        theirs = _weights(reference, order, images, num_images)
        lengths = _length(mine) * _length(theirs)
        if lengths:
            shared = (min(mine[g], theirs[g]) * theirs[g] for g in mine.keys() & theirs.keys())
            total += math.fsum(shared) / lengths
    longer = len(said) - len(reference)
    return total / len(ORDERS) * math.exp(-(longer**2) / (2 * _SIGMA**2))


def _weights(
    spoken: Sequence[str], order: int, images: Counter[tuple[str, ...]], num_images: int
) -> _Weights:
    """Return for each run its count times log(images / images whose references have it)."""
    counts = Counter(grams(spoken, order))
    return {g: n * math.log(num_images / max(images[g], 1)) for g, n in counts.items()}


def _length(weights: _Weights) -> float:
    return math.sqrt(math.fsum(w * w for w in weights.values()))
