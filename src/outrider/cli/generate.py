"""`outrider generate`: a continuation, or an answer."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli import interrupt
from outrider.cli.options import (
    Runtime,
    Sampling,
    Speculation,
    Tiers,
    load_generator,
    option,
)
from outrider.cli.render import COLORS, Screen, print_json, summary
from outrider.cli.samples import combined
from outrider.errors import LogitsError, OptionError

if TYPE_CHECKING:
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


def generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on from; '-' reads it from stdin.")],
    tiers: Tiers,
    speculation: Speculation,
    sampling: Sampling,
    runtime: Runtime,
    n: Annotated[int, option("--n", panel="Output", help="Samples of the prompt.", min=1)] = 1,
    logprobs: Annotated[
        int | None,
        option(
            panel="Output", help="With --json: this many best log-probabilities a token.", min=0
        ),
    ] = None,
    chat: Annotated[
        bool,
        option(
            "--chat/--raw", panel="Output", help="Read PROMPT as a user's message, or as it is."
        ),
    ] = False,
    stream: Annotated[
        bool | None,
        option(
            "--stream/--no-stream",
            panel="Output",
            help="Print text as it is written. Default: on a terminal.",
        ),
    ] = None,
    color: Color = "auto",
    json: Annotated[
        bool, option("--json", panel="Output", help="Print one JSON object with all figures.")
    ] = False,
) -> None:
    """Write on from a prompt, or answer it.

    Text goes to standard output, one line of figures to standard error.
    Ctrl-C stops after the current round and keeps what is written
    (of one sample).
    What is left out follows the checkpoint's generation_config.json.

    For example:

      outrider generate "Once upon a time" --max-new-tokens 200
      outrider generate "Name a river." --chat --temperature 0.7 --n 3
      echo "Once upon a time" | outrider generate - --json
      outrider generate "It was" --mode fuzzy --max-changed 2%
    """
    _check_stream(stream, n, json)
    settings = sampling.given() | ({} if logprobs is None else {"logprobs": logprobs})
    screen = Screen(color)
    text = read_prompt(prompt)
    generator = load_generator(tiers, runtime, speculation)
    request: Any = [{"role": "user", "content": text}] if chat else text
    if n > 1:
        results = generator.generate(request, n=n, **settings)
        finish(results, screen, json, streamed=False)
        return
    streamed = not json and (sys.stdout.isatty() if stream is None else stream)
    result = run_stream(generator, request, settings, screen if streamed else None)
    finish([result], screen, json, streamed)


def read_prompt(prompt: str) -> str:
    """The prompt; from standard input for `-`, without the line break that ends it."""
    try:
        if prompt == "-":
            prompt = sys.stdin.read().removesuffix("\n").removesuffix("\r")
        prompt.encode()
    except UnicodeError as error:
        raise OptionError(f"the prompt is not text: {error}", hint="Send UTF-8") from None
    if not prompt:
        raise OptionError("the prompt is empty", hint="Give some text to go on from")
    return prompt


def run_stream(
    generator: "Generator", request: Any, settings: dict[str, Any], screen: Screen | None
) -> "Result":
    """Write one text, to the screen as it comes if there is one; Ctrl-C ends it early."""
    stream = generator.stream(request, **settings)
    with interrupt.cancelling(stream.cancel):
        for piece, source in stream.spans():
            if screen is not None:
                screen.write(piece, source)
    return stream.result


def finish(results: Sequence["Result"], screen: Screen, json: bool, streamed: bool) -> None:
    """Print what is not printed yet; raise for faulty logits, exit 130 after Ctrl-C."""
    figures = combined(results)
    if json:
        print_json(figures)
    else:
        if not streamed:
            _print_texts(results, screen)
        sys.stdout.write("\n" if len(results) == 1 else "")
        screen.legend(figures["speculation"]["sources"])
        screen.note(summary(figures))
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


def _check_stream(stream: bool | None, n: int, json: bool) -> None:
    if stream and (n > 1 or json):
        raise OptionError(
            f"--stream can not be combined with {'--json' if json else '--n above 1'}",
            hint="Leave one of them out",
        )
