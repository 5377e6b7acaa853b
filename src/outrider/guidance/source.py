"""One source of next-token scores: a model, and how it sees the prompt."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from outrider.core.errors import StrategyError
from outrider.core.types import Prompt
from outrider.protocols import HiddenStates, LanguageModel

View = Callable[[Prompt], Prompt | None]
"""Maps a prompt to the prompt that a source reads; None: there is nothing to read, and the prompt
is not guided. Equal prompts (the same object) are mapped once."""


def same(prompt: Prompt) -> Prompt:
    """Return the prompt itself."""
    return prompt


def blank_images(prompt: Prompt) -> Prompt | None:
    """Return the same prompt with blank images; None for a prompt without images."""
    if prompt.image_prompt is None:
        return None
    return replace(prompt, image_prompt=prompt.image_prompt.blanked())


def contrast(prompt: Prompt) -> Prompt | None:
    """Return the other prompt that is given with this one, if there is one."""
    return prompt.contrast


def last_token(prompt: Prompt) -> Prompt:
    """Return a prompt of the last token only, which says nothing about the text before it."""
    return Prompt(token_ids=prompt.token_ids[-1:])


def unconditional(model: LanguageModel) -> View:
    """Return the view of a prompt that says less: the other prompt that is given with it, or the
    same with blank images for models that read images, or the last token."""
    reads_images = bool(model.info.image_token_ids)

    def view(prompt: Prompt) -> Prompt | None:
        if prompt.contrast is not None:
            return prompt.contrast
        return blank_images(prompt) if reads_images else last_token(prompt)

    return view


def states_of(model: LanguageModel, reader: str) -> HiddenStates:
    """Return the states of the layers of a model, which `reader` needs.

    Raises:
        StrategyError: the model does not return them.
    """
    if model.hidden_states is None:
        raise StrategyError(
            f"{model.info.name} does not return the states of its layers, which {reader} reads",
            hint="Use a checkpoint that Outrider runs itself, such as a Llama or Qwen2 shape",
        )
    return model.hidden_states


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A source of scores. Sources with the same model are read in one forward.

    Attributes:
        model: the model.
        view: the prompt that it reads.
        layers: layers whose states `Rows.states` holds (`HiddenStates.watch`); empty: none.
    """

    model: LanguageModel
    view: View = same
    layers: tuple[int, ...] = ()
