"""Structure priors: answers of which some tokens are known before the first round."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from outrider.core.errors import OptionError
from outrider.core.types import IntArray


@dataclass(frozen=True, slots=True)
class Template:
    """Parts of an answer in order: token ids that stay as they are, and numbers of open slots.

    `Template(([5, 6], 8, [7], 4, [end]))` has two open parts. An end token as the last part fixes
    the length of the answer; an answer with an earlier end is not padded.

    Source: the structure priors of Dimple, arXiv 2505.16990.

    Attributes:
        parts: ids, or a number of open slots.

    Raises:
        OptionError: a number is negative.
    """

    parts: Sequence[Sequence[int] | int]

    def __post_init__(self) -> None:
        for part in self.parts:
            if isinstance(part, int) and part < 0:
                raise OptionError(f"a part has {part} open slots", hint="Give 0 or more")

    @property
    def length(self) -> int:
        """Slots of the answer: `Denoising(max_new_tokens=...)`."""
        return sum(part if isinstance(part, int) else len(part) for part in self.parts)

    @property
    def fixed(self) -> Mapping[int, int]:
        """The tokens by their slots: `Denoising(fixed=...)`."""
        found: dict[int, int] = {}
        slot = 0
        for part in self.parts:
            if isinstance(part, int):
                slot += part
                continue
            for token in part:
                found[slot] = int(token)
                slot += 1
        return found


def place_fixed(answer: IntArray, fixed: Mapping[int, int], mask_id: int, vocab_size: int) -> None:
    """Write the fixed tokens into an answer.

    Raises:
        OptionError: a slot is outside the answer, or a token is the mask or outside the vocabulary.
    """
    for slot, token in fixed.items():
        if not 0 <= slot < len(answer):
            raise OptionError(
                f"a token is fixed at slot {slot} of {len(answer)}",
                hint="Give a larger max_new_tokens, or an earlier slot",
            )
        if token == mask_id or not 0 <= token < vocab_size:
            raise OptionError(f"the fixed token {token} is no token", hint="Give another id")
        answer[slot] = token


def end_of(fixed: Mapping[int, int], end_ids: Collection[int], length: int) -> int:
    """Return the length of an answer: that up to a fixed end token, or else `length`.

    Raises:
        OptionError: a slot behind a fixed end token is fixed too.
    """
    ends = [slot for slot, token in fixed.items() if token in end_ids]
    if not ends:
        return length
    if min(ends) != max(fixed):
        raise OptionError(
            f"slot {min(ends)} is fixed as the end, and slots behind it are fixed too",
            hint="Fix no slot behind an end token",
        )
    return min(ends) + 1
