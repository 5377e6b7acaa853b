"""Length and diversity of captions, reported next to every other score.

Longer or more uniform captions change CLIPScore and CIDEr without being better or worse. If a score
changes together with these figures, the change is less conclusive.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from outrider.captioning.metrics.words import check_captions, grams, words
from outrider.core.metrics import ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """Length and diversity of a set of captions.

    Attributes:
        mean_words: mean number of words in a caption.
        vocabulary: number of different words in all captions.
        distinct_1: different words / words (Li et al. 2016, arXiv 1510.03055). It falls as a set
            grows, so compare sets of equal size.
        distinct_2: the same for pairs of adjacent words; 0 if no caption has two words.
        distinct_captions: different captions / captions, ignoring case and punctuation.
    """

    mean_words: float
    vocabulary: int
    distinct_1: float
    distinct_2: float
    distinct_captions: float

    @classmethod
    def of(cls, captions: Sequence[str]) -> "Diversity":
        """Compute the figures. Raises `OptionError` if there are no captions, or one has no
        words.
        """
        check_captions(captions)
        spoken = [tuple(words(caption)) for caption in captions]
        return cls(
            mean_words=sum(map(len, spoken)) / len(spoken),
            vocabulary=len({word for caption in spoken for word in caption}),
            distinct_1=distinct(spoken, 1),
            distinct_2=distinct(spoken, 2),
            distinct_captions=len(set(spoken)) / len(spoken),
        )

    def to_dict(self) -> dict[str, float]:
        """Return plain numbers for JSON."""
        return asdict(self)


def distinct(spoken: Sequence[Sequence[str]], length: int) -> float:
    """Return the share of distinct runs of `length` words, over captions given as words."""
    found = [gram for caption in spoken for gram in grams(caption, length)]
    return ratio(len(set(found)), len(found))
