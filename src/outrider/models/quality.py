"""Measures the loss of quality through int8: the expected rise of the loss on the model's own text.

The float32 model writes a sample. At each position the Kullback-Leibler divergence from its
distribution to the int8 one equals the expected rise of the loss when int8 predicts text written by
float32. No other text is needed, and the result is cached on disk under the model's fingerprint.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch

from outrider.core.checks import SHARE, Range
from outrider.core.errors import OptionError
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.kernels.cache import private_folder, read_private, write_private
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.cpu.native import NativeDecoder
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams

MOST_LOSS_RISE = 0.01
"""`auto` uses int8 if the loss rises by less than this share."""

MOST_BYTES = 4 << 30
"""Models with more bytes of float32 weights are not checked: it would take minutes."""

_LENGTH = 256
_VERSION = 2

_NATS = Range(-1e6, 1e6)
_FIGURES = {"loss": _NATS, "rise": _NATS, "agreement": SHARE, "tokens": Range(1, whole=True)}
"""Possible values of the fields of a `Quality`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Int8 against float32 on `tokens` positions of the model's own text.

    Attributes:
        loss: mean entropy of the float32 model, nats per token.
        rise: mean divergence to int8, nats per token.
        agreement: share of positions with the same best token.
    """

    loss: float
    rise: float
    agreement: float
    tokens: int

    @property
    def share(self) -> float:
        """Rise of the loss as a share of it."""
        return self.rise / self.loss if self.loss > 0 else float(self.rise > 0)

    @property
    def good(self) -> bool:
        """Whether the rise is small enough for `auto` to use int8."""
        return self.share < MOST_LOSS_RISE


def checkable(checkpoint: Checkpoint) -> bool:
    """Whether the model is small enough for a check during loading."""
    return checkpoint.num_parameters * 4 <= MOST_BYTES


def int8_quality(checkpoint: Checkpoint) -> Quality:
    """Return the quality from the cache, or measure it."""
    if (known := known_quality(checkpoint)) is not None:
        return known
    exact = NativeDecoder.load(checkpoint, dtype=torch.float32, threads=1)
    brief = NativeDecoder.load(checkpoint, dtype=torch.int8, threads=1)
    quality = compare(exact, brief)
    with suppress(OSError):  # without the cache, the next load measures again
        write_private(_file(checkpoint), json.dumps(asdict(quality)).encode())
    return quality


def known_quality(checkpoint: Checkpoint) -> Quality | None:
    """Return the cached result of an earlier check; None if there is none, or it is damaged."""
    try:
        return _parsed(json.loads(read_private(_file(checkpoint))))
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


def _file(checkpoint: Checkpoint) -> Path:
    return private_folder("quality") / f"{checkpoint.fingerprint}-{_VERSION}.json"


def compare(exact: NativeDecoder, brief: NativeDecoder, length: int = _LENGTH) -> Quality:
    """Compare `brief` with `exact` on a sample of `length` tokens that `exact` writes."""
    ids = _sample(exact, min(length, exact.info.context_length - 1))
    logp, logq = (_log_probabilities(model, ids) for model in (exact, brief))
    p = logp.exp()
    return Quality(
        loss=float(-(p * logp).sum(-1).mean()),
        rise=float((p * (logp - logq)).sum(-1).mean()),
        agreement=float((logp.argmax(-1) == logq.argmax(-1)).double().mean()),
        tokens=len(ids),
    )


def _sample(model: NativeDecoder, length: int) -> list[int]:
    """Write a text at temperature 1, from a random first token."""
    generator = torch.Generator().manual_seed(0)
    first = int(torch.randint(model.info.vocab_size, (1,), generator=generator))
    [cache] = model.start([Prompt(token_ids=(first,))])
    sampler = Sampler(SamplingParams(temperature=1.0, seed=0))
    written = model.write_chains([ChainRequest(Segment(cache, NO_IDS), sampler, (), length - 1)])
    assert written is not None  # every model supports a plain sampler
    return [first, *written[0].tolist()]


def _log_probabilities(model: NativeDecoder, ids: list[int]) -> torch.Tensor:
    """Return `[tokens, vocab]` log probabilities of the token after each token of the text."""
    [cache] = model.start([Prompt(token_ids=(ids[0],))])
    want = as_ids([-1, *range(len(ids) - 1)])
    [rows] = model.forward([Segment(cache, as_ids(ids[1:]))], [want])
    return rows.logits.double().log_softmax(-1)
