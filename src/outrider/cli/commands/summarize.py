"""`outrider summarize`: summarizes long files."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.commands.generate import Color, Stream, check_stream, finish, run_stream
from outrider.cli.options.asking import Asked, as_message
from outrider.cli.options.caching import Caching
from outrider.cli.options.long_inputs import LongInput, explain_result, prompt_around, read_places
from outrider.cli.options.options import (
    Runtime,
    Sampling,
    Speculation,
    Tiers,
    load_generator,
    option,
)
from outrider.cli.ui.render import Screen
from outrider.cli.ui.waiting import Waiting
from outrider.context.config import ContextConfig
from outrider.core.errors import OptionError

if TYPE_CHECKING:
    from outrider.core.types import Prompt

INSTRUCTION = "Summarise the text above: what it is about, and what matters most in it."

KEEP_RATIO = 0.6


@dataclass(frozen=True, slots=True)
class Job:
    """One summary to write.

    Attributes:
        names: names of the summarized files.
        prompt: their texts, and the instruction.
        explain: folder of the explanation, or None.
    """

    names: tuple[str, ...]
    prompt: "Prompt"
    explain: Path | None


def summarize(
    files: Annotated[
        list[str],
        typer.Argument(help="Text, Markdown, HTML and PDF, and folders of them; '-' reads stdin."),
    ],
    long_input: LongInput,
    tiers: Tiers,
    speculation: Speculation,
    sampling: Sampling,
    runtime: Runtime,
    caching: Caching,
    instruction: Annotated[
        str, option(panel="Output", metavar="TEXT", help="What to write about the files.")
    ] = INSTRUCTION,
    each: Annotated[
        bool,
        option(
            "--each",
            panel="Output",
            help="Write one summary per file instead of one for all files.",
        ),
    ] = False,
    chat: Asked = None,
    stream: Stream = None,
    color: Color = "auto",
    json: Annotated[
        bool,
        option(
            "--json", panel="Output", help="Print one JSON object per summary, with all figures."
        ),
    ] = False,
) -> None:
    """Summarize files; the model reads only the relevant parts.

    A share of the text (--keep-ratio, 0.6 unless given) is read at a time;
    other parts are read when the summary needs them. A keep ratio of 1 reads
    all that the window holds. The text goes to standard output, figures to standard error.

    For example:

      outrider summarize report.pdf
      outrider summarize notes/ --each --keep-ratio 0.5 --json
      outrider summarize a.html b.md --instruction "What do they disagree on?"
      cat log.txt | outrider summarize - --context-budget 1500 --explain why
    """
    check_stream(stream, 1, json)
    if not instruction.strip():
        raise OptionError(
            "the instruction is empty", hint="Leave --instruction out, or give an instruction"
        )
    ratio = {} if long_input.context_budget else {"keep_ratio": KEEP_RATIO}
    config = long_input.config(**ratio)
    settings, kept = sampling.given(), caching.given()
    screen = Screen(color)
    with Waiting(screen) as waiting:
        documents = read_places(files, waiting, long_input.document_limits)
        jobs = _jobs(
            [[document] for document in documents] if each else [documents],
            instruction,
            _Asking(tiers, runtime, config, chat),
            long_input.explain,
            waiting,
        )
        waiting.say("loading models")
        how = {"selection": config, "selection_on": long_input.selection_on or "target"}
        generator = load_generator(tiers, runtime, speculation, **how, **kept)
    for job in jobs:
        if each and not json and len(jobs) > 1:
            screen.write(f"--- {job.names[0]} ---\n")
        streamed = not json and (sys.stdout.isatty() if stream is None else stream)
        with Waiting(screen) as waiting:
            waiting.say(f"reading {', '.join(job.names)}")
            shown = screen if streamed else None
            result = run_stream(generator, job.prompt, settings, shown, waiting.end)
        more: dict[str, Any] = {"files": list(job.names)}
        try:
            finish([result], screen, json, streamed, more)
        finally:  # after Ctrl-C, print the text so far
            explain_result(result, job.explain, screen)


@dataclass(frozen=True, slots=True)
class _Asking:
    """Options that all prompts share: models, device, selection, and chat format."""

    tiers: Tiers
    runtime: Runtime
    config: ContextConfig | None
    chat: bool | None


def _jobs(
    groups: Sequence[list[tuple[str, str]]],
    instruction: str,
    asking: _Asking,
    explain: Path | None,
    waiting: Waiting,
) -> list[Job]:
    """Build the prompts before any weight is read, so that errors are reported early."""
    from outrider.engine.load import target_tokenizer

    waiting.say("loading the tokenizer")
    codec = target_tokenizer(asking.tiers.target)
    chat = as_message(codec, asking.chat)
    jobs: list[Job] = []
    folders = _folders(explain, [documents[0][0] for documents in groups])
    for documents, folder in zip(groups, folders, strict=True):
        names = tuple(name for name, _ in documents)
        waiting.say(f"splitting {', '.join(names)} into tokens")
        prompt = prompt_around(codec, documents, instruction, asking.config, chat=chat)
        jobs.append(Job(names, prompt, folder))
    return jobs


def _folders(explain: Path | None, names: Sequence[str]) -> Iterator[Path | None]:
    """Yield the folder of each explanation: subfolders if there are several jobs."""
    for number, name in enumerate(names, start=1):
        if explain is None or len(names) == 1:
            yield explain
        else:
            yield explain / f"{number}-{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}"
