"""Logits processors and the state that they may keep.

A processor whose result depends only on its arguments is *pure*: every tier may call it, as often
as needed. Any other processor (a grammar that advances by the last token, a counter) must see each
position of the target's text once and in order. Such a processor is called by the target only;
draft models run without it, which lowers the acceptance rate but never changes the text.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import TypeVar

from outrider.core.errors import OptionError
from outrider.sampling.params import LogitsProcessor

Processor = TypeVar("Processor")

_TRANSFORMERS = "transformers.generation.logits_process"
_STATELESS = frozenset(
    f"{name}LogitsProcessor"
    for name in (
        *("MinLength", "MinNewTokensLength", "RepetitionPenalty", "EncoderRepetitionPenalty"),
        *("NoRepeatNGram", "EncoderNoRepeatNGram", "SequenceBias", "NoBadWords"),
        *("ForcedBOSToken", "ForcedEOSToken", "InfNanRemove", "SuppressTokens"),
        *("SuppressTokensAtBegin", "Watermark"),
    )
) | {"ExponentialDecayLengthPenalty", "LogitNormalization"}
"""Processors of `transformers` that read only their arguments. All of its warpers do."""


def pure(processor: Processor) -> Processor:
    """Declare that the result of `processor` depends only on its arguments; return it.

    Every tier then calls the processor, so draft models propose what it allows.

    Raises:
        OptionError: the object accepts no attribute.
    """
    try:
        processor.pure = True  # pyright: ignore[reportAttributeAccessIssue]
    except AttributeError:
        raise OptionError(
            f"{_name(processor)} accepts no attribute, so it cannot be marked as pure",
            hint="Give it a class attribute: pure = True",
        ) from None
    return processor


def is_pure(processor: object) -> bool:
    """Whether a processor is declared pure, or is known to be so from `transformers`."""
    kind = type(processor)
    if kind.__module__ == _TRANSFORMERS:
        return kind.__name__ in _STATELESS or kind.__name__.endswith("Warper")
    return bool(getattr(processor, "pure", False))


def stateful(processors: Sequence[LogitsProcessor]) -> tuple[LogitsProcessor, ...]:
    """Return the processors that may keep a state."""
    return tuple(processor for processor in processors if not is_pure(processor))


def copied(processors: Sequence[LogitsProcessor]) -> tuple[LogitsProcessor, ...]:
    """Return the processors for one of several texts: a copy of each that may keep a state.

    Functions cannot be copied: all texts share them.

    Raises:
        OptionError: an object cannot be copied.
    """
    return tuple(p if is_pure(p) else _copy(p) for p in processors)


def _copy(processor: LogitsProcessor) -> LogitsProcessor:
    try:
        return deepcopy(processor)
    except Exception as error:  # any class may refuse, in any way
        raise OptionError(
            f"{_name(processor)} cannot be copied, and several texts need a copy each: {error}",
            hint="Give one prompt and one sample, or mark it with outrider.sampling.pure",
        ) from error


def names(processors: Sequence[LogitsProcessor]) -> str:
    """Return the names of processors, for messages."""
    return ", ".join(_name(processor) for processor in processors)


def _name(processor: object) -> str:
    return getattr(processor, "__name__", type(processor).__name__)
