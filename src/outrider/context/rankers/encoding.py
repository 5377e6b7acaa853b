"""Encoders by name."""

from outrider.context.rankers.embeddings import Embed, EmbeddingEncoder
from outrider.context.rankers.encoders import Encoder
from outrider.context.rankers.sentence import MINILM, SentenceEncoder
from outrider.core.errors import OptionError


def make_encoder(encoder: str | Encoder, embed: Embed | None = None) -> Encoder:
    """`auto`, `minilm`, `embeddings`, a folder or hub name; or an `Encoder`, which is returned.

    `auto` is `embeddings` where `embed` is given, which takes no package and next to no time and
    finds as much (docs/results.md), else `minilm`.

    Raises:
        MissingExtraError: a package that this encoder needs is not installed.
        OptionError: there is no such encoder, or it can not be had without `embed`.
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
