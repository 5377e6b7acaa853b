"""What the files of a head hold, whatever their format."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from outrider.core.values import JsonValue
from outrider.models.heads.config import HeadShape
from outrider.models.quantization.grouped import Grouped


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """The target of a head, as far as its files name it; None and () are unknown.

    Attributes:
        name_or_path: the name of the target, or its folder.
        architectures: as in the target's config.json.
        hidden_size: size of its hidden states.
        vocab_size: number of its tokens.
        tokenizer: `Tokenizer.fingerprint` of its tokenizer.
    """

    name_or_path: str | None = None
    architectures: tuple[str, ...] = ()
    hidden_size: int | None = None
    vocab_size: int | None = None
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFile:
    """A head, as read from its files.

    Attributes:
        config: its shape.
        tensors: the tensors of `HeadShape.shapes`, and those of `HeadShape.optional` that the
            files hold: float32, `ids` and `successors` int32.
        verifier: its target.
        format: the format in one word, for reports.
        grouped: matrices that are stored as small integers, which `tensors` hold in float32.
        trained: how it was trained, if the files say so.
    """

    config: HeadShape
    tensors: dict[str, Tensor]
    verifier: Verifier
    format: str
    trained: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    grouped: Mapping[str, Grouped] = field(default_factory=dict[str, Grouped])
