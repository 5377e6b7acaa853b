"""One vector for each text: the hidden state of its last token."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range
from outrider.core.errors import OptionError
from outrider.core.types import Prompt
from outrider.guidance.source import states_of
from outrider.memories.bottleneck import Origin
from outrider.protocols import LanguageModel

_TOGETHER = 16
"""Texts that are read in one forward."""
_PLACE = "{text}"


@runtime_checkable
class Encoder(Protocol):
    """The tokenizer function that is needed."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Encode a prompt."""
        ...


class StateReader:
    """Reads texts with one model.

    Args:
        model: returns the states of its layers.
        codec: its tokenizer.
        layer: which states, numbered as in `HiddenStates`; None: the last ones.
        form: what the model reads, with `{text}` where the text stands.

    Attributes:
        origin: which states they are.

    Raises:
        OptionError: there is no such layer, or no `{text}` in the form.
        StrategyError: the model does not return its states.
    """

    def __init__(
        self,
        model: LanguageModel,
        codec: Encoder,
        layer: int | None = None,
        form: str = _PLACE,
    ) -> None:
        states = states_of(model, "a memory of labels")
        layer = states.num_layers if layer is None else layer
        Range(0, states.num_layers, whole=True).check("layer", layer)
        if _PLACE not in form:
            raise OptionError(f"form is {form!r:.60}", hint=f"Write {_PLACE} where the text stands")
        self.origin = Origin(model=model.info.fingerprint, layer=layer, form=form)
        self._model, self._codec = states.keeping([layer]), codec

    def read(self, texts: Sequence[str]) -> Float[Tensor, "texts hidden"]:
        """Return the state of the last token of each text in its form, in float32 on the CPU.

        Raises:
            OptionError: there are no texts, or one has no tokens.
            ContextError: a text does not fit into the window of the model.
        """
        if not texts:
            raise OptionError("there are no texts", hint="Give at least one")
        prompts = [self._prompt(text) for text in texts]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: list[Tensor] = [torch.empty(0)] * len(prompts)
        for start in range(0, len(order), _TOGETHER):
            part = order[start : start + _TOGETHER]
            for number, state in zip(part, self._last([prompts[i] for i in part]), strict=True):
                found[number] = state
        return torch.stack(found)

    def _prompt(self, text: str) -> Prompt:
        ids = self._codec.encode(self.origin.form.replace(_PLACE, text))
        if not ids:
            raise OptionError(f"the text {text!r:.60} has no tokens", hint="Give another text")
        # `start` leaves the last token of a prompt unread. With one more token behind the text it
        # reads the whole text, and no logits are computed.
        return Prompt(token_ids=(*ids, ids[-1]))

    def _last(self, prompts: Sequence[Prompt]) -> list[Float[Tensor, " hidden"]]:
        states, caches = self._model.hidden_states, self._model.start(prompts)
        assert states is not None  # `keeping` returns the same kind of model
        return [
            states.kept(cache, len(prompt) - 2, len(prompt) - 1)[0, 0].float().cpu().clone()
            for prompt, cache in zip(prompts, caches, strict=True)
        ]
