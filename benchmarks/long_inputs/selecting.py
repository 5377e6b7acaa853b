"""Selections without a model: a forced continuation, and what is read after each look."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.long_inputs.encoding import Remembered
from benchmarks.long_inputs.inputs.texts import Library

from outrider.context.config import ContextConfig
from outrider.context.rankers.apce import SUCCESSION, WORDS, BlendedRanker
from outrider.context.rankers.cosine import WINDOW, CosineRanker
from outrider.context.rankers.embeddings import EmbeddingEncoder
from outrider.context.rankers.encoders import Encoder
from outrider.context.rankers.make import make_ranker
from outrider.context.rankers.ranking import Ranker
from outrider.context.rankers.sentence import SentenceEncoder
from outrider.context.selection import Decision, Selection
from outrider.core.types import LongContext, Passage
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.llama.decoder import Decoder
from outrider.models.sources.families import family

SELECTORS = (
    "first",
    "ends",
    "random",
    "bm25",
    "static (minilm)",
    "static (embeddings)",
    "cosine (minilm)",
    "cosine (embeddings)",
    "apce (minilm)",
    "apce (embeddings)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What all selections share.

    Attributes:
        library: texts, tokenised by the family's tokenizer.
        encoders: by name: `minilm` with vectors kept on disk, `embeddings` of the tiny target.
    """

    library: Library
    encoders: dict[str, Encoder]

    @classmethod
    def open(cls, kept: Path) -> "Workshop":
        """With vectors of MiniLM kept in the folder `kept`."""
        import logging

        import bm25s  # noqa: F401  # sets the level of its log when it is imported
        import torch

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every index
        target = Decoder.load(family("tiny")["target"], dtype=torch.float32)
        minilm = Remembered(SentenceEncoder(device="cpu"), kept / "minilm.vectors")
        return cls(
            library=Library(Tokenizer.load(family("tiny")["target"])),
            encoders={"minilm": minilm, "embeddings": EmbeddingEncoder(target.embed)},
        )

    def ranker(
        self,
        selector: str,
        seed: int,
        *,
        window: float = WINDOW,
        words: float = WORDS,
        succession: float = SUCCESSION,
    ) -> Ranker:
        """A ranker by its name as in `SELECTORS`: one of the package's, and its encoder.

        Args:
            selector: the name.
            seed: of `random`.
            window: tokens of a passage window, for blends; 0 for whole chunks.
            words: share of words, for blends.
            succession: what a chunk lends to the next, for blends.
        """
        name, _, rest = selector.partition(" (")
        encoder = self.encoders.get(rest.rstrip(")"), self.encoders["minilm"])
        made = make_ranker(ContextConfig(selector=name, encoder=encoder, seed=seed))
        if not isinstance(made, BlendedRanker):
            return made
        meaning = CosineRanker(encoder, window=int(window) or None)
        return replace(made, meaning=meaning, words=words, succession=succession)


def begun(context: LongContext, ranker: Ranker, config: ContextConfig) -> Selection:
    """A selection that has made its first choice. Room is that of the k largest chunks."""
    sizes = sorted((len(chunk) for chunk in context.chunks), reverse=True)
    selection = Selection(
        context, ranker.index(context), config, sum(sizes[: config.kept(len(sizes))])
    )
    selection.begin()
    return selection


def write(selection: Selection, ids: Sequence[int]) -> list[Decision]:
    """Force `ids` to be written; all decisions, the first choice included."""
    config, context = selection.config, selection.context
    assert context.decode is not None
    every = config.refresh
    for due in range(every, len(ids) + 1, every) if every else ():
        recent = tuple(ids[max(due - config.query_window, 0) : due])
        selection.refresh(due, Passage(context.decode(recent), recent))
    return selection.decisions


def settings_of(args: Any) -> dict[str, Any]:
    """The options of a script that decide about its figures."""
    return {k: v for k, v in sorted(vars(args).items()) if k not in ("out", "data", "kept")}


def changed(config: ContextConfig, **settings: Any) -> ContextConfig:
    """`config` with other settings."""
    return replace(config, **settings)
