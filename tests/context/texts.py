"""Small texts with facts in them, and a tokenizer of whole words."""

import re
from collections.abc import Sequence
from itertools import accumulate

from outrider.core.types import LongContext, Passage
from outrider.inputs.documents.chunks import cut

TOPICS = (
    "The harbour was full of fishing boats, and gulls cried over the nets.",
    "Bread should rest for an hour before it goes into a hot oven.",
    "The court adjourned, since neither witness had appeared that morning.",
    "Snow lay on the pass until May, and no coach could cross it.",
    "A violin needs new strings when its tone turns dull and thin.",
    "The gardener cut back the roses and raked leaves from the path.",
    "Our train stopped twice in the tunnel without any explanation.",
    "Copper conducts heat well, so the old pans were made of it.",
    "The general studied his map while the cavalry waited by the river.",
    "Children painted the fence in four colours during the holidays.",
    "The bank raised its interest, and many farmers could not pay.",
    "Astronomers saw a faint comet near the edge of the constellation.",
)


class Words:
    """Each new word is the next id."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def passage(self, text: str) -> Passage:
        words = re.findall(r"\s*\S+\s*$|\s*\S+", text)
        for word in words:
            if word not in self.words:
                self.words.append(word)
        return Passage(text, tuple(self.words.index(word) for word in words))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.words[i] for i in ids)


def document(
    words: Words, facts: dict[int, str], question: str, *, paragraphs: int = 12, size: int = 48
) -> LongContext:
    """Paragraphs of filler, facts at the end of some of them, in chunks of about `size` words."""
    parts = []
    for i in range(paragraphs):
        filler = [TOPICS[(i + 5 * j) % len(TOPICS)] for j in range(4)]
        parts.append(" ".join([*filler, facts[i]] if i in facts else filler))
    whole = words.passage("\n\n".join(parts))
    ends = list(accumulate(len(words.words[i]) for i in whole.token_ids))
    chunks = cut(whole.text, whole.token_ids, ends, size)
    return LongContext(start=0, chunks=chunks, query=words.passage(question), decode=words.decode)


def holding(context: LongContext, fact: str) -> int:
    """The chunk that holds a fact."""
    return next(i for i, chunk in enumerate(context.chunks) if fact in chunk.text)
