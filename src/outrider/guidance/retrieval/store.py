"""Stores of contexts of one model, with the logits that followed them, as one safetensors file."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int32
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from outrider.core.errors import StoreError
from outrider.protocols import ModelInfo

FORMAT = "outrider-logits-1"
MOST = 8192
"""Largest number of contexts of a store: all are compared with every row."""
KEPT = 256
"""Logits that are kept of each context."""
_AGAIN = "Build it again: outrider datastore answers FILE --target TARGET --out STORE"


@runtime_checkable
class Fingerprinted(Protocol):
    """A tokenizer whose ids can be told from those of another one."""

    @property
    def fingerprint(self) -> str:
        """Of its vocabulary."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a store was built of.

    Attributes:
        model: fingerprint of the model; every runner of a checkpoint has the same.
        tokenizer: fingerprint of the tokenizer.
        vocab_size: number of logits of the model.
        layer: layer whose states describe contexts, as in `HiddenStates`.
        answers: number of answers.
        told: whether the logits are those of the model that was told the answer.
    """

    model: str
    tokenizer: str
    vocab_size: int
    layer: int
    answers: int = 0
    told: bool = False


@dataclass(frozen=True, kw_only=True)
class LogitStore:
    """Contexts, each with its most likely next tokens.

    Attributes:
        states: the hidden state of each context.
        tokens: the most likely tokens after each context, the best one first.
        logits: how far the logit of each exceeds that of the last one kept, so at least 0; all
            other tokens count as 0.
        origin: what the store belongs to.
    """

    states: Float[Tensor, "entries hidden"]
    tokens: Int32[Tensor, "entries kept"]
    logits: Float[Tensor, "entries kept"]
    origin: Origin

    def __post_init__(self) -> None:
        if reason := self._flaw():
            raise StoreError(f"a store of logits is not valid: {reason}", hint=_AGAIN)

    def __len__(self) -> int:
        return len(self.states)

    def __str__(self) -> str:
        return self.digest

    @cached_property
    def digest(self) -> str:
        """A hash of the content."""
        found = hashlib.sha256(json.dumps(asdict(self.origin)).encode())
        for tensor in (self.states, self.tokens, self.logits):
            found.update(tensor.contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def _flaw(self) -> str:
        states, tokens, logits = self.states, self.tokens, self.logits
        kinds = (torch.float32, torch.int32, torch.float32)
        if tuple(one.dtype for one in (states, tokens, logits)) != kinds:
            return "its numbers have other types"
        if states.ndim != 2 or tokens.ndim != 2 or tokens.shape != logits.shape:
            return "its tensors have other shapes"
        if len(states) != len(tokens):
            return "its tensors do not fit together"
        if len(states) > MOST:
            return f"it has {len(states)} contexts, and at most {MOST} are allowed"
        if not bool(torch.isfinite(states).all() and torch.isfinite(logits).all()):
            return "it holds numbers that are not finite"
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self._size:
            return "it holds tokens outside the vocabulary"
        return "" if not logits.numel() or float(logits.min()) >= 0.0 else "a logit is below 0"

    @property
    def _size(self) -> int:
        return self.origin.vocab_size

    def check(self, info: ModelInfo, codec: "Fingerprinted | None") -> None:
        """Check that a target is the model of the store.

        Args:
            info: the target's.
            codec: the target's tokenizer; None: it is not known, and the model decides.

        Raises:
            StoreError: the store was built with another model or tokenizer.
        """
        own = self.origin
        if (own.model, own.vocab_size) != (info.fingerprint, info.vocab_size):
            raise StoreError(
                f"the store of logits was built with another model ({own.model[:12]}, and "
                f"{info.name} is {info.fingerprint[:12]})",
                hint=_AGAIN,
            )
        if codec is not None and codec.fingerprint != own.tokenizer:
            raise StoreError(
                f"the store of logits was built with another tokenizer ({own.tokenizer[:12]}, and "
                f"that of {info.name} is {codec.fingerprint[:12]})",
                hint=_AGAIN,
            )

    def save(self, path: Path, *, force: bool = False) -> None:
        """Write the store to one file, completely or not at all.

        Raises:
            StoreError: the file exists and `force` is not set, or it cannot be written.
        """
        refuse_taken(path, force)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        tensors = {"states": self.states, "tokens": self.tokens, "logits": self.logits}
        about = {"format": FORMAT, "origin": json.dumps(asdict(self.origin))}
        try:
            save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata=about)
            os.replace(part, path)
        except (OSError, SafetensorError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise StoreError(f"{path} cannot be written: {reason or error}") from None
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def open(cls, path: Path) -> "LogitStore":
        """Read a store.

        Raises:
            StoreError: there is no file, it is not a store of logits, or it is damaged.
        """
        if not path.is_file():
            raise StoreError(f"no store of logits at {path}", hint=_AGAIN.replace(" again", ""))
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                if about.get("format") != FORMAT:
                    raise StoreError(f"{path} is not a store of logits", hint=_AGAIN)
                origin = Origin(**json.loads(about["origin"]))
                tensors = {name: file.get_tensor(name) for name in ("states", "tokens", "logits")}
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            reason = str(error).splitlines()[0][:120]
            raise StoreError(f"{path} is damaged: {reason}", hint=_AGAIN) from None
        return cls(origin=origin, **tensors)


def refuse_taken(path: Path, force: bool) -> None:
    """Raise `StoreError` if a store cannot be written to `path`; call it before building one."""
    if path.is_dir():
        raise StoreError(f"{path} is a folder", hint="Give the path of a file")
    if path.exists() and not force:
        raise StoreError(f"{path} already exists", hint="Give --force to replace it")
    if not path.resolve().parent.is_dir():
        raise StoreError(f"{path} cannot be written: there is no folder {path.resolve().parent}")
