"""`outrider chat`: a conversation in the terminal."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from outrider.cli.commands.generate import EMPTY, Color, run_stream
from outrider.cli.options.asking import as_message
from outrider.cli.options.caching import Caching
from outrider.cli.options.constraining import Constraining, cut_note
from outrider.cli.options.guiding import Guiding
from outrider.cli.options.options import (
    Runtime,
    Sampling,
    Speculation,
    Tiers,
    load_generator,
    option,
)
from outrider.cli.ui import interrupt
from outrider.cli.ui.messages import MARK, Message, prepare_terminal, read_message
from outrider.cli.ui.render import Screen, summary, weights_note
from outrider.core.errors import (
    ContextError,
    LogitsError,
    OptionError,
    OutriderError,
    nearest,
    writing,
)

if TYPE_CHECKING:
    from outrider.engine.generator import Generator
    from outrider.engine.result import Result


def chat(
    tiers: Tiers,
    speculation: Speculation,
    sampling: Sampling,
    constraining: Constraining,
    guiding: Guiding,
    runtime: Runtime,
    caching: Caching,
    system: Annotated[
        str | None,
        option(panel="Output", help="The system message at the start of the conversation."),
    ] = None,
    color: Color = "auto",
) -> None:
    """Chat with a model in one conversation.

    Each turn reads only the new text. Ctrl-C ends an answer early.
    A paste of several lines is one message, and so are lines between triple quotes.
    /system, /reset, /save, /stats, /help and /exit are commands.

    For example:

      outrider chat --target smollm2
      outrider chat --target ./big --draft ./small --system "Be brief."
      outrider chat --target ./big --draft ./small --draft-kv-policy streaming
    """
    from outrider.engine.load import target_tokenizer

    settings: dict[str, Any] = sampling.given() | constraining.given()
    guided = guiding.given() | caching.given()
    screen = Screen(color)
    prepare_terminal()
    as_message(target_tokenizer(tiers.target), True)  # before the weights are read
    generator = load_generator(tiers, runtime, speculation, **guided)
    talk = Conversation(generator, settings, screen)
    if system:
        talk.set_system(system)
    if note := weights_note(generator.strategy.target.info):
        screen.note(note)
    talk.help("")
    while (message := read_message()) is not None and talk.take(message):
        pass


@dataclass(slots=True)
class Conversation:
    """The messages so far, and the result of the last answer."""

    generator: "Generator"
    settings: dict[str, Any]
    screen: Screen
    messages: list[dict[str, str]] = field(default_factory=list)
    last: "Result | None" = None
    saved: set[Path] = field(default_factory=set)

    def take(self, message: Message) -> bool:
        """Execute a command, or answer a message; return false at the end of the conversation."""
        name, _, text = message.text.partition(" ")
        several = "\n" in message.text and name not in COMMANDS
        if message.block or several or not name.startswith("/"):
            if message.text.strip():
                self.answer(message.text)
            return True
        if name in EXITS:
            return False
        try:
            self._run(name, text.strip())
        except OutriderError as error:
            self.screen.note(f"error: {error}")
        return True

    def _run(self, name: str, text: str) -> None:
        if name not in COMMANDS:
            raise OptionError(
                f"unknown command {name}",
                hint=f"{nearest(name, [*COMMANDS, *EXITS])} (text that begins with / is a message "
                f"between {MARK})",
            )
        command = COMMANDS[name]
        if bool(text) != bool(command.takes):
            raise OptionError(
                f"{name} takes {command.takes or 'nothing after it'}, but "
                f"{f'{text!r:.60}' if text else 'nothing'} is given",
                hint=f"Type {name} {command.takes}".rstrip(),
            )
        command.run(self, text)

    def set_system(self, text: str) -> None:
        """Replace the system message. The other messages stay.

        Raises:
            OptionError: the chat template refuses a system message.
        """
        system = {"role": "system", "content": text}
        said = [m for m in self.messages if m["role"] != "system"]
        self.generator.prompt([system, *(said or [{"role": "user", "content": "Hello"}])])
        self.messages = [system, *said]

    def reset(self, _: str) -> None:
        """Remove all messages except the system message."""
        self.messages = [m for m in self.messages if m["role"] == "system"]
        self.generator.reset()

    def save(self, name: str) -> None:
        """Write the messages to a file as JSON. A file of another origin is not replaced."""
        file = Path(name).expanduser()
        if not any(m["role"] == "assistant" for m in self.messages):
            raise OptionError("there is no answer to save yet", hint="Ask something first")
        if file not in self.saved and file.exists():
            raise OptionError(f"{file} exists already", hint="Give another name")
        with writing(file):
            text = json.dumps(self.messages, ensure_ascii=False, indent=1)
            file.write_text(f"{text}\n", encoding="utf-8", errors="replace")
        self.saved.add(file)
        self.screen.note(f"{len(self.messages)} messages are saved in {file}")

    def stats(self, _: str) -> None:
        """Show all figures of the last answer."""
        self.screen.note(summary(self.last.to_dict()) if self.last else "no answer yet")

    def help(self, _: str) -> None:
        """List the commands, and how to write several lines."""
        names = [*COMMANDS.items(), (" or ".join(EXITS), Command("", "end the chat", _nothing))]
        for name, command in names:
            self.screen.note(f"  {f'{name} {command.takes}':<16} {command.does}")
        self.screen.note(f"A pasted paragraph is one message, and so is text between {MARK}.")

    def answer(self, text: str) -> None:
        """Answer one message. On an error the conversation does not change."""
        asked = [*self.messages, {"role": "user", "content": text}]
        try:
            self.last = run_stream(self.generator, asked, self.settings, self.screen)
        except ContextError as error:
            self.screen.note(f"error: {error} /reset clears the conversation.")
            return
        except interrupt.Stopped:
            self.screen.note("stopped before the answer began; this message is not kept")
            return
        self.screen.write("\n")
        if self.last.error:
            raise LogitsError(self.last.error)
        self.screen.note(turn_figures(self.last))
        if note := cut_note(self.generator, self.last, self.settings):
            self.screen.note(note)
        self.messages = [*asked, {"role": "assistant", "content": self.last.text}]


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the chat: what it takes, what it does in words, and the function."""

    takes: str
    does: str
    run: Callable[[Conversation, str], None]


def _nothing(_: Conversation, __: str) -> None:
    """Do nothing."""


COMMANDS = {
    "/system": Command("TEXT", "set the system message", Conversation.set_system),
    "/reset": Command("", "clear the conversation", Conversation.reset),
    "/save": Command("FILE", "write the conversation to a JSON file", Conversation.save),
    "/stats": Command("", "show all figures of the last answer", Conversation.stats),
    "/help": Command("", "show this list", Conversation.help),
}

EXITS = ("/exit", "/quit")


def turn_figures(result: "Result") -> str:
    """Format one line about an answer: its length, its speed, and why it ended early."""
    line = (
        f"{result.completion_tokens} tokens, {result.tokens_per_second:.1f} tokens/s, "
        f"{result.seconds['prefill']:.2f} s to read the message"
    )
    if result.finish_reason == "length":
        line += "; cut here (--max-new-tokens or the context window)"
    return line if result.text or result.finish_reason != "stop" else f"{line}; {EMPTY}"
