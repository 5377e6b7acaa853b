"""CLIP4DM: finds words of a caption that disagree with the image (arXiv 2412.18404).

The gradient of the cosine s between image and text with respect to the attention of the last text
layers is computed. If more attention of the end token to a word would lower s, the word disagrees
with the image. No training; one forward, and one backward through the last layers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.captioning.metrics.clip import ClipScorer, Encoded, Progress, clip_score, features_of
from outrider.captioning.metrics.words import check_captions, word_spans
from outrider.core.errors import LogitsError, OptionError

PREFIX = "A photo depicts "
"""Prepended to every caption; its words are never reported. Use none for scorers that were
trained on other sentences.
"""

LAYERS = 3

CLEAN_PAIRS = 200
"""Recommended number of pairs for `calibrate`."""

CLEAN_SHARE = 0.01
"""Share of the words of clean captions that a calibrated threshold marks as wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordScores:
    """The effect of each word of a caption on its similarity to the image.

    Attributes:
        words: words of the caption, as written.
        spans: start and end of each word in the caption.
        scores: score of each word, the mean over its tokens; a negative score means that it
            disagrees.
        similarity: s, the cosine of the image and the caption with its prefix.
        unread: number of words after the end of the text window, which have no score.
    """

    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    scores: tuple[float, ...]
    similarity: float
    unread: tuple[str, ...] = ()

    @property
    def f_score(self) -> float:
        """The F-CLIPScore of Nam et al.: (sum of negative scores) * (1 - s). At most 0; 0 is clean.

        The F-CLIPScore of Oh and Hwang is a different score: `phrase_score`.
        """
        return sum(min(score, 0.0) for score in self.scores) * (1.0 - self.similarity)

    @property
    def worst(self) -> int | None:
        """Index of the word with the lowest score, for captions with exactly one wrong word."""
        if not self.scores:
            return None
        return min(range(len(self.scores)), key=self.scores.__getitem__)

    def below(self, threshold: float) -> tuple[int, ...]:
        """Return the indices of words with a score below `threshold` (see `calibrate`)."""
        return tuple(place for place, score in enumerate(self.scores) if score < threshold)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"f_score": self.f_score}


def word_scores(
    scorer: ClipScorer,
    images: Sequence[Any] | Tensor,
    captions: Sequence[str],
    *,
    layers: int = LAYERS,
    prefix: str = PREFIX,
    progress: Progress | None = None,
) -> list[WordScores]:
    """Compute R = mean over layers and heads of (ds/dA * A), the end token's row, averaged by word.

    A is the attention maps of the last text layers. Negative parts are kept, and layers are not
    multiplied. The scores of a caption do not depend on its batch, except for rounding.

    Args:
        scorer: a CLIP. Scores are small (1e-5 to 1e-2), and their scale depends on the model. Signs
            are valid only if s is above 0, as in CLIPs trained on web data. If s is below 0, the
            cosine rises when the end token attends less to the words, so that wrong words get
            positive scores.
        images: one for each caption: PIL images, or their vectors from `ClipScorer.embed_images`.
        captions: captions with at least one word.
        layers: number of layers of the text part, counted from its end; all if it has fewer.
        prefix: text before each caption.
        progress: called with the number of captions.

    Raises:
        OptionError: numbers differ, a value cannot be scored, or the scorer reads texts in both
            directions.
        LogitsError: the model gives NaN.
    """
    check_captions(captions, images=images)
    if not scorer.causal:
        raise OptionError(
            f"only a CLIP can score words, but {scorer.name} is a {scorer.model.config.model_type}",
            hint="Give a CLIP model",
        )
    if layers < 1:
        raise OptionError(f"layers is {layers}", hint="Give 1 or more")
    seen = images if isinstance(images, Tensor) else scorer.embed_images(images)
    found: list[WordScores] = []
    for start in range(0, len(captions), scorer.batch_size):
        own = captions[start : start + scorer.batch_size]
        encoded = scorer.encode([prefix + caption for caption in own])
        relevance, similar = _relevance(scorer, encoded, seen[start : start + len(own)], layers)
        ends = scorer.ends(encoded.ids).tolist()
        for i, caption in enumerate(own):
            if not bool(relevance[i].isfinite().all()):
                raise LogitsError(f"{scorer.name} gives NaN for caption {start + i}")
            pieces = list(zip(encoded.spans[i], relevance[i].tolist(), strict=True))[: ends[i]]
            found.append(_by_word(caption, len(prefix), pieces, float(similar[i])))
        if progress is not None:
            progress(start + len(own), len(captions))
    return found


def calibrate(clean: Sequence[WordScores], *, share: float = CLEAN_SHARE) -> float:
    """Return the threshold below which this share of the words of clean captions lies; at most 0.

    The -5e-5 of the paper is for its CLIP in half precision: the scale of scores differs between
    models.

    Args:
        clean: scores of captions known to be correct, about `CLEAN_PAIRS` of them.
        share: share of their words, above 0 and below 1.

    Raises:
        OptionError: the share is out of range, or there are too few words to measure it.
    """
    if not 0.0 < share < 1.0:
        raise OptionError(f"share {share} is not between 0 and 1", hint="Give 0.01")
    scores = torch.tensor([s for own in clean for s in own.scores], dtype=torch.float64)
    if len(scores) * share < 1.0:
        raise OptionError(
            f"{len(scores)} words are too few to measure a share of {share:g}",
            hint=f"Give about {CLEAN_PAIRS} clean captions",
        )
    return min(float(torch.quantile(scores, share)), 0.0)


def phrase_score(
    scorer: ClipScorer,
    images: Sequence[Any] | Tensor,
    captions: Sequence[str],
    phrases: Sequence[Sequence[str]],
) -> list[float]:
    """Compute the F-CLIPScore of Oh and Hwang: the mean CLIPScore of a caption and its noun
    phrases.

    arXiv 2502.20034. For a caption without phrases it is the CLIPScore.

    Args:
        scorer: a CLIP or SigLIP.
        images: one for each caption: PIL images, or their vectors from `ClipScorer.embed_images`.
        captions: captions with at least one word.
        phrases: the noun phrases of each caption; Outrider does not parse captions.

    Raises:
        OptionError: numbers differ, or a value cannot be scored.
    """
    check_captions(captions, images=images, phrases=phrases)
    seen = images if isinstance(images, Tensor) else scorer.embed_images(images)
    texts = [[caption, *own] for caption, own in zip(captions, phrases, strict=True)]
    owner = [place for place, own in enumerate(texts) for _ in own]
    told = scorer.embed_captions([text for own in texts for text in own])
    scores = clip_score(seen[owner], told.vectors).split([len(own) for own in texts])
    return [float(own.mean()) for own in scores]


def _relevance(
    scorer: ClipScorer, encoded: Encoded, seen: Tensor, layers: int
) -> tuple[Float[Tensor, "texts length"], Float[Tensor, " texts"]]:
    """Compute for each id the effect on s of attention to it, and s."""
    ids = encoded.ids.to(scorer.model.device)
    with torch.enable_grad(), _attention(scorer.model.text_model, layers) as maps:
        output = scorer.model.get_text_features(input_ids=ids, output_attentions=True)
        told = torch.nn.functional.normalize(features_of(output), dim=-1)
        similar = (told * seen.to(told).clone()).sum(dim=-1)
        # Texts are independent: the gradient of the sum holds the gradient of each.
        slopes = torch.autograd.grad(similar.sum(), maps)
    pulls = [(slope * one).detach().mean(dim=1) for slope, one in zip(slopes, maps, strict=True)]
    rows = torch.arange(len(ids), device=ids.device)
    from_end = torch.stack(pulls).mean(dim=0)[rows, scorer.ends(ids)]
    return from_end.float().cpu(), similar.detach().float().cpu()


@contextmanager
def _attention(text_model: Any, layers: int) -> Iterator[list[Tensor]]:
    """Context manager: collect the attention maps of the last layers; gradients stop there."""
    maps: list[Tensor] = []
    last = list(text_model.encoder.layers)[-layers:]
    hooks = [last[0].register_forward_pre_hook(_from_here, with_kwargs=True)]
    for layer in last:
        hooks.append(layer.self_attn.register_forward_hook(lambda _m, _i, out: maps.append(out[1])))
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def _from_here(_module: Any, given: Any, named: Any) -> tuple[Any, Any]:
    hidden = named.get("hidden_states", given[0] if given else None)
    hidden = hidden.detach().requires_grad_()
    if "hidden_states" in named:
        return given, {**named, "hidden_states": hidden}
    return (hidden, *given[1:]), named


def _by_word(
    caption: str, offset: int, pieces: Sequence[tuple[tuple[int, int], float]], similarity: float
) -> WordScores:
    """Average the scores of tokens inside each word; skip the prefix and punctuation."""
    words, spans, scores, unread = [], [], [], []
    for start, stop in word_spans(caption):
        own = [
            score
            for (begin, end), score in pieces
            if begin < stop + offset and end > start + offset
        ]
        if own:
            words.append(caption[start:stop])
            spans.append((start, stop))
            scores.append(sum(own) / len(own))
        else:
            unread.append(caption[start:stop])
    return WordScores(
        words=tuple(words),
        spans=tuple(spans),
        scores=tuple(scores),
        similarity=similarity,
        unread=tuple(unread),
    )
