"""Measures what fewer bits of weights and caches cost: the divergence from float32 arithmetic.

Two texts are read in float32 and in the other dtypes: one that ships with the package, and one that
the model writes itself. At each position the Kullback-Leibler divergence between the two
distributions is the expected rise of the loss on text that float32 would write. The result is
cached on disk under the fingerprint of the checkpoint.
"""

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from outrider.core.checks import SHARE, Range
from outrider.core.errors import OptionError, OutriderError
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.kernels.cache import private_folder, read_private, write_private
from outrider.kernels.library import cores
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.cpu.cache import CACHE_DTYPES
from outrider.models.cpu.formats import FORMATS, Format, lossless
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.base import cache_layout
from outrider.models.llama.config import read_config
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams

_LOG = logging.getLogger("outrider")

MOST_KL = 0.005
"""`auto` uses the fastest dtype whose mean divergence is at most this, in nats per token."""

SMALL_CACHE = 32 << 20
"""`auto` keeps a cache in float32 if one of a whole window has at most this number of bytes."""

LARGE_CACHE = 256 << 20
"""`auto` tries 8 bits if a cache of a whole window in bfloat16 has more bytes than this."""

MOST_BYTES = 4 << 30
"""Models with more bytes of float32 weights are not checked: it would take minutes."""

_READ = 448
_WRITTEN = 64
_CHUNK = 64
"""Rows of logits that are compared at once, to bound the memory."""
_VERSION = 3

_NATS = Range(-1e6, 1e6)
_FIGURES = {"loss": _NATS, "kl": _NATS, "agreement": SHARE, "tokens": Range(1, whole=True)}
"""Possible values of the fields of a `Quality`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """A dtype against float32 on `tokens` positions.

    Attributes:
        loss: mean entropy of the float32 model, nats per token.
        kl: mean divergence from float32, nats per token.
        agreement: share of positions with the same best token.
    """

    loss: float
    kl: float
    agreement: float
    tokens: int

    @property
    def good(self) -> bool:
        """Whether the divergence is small enough for `auto`."""
        return self.kl <= MOST_KL

    def __str__(self) -> str:
        """Show the figures in a few words."""
        return f"KL {self.kl:.4f} to float32, the same best token at {self.agreement:.1%}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The dtypes that `auto` takes, and the reason in a few words."""

    format: Format
    reason: str
    cache: str = "float32"


def choose(
    checkpoint: Checkpoint,
    given: Format | None = None,
    *,
    cache: str | None = None,
    context_length: int | None = None,
) -> Choice:
    """Return the fastest dtypes of good quality for the compiled runner; measure what is unknown.

    Args:
        checkpoint: the checkpoint.
        given: the dtype of the weights; None chooses one.
        cache: the dtype of keys and values; None chooses one.
        context_length: most tokens of a text; None is the window of the model.
    """
    reference = Reference(checkpoint)
    weights = _choose_weights(checkpoint, reference) if given is None else Choice(given, "")
    if cache is not None:
        return replace(weights, cache=cache)
    return _choose_cache(checkpoint, weights, context_length, reference)


def _choose_cache(
    checkpoint: Checkpoint, weights: Choice, context_length: int | None, reference: "Reference"
) -> Choice:
    """Return the first candidate of good quality, together with the weights.

    bfloat16 is not measured where the user has given the dtype of the weights: its own divergence,
    about 0.00003, is not worth the seconds of a check.
    """
    for cache in cache_candidates(checkpoint, weights.format, context_length):
        if not checkable(checkpoint) or (cache == "bfloat16" and not weights.reason):
            return replace(weights, cache="bfloat16")
        quality = quality_of(checkpoint, weights.format, reference, cache)
        if quality.good:
            reason = weights.reason and f"{quality}; the limit is {MOST_KL}"
            return replace(weights, cache=cache, reason=reason)
    return weights


def cache_candidates(
    checkpoint: Checkpoint, weights: Format, context_length: int | None = None
) -> tuple[str, ...]:
    """Return the dtypes of keys and values that `auto` tries before float32, smallest first.

    There are none for a small cache, and 8 bits are tried for a large one only: in short texts they
    save no time. Weights in floating point are not combined with a cache of fewer bits than their
    own, so that float32 means float32 everywhere.
    """
    config = read_config(checkpoint.config)
    window = min(context_length or config.context_length, config.context_length)
    brief = cache_layout(config, torch.bfloat16).bytes_per_token * window
    if weights.name == "float32" or 2 * brief <= SMALL_CACHE:
        return ()
    wide = weights.name in ("bfloat16", "float16") or brief <= LARGE_CACHE
    return ("bfloat16",) if wide else ("int8", "bfloat16")


def _choose_weights(checkpoint: Checkpoint, reference: "Reference") -> Choice:
    """Return the fastest dtype of weights with good quality, with a cache in float32.

    Candidates, fastest first: what the file stores, if it is quantised; else 8 bits with a scale
    for each output, then for each group of 32 inputs; a dtype of two bytes that holds the weights
    exactly; float32.
    """
    exact = lossless(checkpoint)
    if not checkable(checkpoint):
        reason = f"more than {MOST_BYTES >> 30} GiB in float32 are not checked for quality"
        return Choice(exact, reason)
    stored = exact.name == "stored"
    candidates = ("stored",) if stored else ("int8-channels", "int8")
    worse = list[str]()
    for name in candidates:
        quality = quality_of(checkpoint, FORMATS[name], reference)
        if quality.good:
            return Choice(FORMATS[name], f"{quality}; the limit is {MOST_KL}")
        worse.append(f"{name} has KL {quality.kl:.4f}")
    reason = f"{', '.join(worse)} to float32; the limit is {MOST_KL}"
    return Choice(FORMATS["float32"] if stored else exact, reason)


def checkable(checkpoint: Checkpoint) -> bool:
    """Whether the model is small enough for a check during loading."""
    return checkpoint.num_parameters * 4 <= MOST_BYTES


class Reference:
    """The float32 model of a checkpoint and the texts that are compared, built when needed."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._other: tuple[Format, NativeDecoder] | None = None

    def other(self, wanted: Format) -> NativeDecoder:
        """Return the model with weights in another dtype; the last one is kept."""
        if self._other is None or self._other[0] != wanted:
            self._other = None  # frees its memory first
            model = NativeDecoder.load(self.checkpoint, dtype=wanted.dtype, threads=cores())
            self._other = wanted, model
        return self._other[1]

    @cached_property
    def model(self) -> NativeDecoder:
        """The float32 model."""
        return NativeDecoder.load(self.checkpoint, dtype=torch.float32, threads=cores())

    @cached_property
    def texts(self) -> list[list[int]]:
        """Token ids of the text that ships and of one that the model writes."""
        window = self.model.info.context_length
        written = sample(self.model, min(_WRITTEN, window - 1))
        return [ids[:window] for ids in (_text(self.checkpoint), written) if ids]

    @cached_property
    def logits(self) -> list[torch.Tensor]:
        """The logits of each text, `[tokens, vocab]`."""
        return [read(self.model, ids) for ids in self.texts]


def quality_of(
    checkpoint: Checkpoint,
    other: Format,
    reference: Reference | None = None,
    cache: str = "float32",
) -> Quality:
    """Return the quality of dtypes of weights and cache from disk, or measure it."""
    if (known := known_quality(checkpoint, other, cache)) is not None:
        return known
    reference = reference or Reference(checkpoint)
    what = f"weights {other.name}, cache {cache}"
    _LOG.info("measuring %s against float32 (once; the result is kept on disk)", what)
    brief = reference.other(other).with_cache(CACHE_DTYPES[cache])
    logits = [read(brief, ids) for ids in reference.texts]
    quality = compare(reference.logits, logits)
    with suppress(OSError):  # without the cache, the next load measures again
        write_private(_file(checkpoint, other, cache), json.dumps(asdict(quality)).encode())
    return quality


def known_quality(checkpoint: Checkpoint, other: Format, cache: str = "float32") -> Quality | None:
    """Return the cached result of an earlier check; None if there is none, or it is damaged."""
    try:
        return _parsed(json.loads(read_private(_file(checkpoint, other, cache))))
    except (OSError, ValueError, RecursionError):
        return None


def _parsed(found: object) -> Quality | None:
    """Return the record of a JSON value; None if it is not one with possible figures."""
    if not isinstance(found, dict):
        return None
    given = cast("dict[str, object]", found)
    if set(given) != {field.name for field in fields(Quality)}:
        return None
    try:
        for name, value in given.items():
            _FIGURES[name].check(name, value)
    except OptionError:
        return None
    return Quality(**cast("dict[str, Any]", given))


def _file(checkpoint: Checkpoint, other: Format, cache: str = "float32") -> Path:
    name = other.name if cache == "float32" else f"{other.name}-cache-{cache}"
    return private_folder("quality") / f"{checkpoint.fingerprint}-{name}-{_VERSION}.json"


def compare(exact: Sequence[torch.Tensor], brief: Sequence[torch.Tensor]) -> Quality:
    """Compare logits `[tokens, vocab]` of some texts with those of the float32 model."""
    loss = kl = equal = 0.0
    pairs = [
        pair
        for both in zip(exact, brief, strict=True)
        for pair in zip(*(logits.split(_CHUNK) for logits in both), strict=True)
    ]
    for own, other in pairs:
        logp, logq = own.log_softmax(-1), other.log_softmax(-1)
        p = logp.exp()
        loss -= float((p * logp).double().sum())
        kl += float((p * (logp - logq)).double().sum())
        equal += float((own.argmax(-1) == other.argmax(-1)).sum())
    tokens = sum(len(own) for own, _ in pairs)
    return Quality(loss=loss / tokens, kl=kl / tokens, agreement=equal / tokens, tokens=tokens)


def _text(checkpoint: Checkpoint) -> list[int]:
    """Return ids of the text that ships; none without a tokenizer that fits the model."""
    try:
        tokenizer = Tokenizer.load(checkpoint.path)
    except OutriderError:
        return []
    text = Path(__file__).with_name("quality_text.txt").read_text(encoding="utf-8")
    ids = list(tokenizer.encode(text))[:_READ]
    vocabulary = int(checkpoint.config.get("vocab_size") or 0)
    return ids if max(ids, default=0) < vocabulary else []


def sample(model: NativeDecoder, length: int) -> list[int]:
    """Write a text at temperature 1, from a random first token."""
    generator = torch.Generator().manual_seed(0)
    first = int(torch.randint(model.info.vocab_size, (1,), generator=generator))
    [cache] = model.start([Prompt(token_ids=(first,))])
    sampler = Sampler(SamplingParams(temperature=1.0, seed=0))
    written = model.write_chains([ChainRequest(Segment(cache, NO_IDS), sampler, (), length - 1)])
    assert written is not None  # every model supports a plain sampler
    return [first, *written[0].tolist()]


def read(model: NativeDecoder, ids: Sequence[int]) -> torch.Tensor:
    """Return the logits `[tokens, vocab]` of the token after each token of the text."""
    [cache] = model.start([Prompt(token_ids=(ids[0],))])
    want = as_ids([-1, *range(len(ids) - 1)])
    [rows] = model.forward([Segment(cache, as_ids(ids[1:]))], [want])
    return rows.logits
