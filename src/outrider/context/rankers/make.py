"""Rankers by name: what a `ContextConfig` asks for."""

from collections.abc import Callable
from dataclasses import replace

from outrider.context.config import SELECTORS, ContextConfig
from outrider.context.rankers import baselines
from outrider.context.rankers.blend import BlendedRanker
from outrider.context.rankers.bm25 import Bm25Ranker
from outrider.context.rankers.cosine import CosineRanker
from outrider.context.rankers.embeddings import Embed, EmbeddingEncoder
from outrider.context.rankers.encoders import Encoder
from outrider.context.rankers.ranking import Ranker
from outrider.context.rankers.sentence import MINILM, SentenceEncoder
from outrider.core.errors import OptionError


def make_ranker(config: ContextConfig, embed: Embed | None = None) -> Ranker:
    """The ranker of `config.selector`, with the encoder of `config.encoder`.

    Nothing is loaded yet. One ranker may serve several models: what it learns of an input is kept
    for all of them.

    Args:
        config: names the selector and the encoder.
        embed: the input embeddings of a model, for the encoder `embeddings`.

    Raises:
        MissingExtraError: a package that this ranker needs is not installed.
        OptionError: there is no such encoder, or it can not be had without `embed`.
    """
    return _RANKERS[config.selector](config, embed)


def make_encoder(encoder: str | Encoder, embed: Embed | None = None) -> Encoder:
    """`auto`, `minilm`, `embeddings`, a folder or hub name; or an `Encoder`, which is returned.

    `auto` is `embeddings` where `embed` is given, which takes no package and next to no time and
    finds as much (docs/results.md), else `minilm`. Raises
    what `make_ranker` does.
    """
    if not isinstance(encoder, str):
        if isinstance(encoder, Encoder):
            return encoder
        raise OptionError(
            f"encoder is {encoder!r}", hint="Give a name, or an object with `name` and `encode`"
        )
    if encoder == "embeddings" or (encoder == "auto" and embed is not None):
        if embed is None:
            raise OptionError(
                "the encoder 'embeddings' needs the input embeddings of a model, which this one "
                "does not give",
                hint=f"Use encoder={MINILM!r}",
            )
        return EmbeddingEncoder(embed)
    found = SentenceEncoder(MINILM if encoder == "auto" else encoder)
    found.check()
    return found


def _apce(config: ContextConfig, embed: Embed | None) -> BlendedRanker:
    return BlendedRanker(
        CosineRanker(make_encoder(config.encoder, embed)),
        Bm25Ranker() if Bm25Ranker.installed() else None,
    )


def _static(config: ContextConfig, embed: Embed | None) -> Ranker:
    return replace(_apce(config, embed), name="static", refreshes=False)


_RANKERS: dict[str, Callable[[ContextConfig, Embed | None], Ranker]] = {
    "apce": _apce,
    "static": _static,
    "cosine": lambda config, embed: CosineRanker(make_encoder(config.encoder, embed)),
    "bm25": lambda config, embed: Bm25Ranker(),
    "first": lambda config, embed: baselines.first(),
    "ends": lambda config, embed: baselines.ends(),
    "random": lambda config, embed: baselines.random(config.seed),
}
assert _RANKERS.keys() == SELECTORS.keys()
