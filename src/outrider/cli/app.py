"""`outrider`: the command line. Each command imports the models it needs, so that help is fast."""

import io
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer
from typer.main import get_command

from outrider.cli.commands.bench import bench
from outrider.cli.commands.calibrate import calibrate
from outrider.cli.commands.caption import caption
from outrider.cli.commands.chat import chat
from outrider.cli.commands.datastore import datastore
from outrider.cli.commands.demo import demo
from outrider.cli.commands.generate import generate
from outrider.cli.commands.info import info
from outrider.cli.commands.methods import methods
from outrider.cli.commands.summarize import summarize
from outrider.cli.commands.train import train
from outrider.cli.options.groups import grouped
from outrider.cli.ui import failures, interrupt
from outrider.core.errors import OutriderError

app = typer.Typer(
    name="outrider",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(grouped(generate))
app.command()(grouped(summarize))
app.command()(grouped(caption))
app.command()(grouped(chat))
app.command()(grouped(demo))
app.command()(grouped(info))
app.command()(grouped(methods))
app.command()(grouped(calibrate))
app.add_typer(train, name="train")
app.add_typer(bench, name="bench")
app.add_typer(datastore, name="datastore")


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
            "--version", help="Show the version and stop.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Faster text from language models: small models draft, the big one verifies.

    Start here (no download, the tiny family ships with the package):

      outrider demo
      outrider generate "Once upon a time" --seed 1 --temperature 0.8

    With your own models (folders or hub names that share a vocabulary):

      outrider generate "Once upon a time" --target ./big --draft ./small

    Mode exact, the default, gives exactly the text that the target alone writes.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    0: done. 2: wrong input, explained in one line on standard error. 130: Ctrl-C.
    """
    command = get_command(app)
    _write_anything()
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    with failures.reported_warnings():
        try:
            code = command.main(words, prog_name="outrider", standalone_mode=False)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except failures.UsageError as error:
            return failures.report_usage(error)
        except OutriderError as error:
            return failures.report(error)
        except BrokenPipeError:
            failures.close_broken_pipe()
            return 1
        except (KeyboardInterrupt, typer.Abort):
            return interrupt.EXIT_CODE


def _write_anything() -> None:
    """Make output replace characters that the terminal lacks by question marks instead of
    raising.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
