"""How long and how varied captions are. It stands beside every other score.

Longer captions, or duller ones, move CLIPScore and CIDEr without being better or worse: a score
that moved together with these figures says less than one that moved alone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from outrider.captioning.metrics.words import check_captions, grams, words
from outrider.core.metrics import ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """Length and variety of a set of captions.

    Attributes:
        mean_words: words in a caption.
        vocabulary: different words in all of them.
        distinct_1: different words / words (Li et al. 2016, arXiv 1510.03055). It falls as a set
            grows: compare sets of one size.
        distinct_2: the same of pairs of neighbours; 0 where no caption has two words.
        distinct_captions: different captions / captions, case and punctuation aside.
    """

    mean_words: float
    vocabulary: int
    distinct_1: float
    distinct_2: float
    distinct_captions: float

    @classmethod
    def of(cls, captions: Sequence[str]) -> "Diversity":
        """Raises `OptionError` for no captions, or one without words."""
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
        """Plain numbers."""
        return asdict(self)


def distinct(spoken: Sequence[Sequence[str]], length: int) -> float:
    """Different runs of `length` words / all of them, over captions given as words."""
    found = [gram for caption in spoken for gram in grams(caption, length)]
    return ratio(len(set(found)), len(found))
