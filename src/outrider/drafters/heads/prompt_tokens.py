"""The trained embeddings of `ppd` and `lud`, as files hold them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import OptionError, StrategyError, VocabularyError
from outrider.core.values import JsonValue
from outrider.protocols.model import LanguageModel
from outrider.protocols.trained import TrainedFiles, read_trained

KIND, FORMAT = "ppd", "outrider-ppd-1"
"""Name of the files, and the value of `format` in `ppd.json`."""
PAD_KIND, PAD_FORMAT = "lud", "outrider-lud-1"
"""The same for the pad of `lud`."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PromptTokens:
    """Embeddings that make a target guess further tokens.

    Attributes:
        table: `[prompts, copies, hidden]` the embeddings; the logits of copies are averaged.
        rates: `[prompts, ranks]` how often the guess of each rank was right.
        vocab_size: number of tokens of the target.
        kind: the drafter that reads them, `ppd` or `lud`.
        place: the folder of the files; empty: it was not read from files.
        facts: how they were trained.

    Raises:
        OptionError: numbers that are not finite; they would reach rows of tokens.
    """

    table: Float[Tensor, "prompts copies hidden"]
    rates: Float[Tensor, "prompts ranks"]
    vocab_size: int
    kind: str = KIND
    place: str = ""
    facts: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])

    def __post_init__(self) -> None:
        if not bool(self.table.isfinite().all()):
            raise OptionError(
                "the table of prompt tokens holds numbers that are not finite",
                hint="Train it again, with a lower learning rate",
            )

    @classmethod
    def read(cls, folder: str | Path) -> "PromptTokens":
        """Read the files that `outrider train ppd` writes.

        Raises:
            CheckpointError: files that are missing or damaged.
        """
        files = read_trained(folder, KIND, FORMAT)
        table = files.tensor("table", -1, -1, -1)
        return cls(
            table=table,
            rates=_rates(files, len(table)),
            vocab_size=int(files.number("vocab_size")),
            place=str(folder),
            facts=files.facts,
        )

    @classmethod
    def read_pad(cls, folder: str | Path) -> "PromptTokens":
        """Read the files that `outrider train lud` writes: every prompt token is the same pad.

        Raises:
            CheckpointError: files that are missing or damaged.
        """
        files = read_trained(folder, PAD_KIND, PAD_FORMAT)
        found = cls.of_pad(
            files.tensor("pad", -1), _rates(files, -1), int(files.number("vocab_size"))
        )
        return replace(found, place=str(folder), facts=files.facts)

    @classmethod
    def of_pad(
        cls, pad: Float[Tensor, " hidden"], rates: Float[Tensor, "guesses ranks"], vocab_size: int
    ) -> "PromptTokens":
        """Make the prompt tokens of `lud`: the pad, once for each guess."""
        table = pad.expand(len(rates), 1, -1)
        return cls(table=table, rates=rates, vocab_size=vocab_size, kind=PAD_KIND)

    def first(self, prompts: int) -> "PromptTokens":
        """Return the first ones alone, at most `prompts`."""
        return replace(self, table=self.table[:prompts], rates=self.rates[:prompts])

    @property
    def copies(self) -> int:
        """Embeddings of each prompt token."""
        return self.table.shape[1]

    @property
    def rows(self) -> Float[Tensor, "rows hidden"]:
        """The embeddings in the order of `row_id`."""
        return self.table.reshape(-1, self.table.shape[-1])

    def row_id(self, prompt: int, copy: int) -> int:
        """Return the id of a row in a draft (`Draft.prompts`)."""
        return -1 - (prompt * self.copies + copy)

    def check_target(self, target: LanguageModel) -> None:
        """Check that this model can read them.

        Raises:
            StrategyError: it reads no embeddings in drafts, or embeddings of another size.
            VocabularyError: it has another number of tokens.
        """
        name, own, states = target.info.name, self.table.shape[-1], target.hidden_states
        if not target.info.reads_prompts or states is None:
            raise StrategyError(
                f"drafter {self.kind} puts embeddings into drafts, which {name} does not read",
                hint="Use another drafter, or a Llama-shaped target without guidance or selection",
            )
        if states.width != own:
            raise StrategyError(
                f"the prompt tokens {self} have {own} numbers each, {name} reads {states.width}",
                hint=f"Train prompt tokens for this target: outrider train {self.kind}",
            )
        if self.vocab_size != target.info.vocab_size:
            raise VocabularyError(
                f"the prompt tokens {self} expect {self.vocab_size} tokens, {name} has "
                f"{target.info.vocab_size}",
                hint=f"Train prompt tokens for this target: outrider train {self.kind}",
            )

    def __str__(self) -> str:
        return self.place or "(built)"


def _rates(files: TrainedFiles, prompts: int) -> Float[Tensor, "prompts ranks"]:
    """Return the rates of files, of any number of prompt tokens if `prompts` is -1."""
    rates = files.tensor("rates", prompts, -1)
    if bool((rates < 0).any()) or bool((rates > 1).any()):
        raise files.damaged("its rates are not shares")
    return rates


def to_tensors(tokens: PromptTokens) -> dict[str, Tensor]:
    """Return what the file of weights holds."""
    return {
        "table": tokens.table.to(torch.float32).contiguous(),
        "rates": tokens.rates.to(torch.float32).contiguous(),
    }
