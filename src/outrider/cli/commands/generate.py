"""`outrider generate`: writes a continuation or an answer."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.options.asking import Asked, as_message, asking_note, prompt_format
from outrider.cli.options.constraining import PANEL, Constraining, cut_note
from outrider.cli.options.guiding import Contrast, Guiding, unguided_note
from outrider.cli.options.long_inputs import (
    STDIN,
    LongInput,
    explain_result,
    prompt_around,
    read_places,
)
from outrider.cli.options.options import (
    Runtime,
    Sampling,
    Speculation,
    Tiers,
    load_generator,
    option,
)
from outrider.cli.options.searching import Searching, check_search
from outrider.cli.ui import interrupt
from outrider.cli.ui.render import (
    COLORS,
    Screen,
    guard_note,
    print_json,
    summary,
    weights_note,
)
from outrider.cli.ui.samples import combined
from outrider.cli.ui.searched import print_search, run_search, scorer_note
from outrider.cli.ui.waiting import Waiting
from outrider.cli.ui.weighted import check_particles, print_particles, run_particles
from outrider.core.errors import LogitsError, OptionError

if TYPE_CHECKING:
    from outrider.core.types import Message, Prompt
    from outrider.engine.generator import Generator
    from outrider.engine.result import Result

Color = Annotated[
    str,
    option(
        panel="Output",
        metavar=f"[{'|'.join(COLORS)}]",
        autocompletion=lambda: list(COLORS),
        help="Colour the text by the tier that wrote it; auto: on a terminal.",
    ),
]

Stream = Annotated[
    bool | None,
    option(
        "--stream/--no-stream",
        panel="Output",
        help="Print text as it is written. Default: on a terminal.",
    ),
]

EMPTY = "the text is empty: the model ended it at once, with an end token or a stop string"


def generate(
    prompt: Annotated[str, typer.Argument(help="The question or text; '-' reads it from stdin.")],
    tiers: Tiers,
    speculation: Speculation,
    sampling: Sampling,
    constraining: Constraining,
    guiding: Guiding,
    searching: Searching,
    runtime: Runtime,
    long_input: LongInput,
    documents: Annotated[
        list[Path] | None,
        option(
            panel="Long input",
            metavar="FILE|DIR",
            help="A long input before PROMPT, which is then the "
            "instruction: text, Markdown, HTML, PDF, or a folder of them; '-' reads "
            "stdin. Repeatable.",
        ),
    ] = None,
    particles: Annotated[
        int | None,
        option(
            panel=PANEL,
            min=1,
            help="Sample so many whole texts in proportion to their probability under the model, "
            "and print one that is drawn by its weight. Nothing is drafted. Default of "
            "--temperature: 1.",
        ),
    ] = None,
    contrast: Contrast = None,
    n: Annotated[int, option("--n", panel="Output", help="Number of samples.", min=1)] = 1,
    logprobs: Annotated[
        int | None,
        option(
            panel="Output", help="With --json: number of top log-probabilities per token.", min=0
        ),
    ] = None,
    chat: Asked = None,
    stream: Stream = None,
    color: Color = "auto",
    json: Annotated[
        bool, option("--json", panel="Output", help="Print one JSON object with all figures.")
    ] = False,
) -> None:
    """Answer a prompt, or continue it.

    A model with a chat template answers, any other model continues the text;
    --raw makes every model continue it.
    Text goes to standard output, figures to standard error.
    Ctrl-C stops after the current round and keeps the text so far
    (of one sample).
    Defaults come from the checkpoint's generation_config.json.

    For example:

      outrider generate "Name three primary colors." --target smollm2
      outrider generate "Once upon a time" --raw --max-new-tokens 200
      outrider generate "Name a river." --temperature 0.7 --n 3
      echo "Once upon a time" | outrider generate - --json
      outrider generate "It was" --mode fuzzy --max-changed 2%
      outrider generate "A line about the sea." --search "beam(num_beams=4)" --n 4
      outrider generate "Name a fruit." --guidance 1.5 --contrast "Name a food."
      outrider generate "Once" --target ./big --guidance contrastive --amateur ./small
      outrider generate "Is water wet?" --choice yes --choice no
      outrider generate "A year:" --regex '(1|2)[0-9]{3}' --particles 8
      outrider generate "A person:" --json-schema person.schema.json
      outrider generate "Who pays?" --documents deal.pdf --keep-ratio 0.6
    """
    check_stream(stream, n, json)
    _check_documents(prompt, documents, long_input)
    guided = guiding.given()
    guiding.check_contrast(contrast, bool(documents))
    settings: dict[str, Any] = sampling.given() | constraining.given()
    if logprobs is not None:
        settings["logprobs"] = logprobs
    if particles is not None:
        own = {"--n": n > 1, "--stream": bool(stream), "--logprobs": logprobs is not None}
        own["--explain"] = long_input.explain is not None
        check_particles(settings, own)
    own = {"--particles": particles is not None, "--stream": bool(stream)}
    own |= {"--logprobs": logprobs is not None, "--explain": long_input.explain is not None}
    check_search(searching, settings, own)
    scorer = searching.make_scorer()
    screen = Screen(color)
    text = read_prompt(prompt)
    with Waiting(screen) as waiting:
        long, how = _long_request(text, chat, documents, tiers.target, long_input, waiting)
        generator = load_generator(tiers, runtime, speculation, **how, **guided)
        message = as_message(generator.tokenizer, chat)
        request = long or _asked(text, message)
        if contrast is not None:
            request = generator.prompt(request, contrast=_asked(contrast, message))
        weighted = particles and run_particles(generator, request, particles, settings)
        asked_for, budget = searching.search, searching.budget
        found = asked_for and run_search(generator, request, asked_for, budget, scorer, settings)
        streamed = n == 1 and not json and (sys.stdout.isatty() if stream is None else stream)
        results: list[Result] = []
        if n > 1 and not found:
            results = generator.generate(request, n=n, **settings)
        elif not weighted and not found:
            shown = screen if streamed else None
            if documents:
                waiting.say("reading")
            results = [run_stream(generator, request, settings, shown, waiting.end)]
    asked = [asking_note(generator.tokenizer, message)]
    asked += [weights_note(generator.strategy.target.info)]
    if found:
        print_search(found, screen, n, json, [*asked, scorer_note(found, scorer)])
        return
    if weighted:
        print_particles(weighted, screen, json, asked)
        return
    try:
        notes = [*asked, *dict.fromkeys(cut_note(generator, r, settings) for r in results)]
        notes += dict.fromkeys(guard_note(r.speculation.guard) for r in results)
        notes.append(unguided_note(generator.guidance, results))
        finish(results, screen, json, streamed, prompt_format(message), notes)
    finally:  # after Ctrl-C, print the text so far
        explain_result(results[0], long_input.explain, screen)


def _asked(text: str, message: bool) -> "str | list[Message]":
    """Return a text as the model reads it: a message of a conversation, or the text itself."""
    return [{"role": "user", "content": text}] if message else text


def _long_request(
    text: str,
    chat: bool | None,
    documents: Sequence[Path] | None,
    target: str,
    long_input: LongInput,
    waiting: Waiting,
) -> "tuple[Prompt | None, dict[str, Any]]":
    """Build a prompt from files and instruction, and options of `load`, before any weight is read.

    Without documents there is no such prompt, and only `--chat` is checked.
    """
    from outrider.engine.load import target_tokenizer

    if not documents:
        if chat:
            as_message(target_tokenizer(target), chat)
        return None, {}
    config = long_input.config()
    on = long_input.selection_on or "target"
    how = {} if config is None else {"selection": config, "selection_on": on}
    found = read_places(documents, waiting, long_input.document_limits)
    waiting.say("splitting into tokens")
    codec = target_tokenizer(target)
    prompt = prompt_around(codec, found, text, config, chat=as_message(codec, chat))
    waiting.say("loading models")
    return prompt, how


def read_prompt(prompt: str) -> str:
    """Return the prompt; for `-` read standard input, without the final line break."""
    from outrider.inputs.lines import read_text

    try:
        if prompt == "-":
            if sys.stdin is None:
                raise OptionError("standard input is closed", hint="Give the prompt as an argument")
            prompt = read_text(sys.stdin, "standard input").removesuffix("\n").removesuffix("\r")
        prompt.encode()
    except UnicodeError as error:
        raise OptionError(f"the prompt is not text: {error}", hint="Give UTF-8") from None
    if not prompt:
        raise OptionError("the prompt is empty", hint="Give a text to continue")
    return prompt


def run_stream(
    generator: "Generator",
    request: Any,
    settings: dict[str, Any],
    screen: Screen | None,
    begins: Callable[[], None] = lambda: None,
) -> "Result":
    """Generate one text, and stream it to the screen if there is one; Ctrl-C ends it early.

    Raises `Stopped` for Ctrl-C while the prompt is read.

    `begins` is called before the first text is written to the screen.
    """
    stream = generator.stream(request, **settings)
    with interrupt.cancelling(stream.cancel, lambda: stream.begun):
        for piece, source in stream.spans():
            if screen is not None:
                begins()
                screen.write(piece, source)
    return stream.result


def finish(
    results: Sequence["Result"],
    screen: Screen,
    json: bool,
    streamed: bool,
    more: Mapping[str, Any] = MappingProxyType({}),
    notes: Sequence[str] = (),
) -> None:
    """Print the rest of the output; raise for unusable logits, exit with 130 after Ctrl-C.

    `more` is printed with the figures, if these are printed; each of `notes` is a line.
    """
    figures = combined(results) | dict(more)
    if json:
        print_json(figures)
    else:
        if not streamed:
            _print_texts(results, screen)
        sys.stdout.write("\n" if len(results) == 1 else "")
        screen.legend(figures["speculation"]["sources"])
        screen.note(summary(figures))
        for note in filter(None, notes):
            screen.note(note)
        if any(not r.text and r.finish_reason == "stop" for r in results):
            screen.note(EMPTY)
    for result in results:
        if result.error:
            raise LogitsError(result.error)
    if any(r.finish_reason == "cancelled" for r in results):
        raise typer.Exit(interrupt.EXIT_CODE)


def _print_texts(results: Sequence["Result"], screen: Screen) -> None:
    for number, result in enumerate(results, start=1):
        if len(results) > 1:
            screen.write(f"--- {number} of {len(results)} ---\n")
        screen.write_spans(result.spans())
        screen.write("\n" if len(results) > 1 else "")


def check_stream(stream: bool | None, n: int, json: bool) -> None:
    """Raise `OptionError` if the options exclude streaming."""
    if stream and (n > 1 or json):
        raise OptionError(
            f"--stream cannot be combined with {'--json' if json else '--n above 1'}",
            hint="Leave one of them out",
        )


def _check_documents(prompt: str, documents: Sequence[Path] | None, long_input: LongInput) -> None:
    given = long_input.any
    if given is not None and not documents:
        raise OptionError(
            f"{given} is given, but there is no long input",
            hint="Give --documents FILE, or leave it out",
        )
    if documents and prompt == STDIN and STDIN in map(str, documents):
        raise OptionError(
            "prompt and --documents are both standard input", hint="Give the prompt as an argument"
        )
