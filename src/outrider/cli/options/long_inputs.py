"""Options for long inputs; reads files before a model is loaded."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

from outrider.cli.options.groups import given_fields
from outrider.cli.options.numbers import share
from outrider.cli.options.options import option
from outrider.cli.ui.render import Screen
from outrider.cli.ui.waiting import Waiting
from outrider.context.config import (
    CONTEXT_ON,
    POSITIONS,
    RECOMPUTE,
    ContextConfig,
)
from outrider.core.errors import OptionError, nearest
from outrider.core.values import JsonValue
from outrider.strategy.catalogue import names

if TYPE_CHECKING:
    from outrider.core.types import Prompt
    from outrider.engine.result import Result
    from outrider.inputs.documents.limits import DocumentLimits
    from outrider.models.checkpoints.tokenizer import Tokenizer

STDIN = "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selecting:
    """Options for how much of a long input is read."""

    keep_ratio: Annotated[
        str | None,
        option(
            panel="Long input",
            metavar="SHARE",
            help="Read this share of the chunks at a time, such as 0.6 or 60%.",
        ),
    ] = None
    context_budget: Annotated[
        int | None,
        option(
            panel="Long input",
            help="Hold at most this many tokens of the prompt at a time, instruction included.",
            min=1,
        ),
    ] = None
    refresh: Annotated[
        int | None,
        option(
            panel="Long input",
            help="Select chunks again after this many generated tokens; 0: never. Default: 128.",
            min=0,
        ),
    ] = None
    selection_on: Annotated[
        str | None,
        option(
            panel="Long input",
            metavar=f"[{'|'.join(CONTEXT_ON)}]",
            autocompletion=lambda: list(CONTEXT_ON),
            help="target: every model reads a selection. drafters: the target reads everything, "
            "and the text does not change. Default: target.",
        ),
    ] = None
    chunk_size: Annotated[
        int | None,
        option(panel="Long input", help="Tokens of a chunk. Default: 256.", min=1),
    ] = None
    selector: Annotated[
        str | None,
        option(
            panel="Long input",
            metavar=f"[{'|'.join(names('selector'))}]",
            autocompletion=lambda: names("selector"),
            help="How chunks are scored. apce: by meaning and words, "
            "against the instruction and the last generated tokens. static: by the "
            "instruction only. cosine: by meaning only. bm25: by words only. first, ends, "
            "random: baselines. Default: apce.",
        ),
    ] = None
    encoder: Annotated[
        str | None,
        option(
            panel="Long input",
            metavar="NAME|FOLDER",
            help="Encoder of text as vectors: embeddings (the model's "
            "input embeddings), minilm, or a model of sentence-transformers. Default: "
            "embeddings.",
        ),
    ] = None
    recompute: Annotated[
        str | None,
        option(
            panel="Long input",
            metavar=f"[{'|'.join(RECOMPUTE)}]",
            autocompletion=lambda: list(RECOMPUTE),
            help="Tokens that are read again after a swap. suffix: all "
            "tokens after the change. new_only: the new chunks. partial: the new chunks "
            "and a share of the tokens after them. Default: new_only, or suffix if "
            "positions are compact.",
        ),
    ] = None
    positions: Annotated[
        str | None,
        option(
            panel="Long input",
            metavar=f"[{'|'.join(POSITIONS)}]",
            autocompletion=lambda: list(POSITIONS),
            help="original: tokens keep their positions in the whole "
            "input. compact: positions without gaps. auto: original if the whole input "
            "fits into the window. Default: auto.",
        ),
    ] = None

    def config(self, **defaults: JsonValue) -> ContextConfig | None:
        """Build the selection; None reads everything, which is the default.

        Raises:
            OptionError: a value is out of range, or an option requires another one.
        """
        if self.selection_on is not None and self.selection_on not in CONTEXT_ON:
            raise OptionError(
                f"unknown selection_on {self.selection_on!r}",
                hint=nearest(self.selection_on, CONTEXT_ON),
            )
        given = given_fields(self)
        own = {field.name for field in fields(Selecting)} - {"selection_on"}
        found = {name: value for name, value in given.items() if name in own}
        if "keep_ratio" in found:
            found["keep_ratio"] = share("keep_ratio", found["keep_ratio"])
        if "context_budget" in found:
            found["budget"] = found.pop("context_budget")
        if found | defaults:
            return ContextConfig.of(**(defaults | found))
        for name in given:
            if name != "document_limits":
                raise OptionError(
                    f"{as_typed(name)} is given, but everything is read",
                    hint="Give --keep-ratio or --context-budget as well",
                )
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class LongInput(Selecting):
    """Options for documents, and for how much of them is read."""

    document_limits: Annotated[
        str | None,
        option(
            panel="Long input",
            metavar="LIMIT=NUMBER,...",
            help='Limits on each document, such as "pages=5000,seconds=120": bytes, '
            "expanded_bytes, elements, pages, depth, folder_depth, files, seconds, memory_bytes.",
        ),
    ] = None
    explain: Annotated[
        Path | None,
        option(
            panel="Long input",
            metavar="DIR",
            help="Write a map of the chunks read, the shaded text and all scores into this folder.",
        ),
    ] = None

    @property
    def any(self) -> str | None:
        """Return the first option that was given, as typed."""
        return next(map(as_typed, given_fields(self)), None)

    def config(self, **defaults: JsonValue) -> ContextConfig | None:
        """Build the selection; see `Selecting.config`."""
        found = Selecting.config(self, **defaults)
        if found is not None and self.explain is not None:
            from outrider.context.explain.folder import check_folder

            check_folder(self.explain)
        return found


def as_typed(name: str) -> str:
    """Return the option of a field."""
    return f"--{name.replace('_', '-')}"


def read_places(
    places: Sequence[str | Path], waiting: Waiting, document_limits: str | None = None
) -> list[tuple[str, str]]:
    """Read the documents at `places`; `-` is standard input. Raises `OptionError`."""
    from outrider.inputs.documents.files import read_files
    from outrider.inputs.documents.limits import DocumentLimits

    limits = DocumentLimits.parse(document_limits or "")
    found: list[tuple[str, str]] = []
    named: list[str | Path] = []
    for place in places:
        if str(place) == STDIN:
            if any(name == "stdin" for name, _ in found):
                raise OptionError("standard input is given twice", hint="Give '-' once")
            found.append(("stdin", _stdin(limits)))
        else:
            named.append(place)
    return [*found, *(read_files(named, waiting.file, limits=limits) if named else [])]


def prompt_around(
    codec: "Tokenizer",
    documents: Sequence[tuple[str, str]],
    instruction: str,
    config: ContextConfig | None,
    *,
    chat: bool,
) -> "Prompt":
    """Build a prompt from documents and an instruction before any weight is read.

    A prompt that does not fit is thus refused early. Raises `OptionError`, and `ContextError` for a
    budget that is too small.
    """
    from outrider.inputs.prompts.long_prompts import check_budget
    from outrider.inputs.prompts.reading import read_long_prompt

    size = (config or ContextConfig()).chunk_size
    prompt = read_long_prompt(instruction, documents, codec, size, chat=chat)
    if config is not None and config.budget is not None:
        check_budget(prompt, config.budget)
    return prompt


def explain_result(result: "Result", folder: Path | None, screen: Screen) -> None:
    """Write an explanation into `folder`, if a folder is given and a selection was made."""
    if folder is None or result.error:
        return
    if result.reading is None:
        screen.note("no explanation: no drafter made a selection, and the target reads everything")
        return
    from outrider.context.explain.folder import explain

    written = explain(result.reading, folder, written=result.completion_tokens, answer=result.text)
    screen.note(f"explained in {', '.join(str(file) for file in written)}")


def _stdin(limits: "DocumentLimits") -> str:
    from outrider.inputs.documents.files import read_stream

    if sys.stdin is None:  # closed by the parent process
        raise OptionError("standard input is closed", hint="Give a file, or pipe a text")
    raw: BinaryIO | None = getattr(sys.stdin, "buffer", None)
    try:
        if raw is None:  # replaced by a stream of text
            raw = BytesIO(sys.stdin.read().encode())
        return read_stream(raw, "standard input", limits=limits)
    except OSError as error:
        raise OptionError(f"standard input cannot be read: {error.strerror or error}") from None
