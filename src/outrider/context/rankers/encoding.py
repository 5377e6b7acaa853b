"""Builds encoders by name."""

from outrider.context.rankers.embeddings import Embed, EmbeddingEncoder
from outrider.context.rankers.encoders import Encoder
from outrider.context.rankers.sentence import MINILM, SentenceEncoder
from outrider.core.errors import OptionError


def make_encoder(encoder: str | Encoder, embed: Embed | None = None) -> Encoder:
    """Build the encoder `auto`, `minilm`, `embeddings`, a folder or hub name; return an `Encoder`
    as is.

    `auto` is `embeddings` if `embed` is given, else `minilm`. `embeddings` needs no package and
    almost no time, and finds as much (docs/results.md).

    Raises:
        MissingExtraError: a package that this encoder needs is not installed.
        OptionError: the encoder does not exist, or it needs `embed`.
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
                "the encoder 'embeddings' needs the input embeddings of the model, which does not "
                "provide them",
                hint=f"Use encoder={MINILM!r}",
            )
        return EmbeddingEncoder(embed)
    found = SentenceEncoder(MINILM if encoder == "auto" else encoder)
    found.check()
    return found
