"""The interface of other systems that are measured together with Outrider in one run."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalRequest:
    """The request for one text.

    Attributes:
        token_ids: the prompt, as Outrider reads it.
        max_new_tokens: at least 1. The text ends at this length, or at one of the checkpoint's end
            tokens.
        temperature: 0 chooses the best token.
        top_p: 1 keeps everything.
        seed: seed of the system's random numbers.
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
        token_ids: the ids written, in the vocabulary of the target's tokenizer, without the prompt.
            The end token is included if the system reports it.
        ttft_seconds: seconds from the call to the first token; the whole time if the system does
            not report it.
        seconds: seconds from the call to the last token.
    """

    token_ids: tuple[int, ...]
    ttft_seconds: float
    seconds: float


@runtime_checkable
class OpenRival(Protocol):
    """A rival with its models in memory. Each call starts from an empty cache."""

    def generate(self, request: RivalRequest) -> RivalText:
        """Write the text for `request`."""
        ...


@runtime_checkable
class Rival(Protocol):
    """Another system in one setting."""

    @property
    def name(self) -> str:
        """A short and unique name, such as `llama.cpp-q8_0-lookup`."""
        ...

    @property
    def precision(self) -> str:
        """Precision of its weights: `float32`, `bfloat16`, `int8`, `q8_0`.

        At temperature 0 its text is compared with Outrider's if this is the dtype of the run.
        """
        ...

    @property
    def method(self) -> str:
        """Method of drafting: `plain`, `draft` (it needs the draft model), `lookup`."""
        ...

    def available(self) -> str | None:
        """Return None if it can run here, else the command that installs missing packages."""
        ...

    def open(
        self, target: Path, draft: Path | None, *, threads: int, dtype: str
    ) -> AbstractContextManager[OpenRival]:
        """Load the checkpoints in these folders, and convert them if needed.

        A rival that runs on accelerators accepts `device` as a further keyword; other rivals are
        measured only on the CPU.

        Args:
            target: a Hugging Face folder.
            draft: a Hugging Face folder; never None if `method` is `draft`.
            threads: CPU threads, the same for every system of the run.
            dtype: dtype of Outrider's models in this run, for rivals that support it.

        Raises:
            OutriderError: the system cannot run this checkpoint; one line says why.
        """
        ...
