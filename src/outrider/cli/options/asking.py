"""How a prompt is given to the model: as a message in its chat template, or as plain text."""

from typing import TYPE_CHECKING, Annotated

from outrider.cli.options.options import option
from outrider.core.errors import OptionError

if TYPE_CHECKING:
    from outrider.inputs.given import TextCodec

Asked = Annotated[
    bool | None,
    option(
        "--chat/--raw",
        panel="Output",
        help="Give the prompt as a user message in the chat template, or as plain text to "
        "continue. Default: a message if the model has a chat template.",
    ),
]


def as_message(codec: "TextCodec | None", given: bool | None) -> bool:
    """Whether the prompt becomes a message: as given, else if there is a chat template.

    Raises:
        OptionError: `--chat` is given, and the model has no chat template.
    """
    template = codec is not None and codec.has_chat
    if given and not template:
        raise OptionError(
            "--chat is given, and the model has no chat template",
            hint="Leave it out, and the model continues the text",
        )
    return template if given is None else given


def asking_note(codec: "TextCodec | None", message: bool) -> str:
    """Say in one line how the prompt is given, and how to change it."""
    if message:
        return "prompt: a message in the model's chat template (--raw: plain text to continue)"
    if codec is not None and codec.has_chat:
        return "prompt: plain text to continue (--chat: a message in the model's chat template)"
    return "prompt: plain text to continue (the model has no chat template)"


def prompt_format(message: bool) -> dict[str, str]:
    """Return the entry of `--json` that says how the prompt was given."""
    return {"prompt_format": "chat" if message else "raw"}
