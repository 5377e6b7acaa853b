"""What another system must offer to be measured beside Outrider in the same run."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalRequest:
    """A text that is asked for.

    Attributes:
        token_ids: the prompt, as Outrider reads it.
        max_new_tokens: at least 1. The text ends there, or at one of the checkpoint's end tokens.
        temperature: 0 takes the best token.
        top_p: 1 keeps everything.
        seed: of the system's own random numbers.
        ignore_eos: whether the text ends at `max_new_tokens` only.
    """

    token_ids: Sequence[int]
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class RivalText:
    """One text that a rival wrote.

    Attributes:
        token_ids: the ids written, in the vocabulary of the target's tokenizer, without the
            prompt. The end token counts when the system reports it.
        ttft_seconds: from the call to the first token; the whole time where the system can not
            say.
        seconds: from the call to the last token.
    """

    token_ids: tuple[int, ...]
    ttft_seconds: float
    seconds: float


@runtime_checkable
class OpenRival(Protocol):
    """A rival with its models in memory. Each call starts from an empty cache."""

    def generate(self, request: RivalRequest) -> RivalText:
        """Write the text that `request` asks for."""
        ...


@runtime_checkable
class Rival(Protocol):
    """One system in one setting."""

    @property
    def name(self) -> str:
        """Short and unique, such as `llama.cpp-q8_0-lookup`."""
        ...

    @property
    def precision(self) -> str:
        """Of its weights: `float32`, `bfloat16`, `int8`, `q8_0`.

        At temperature 0 its text is compared with ours where this is the dtype of the run.
        """
        ...

    @property
    def method(self) -> str:
        """How it drafts: `plain`, `draft` (it needs the draft model), `lookup`."""
        ...

    def available(self) -> str | None:
        """None when it can run here, else the command that installs what is missing."""
        ...

    def open(
        self, target: Path, draft: Path | None, *, threads: int, dtype: str
    ) -> AbstractContextManager[OpenRival]:
        """Load (and convert, where needed) the checkpoints in these folders.

        A rival that runs on accelerators takes `device` as a further keyword; one that does not
        is measured on the CPU alone.

        Args:
            target: a Hugging Face folder.
            draft: likewise; never None where `method` is `draft`.
            threads: CPU threads, the same for every system of the run.
            dtype: of our own models in this run, for rivals that can follow it.

        Raises:
            OutriderError: the system can not run this checkpoint; one line says why.
        """
        ...
