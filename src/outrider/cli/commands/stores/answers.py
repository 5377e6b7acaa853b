"""`outrider datastore answers`: builds a store of logits from verified answers."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.cli.ui.render import Screen
from outrider.core.errors import OptionError


def answers(
    file: Annotated[
        Path, typer.Argument(help="JSON lines with 'question' and 'answer' (.zst too).")
    ],
    out: Annotated[Path, typer.Option(help="File of the store, such as facts.safetensors.")],
    target: Annotated[
        str, typer.Option(help="The target: a family, a known model, a folder or a hub name.")
    ],
    layer: Annotated[
        int | None, typer.Option(help="Layer that describes contexts. Default: 7/8 of all.")
    ] = None,
    told: Annotated[
        bool, typer.Option("--told", help="Take logits of the target that was told the answer.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing store.")] = False,
) -> None:
    """Build a store of logits from verified answers, for the guidance caad.

    The answers should be written as the target would write them.
    A store fits only the target that it was built with.

    For example:

      outrider datastore answers facts.jsonl --out facts.safetensors --target smollm2
    """
    import outrider
    from outrider.guidance.retrieval.building import AnswerCodec, build_store, read_answers
    from outrider.guidance.retrieval.store import refuse_taken

    refuse_taken(out, force)
    pairs = read_answers(file)
    generator = outrider.load(target, mode="none")
    codec = generator.tokenizer
    if not isinstance(codec, AnswerCodec):
        raise OptionError(f"{target} has no tokenizer", hint="Give a folder with a tokenizer")
    store = build_store(generator.strategy.target, codec, pairs, layer=layer, told=told)
    store.save(out, force=force)
    row = {
        "path": str(out),
        "answers": str(store.origin.answers),
        "contexts": str(len(store)),
        "layer": str(store.origin.layer),
        "told": str(store.origin.told).lower(),
        "bytes": f"{out.stat().st_size / 1e6:.1f} MB",
        "model": store.origin.model[:12],
        "tokenizer": store.origin.tokenizer[:12],
    }
    Screen().table(
        "Store of logits", [{"": name, "value": value} for name, value in row.items()], labels=2
    )
