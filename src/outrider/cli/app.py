"""`outrider`: the command line. A command imports models only when it needs them."""

import io
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from outrider.cli.commands.analyze import analyze
from outrider.cli.commands.bench import bench
from outrider.cli.commands.calibrate import calibrate
from outrider.cli.commands.caption import caption
from outrider.cli.commands.chat import chat
from outrider.cli.commands.datastore import datastore
from outrider.cli.commands.demo import demo
from outrider.cli.commands.draw import draw
from outrider.cli.commands.generate import generate
from outrider.cli.commands.info import info
from outrider.cli.commands.methods import methods
from outrider.cli.commands.serve import serve
from outrider.cli.commands.summarize import summarize
from outrider.cli.commands.trainings.train import train
from outrider.cli.commands.tune import tune
from outrider.cli.options.groups import grouped
from outrider.cli.ui import failures, interrupt


class _InOrder(TyperGroup):
    """Lists the commands by their panels: what a new user needs comes first."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, in the order of the help; one that is not listed comes last."""
        return sorted(super().list_commands(ctx), key=[*ORDER, *super().list_commands(ctx)].index)


ORDER = (
    *("generate", "chat", "serve", "bench", "methods", "demo"),
    *("summarize", "caption", "draw"),
    *("tune", "info", "calibrate", "analyze"),
    *("train", "datastore"),
)

app = typer.Typer(
    name="outrider",
    cls=_InOrder,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
START, INPUTS, MEASURE, MAKE = (
    "Start here",
    "Documents and images",
    "Models and thresholds",
    "Training and data",
)
app.command(short_help="Write text from a prompt.", rich_help_panel=START)(grouped(generate))
app.command(short_help="Chat with a model.", rich_help_panel=START)(grouped(chat))
app.command(short_help="Serve a model to any client of OpenAI's interface.", rich_help_panel=START)(
    grouped(serve)
)
app.add_typer(
    bench,
    name="bench",
    short_help="Measure the speed on this machine, with and without drafting.",
    rich_help_panel=START,
)
app.command(short_help="List all methods, with their options.", rich_help_panel=START)(
    grouped(methods)
)
app.command(short_help="Show how drafting works, with the included models.", rich_help_panel=START)(
    grouped(demo)
)
app.command(
    short_help="Summarize files; the model reads the relevant parts.", rich_help_panel=INPUTS
)(grouped(summarize))
app.command(short_help="Write a caption for each image.", rich_help_panel=INPUTS)(grouped(caption))
app.command(
    short_help="Draw small images with a model of patches, and a draft model.",
    rich_help_panel=INPUTS,
)(grouped(draw))
app.command(
    short_help="Measure whether drafting pays here, and with which drafter.",
    rich_help_panel=MEASURE,
)(grouped(tune))
app.command(
    short_help="Show the properties of a model and the memory it needs.", rich_help_panel=MEASURE
)(grouped(info))
app.command(
    short_help="Measure how far two models differ, for the lossy modes.", rich_help_panel=MEASURE
)(grouped(calibrate))
app.add_typer(
    analyze,
    name="analyze",
    short_help="Plan draft models from measurements.",
    rich_help_panel=MEASURE,
)
app.add_typer(
    train,
    name="train",
    short_help="Train model families, captioners and adapters.",
    rich_help_panel=MAKE,
)
app.add_typer(
    datastore,
    name="datastore",
    short_help="Build a datastore for the drafters `rest` and `sam`.",
    rich_help_panel=MAKE,
)


def _print_version(asked: bool) -> bool:
    if asked:
        print(f"outrider {version('outrider')}")
        raise typer.Exit
    return asked


@app.callback()
def outrider(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Speculative decoding: the text of your model, token for token, in less time.

    Generate text with the included small models (no download), or your own:

      outrider generate "Once upon a time" --raw
      outrider generate "Name a river." --target ./big --draft ./small

    Chat with a model, serve it, measure the speed on this machine, list all methods:

      outrider chat --target ./big
      outrider serve --target ./big
      outrider bench --target ./big --draft ./small
      outrider methods

    A model is a folder, a GGUF file, a hub name, or smollm2. The draft model proposes tokens, and
    the target verifies them; both need the same vocabulary. In mode exact,
    the default, the text is the one that the target writes on its own.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    0: done. 1: a stream or a file could not be written or read. 2: wrong input. Both are
    explained in one line on standard error. 130: Ctrl-C. 143: SIGTERM.
    """
    _write_anything()
    _show_progress()
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        with interrupt.obeyed() as received, failures.reported_warnings():
            code = failures.flush_output(_run(words, received))
            return received.code or code
    except KeyboardInterrupt:
        return interrupt.EXIT_CODE


def _run(words: list[str], received: interrupt.Received) -> int:
    """Run a command, and report its error."""
    try:
        code = get_command(app).main(words, prog_name="outrider", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return interrupt.EXIT_CODE
    except SystemExit as stop:  # raised for a pipe that nobody reads
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if received.number:
            return received.code
        if (code := failures.report(error)) is None:
            raise
        return code


def _show_progress() -> None:
    """Show on a terminal what the library reports about long work, such as quality checks."""
    log = logging.getLogger("outrider")
    if sys.stderr.isatty() and not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)


def _write_anything() -> None:
    """Make output replace characters that the terminal lacks by question marks instead of
    raising.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
