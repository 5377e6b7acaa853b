"""`outrider datastore`: builds datastores for drafters that retrieve, and stores of answers."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.ui.render import Screen, print_json
from outrider.core.errors import CheckpointError, OptionError, nearest
from outrider.inputs.documents.corpora import CorpusFiles, corpus_files, read_documents

if TYPE_CHECKING:
    from outrider.memories.corpus import Corpus
    from outrider.memories.frozen import FrozenAutomaton
    from outrider.memories.store import Document, StorePage
    from outrider.models.checkpoints.tokenizer import Tokenizer

_NAMED = 5
"""Largest number of skipped files that are named."""

KINDS = {
    "rest": "a suffix array, for --drafter rest",
    "sam": "an automaton of at most 4 million tokens, for --drafter sam",
}

datastore = typer.Typer(
    help="Build a store from a corpus, for the drafters rest "
    "and sam.\n\n"
    "For example:\n\n"
    "  outrider datastore build notes.txt --out store --tokenizer tiny",
    no_args_is_help=True,
)


@datastore.command()
def build(
    corpus: Annotated[
        list[Path],
        typer.Argument(help="Files of text or JSON lines (.zst too), or folders of them."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the store.")],
    tokenizer: Annotated[
        str, typer.Option(help="The target: a folder, a hub name or a family name.")
    ],
    kind: Annotated[
        str, typer.Option(help="; ".join(f"{name}: {what}" for name, what in KINDS.items()) + ".")
    ] = "rest",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing store.")] = False,
) -> None:
    """Build a datastore from a corpus, in the tokens of the target.

    JSON lines hold their text under "text", or under "prompt" and "response".
    In folders, hidden files and READMEs are skipped.
    A store fits only targets with the same tokenizer.

    For example:

      outrider datastore build notes.txt talks.jsonl.zst --out store --tokenizer tiny
      outrider generate "Once upon a time" --drafter rest --datastore store
    """
    from outrider.memories.store import StorePage, refuse_taken

    if kind not in KINDS:
        raise OptionError(f"unknown kind {kind!r}", hint=nearest(kind, KINDS))
    refuse_taken(out, force)
    files = corpus_files(corpus)
    words = _tokenizer(tokenizer)
    screen = Screen()
    documents = list(_encoded(files.read, words, screen))
    page = StorePage(
        kind=kind,
        fingerprint=words.fingerprint,
        vocab_size=words.vocab_size,
        tokens=sum(map(len, documents)),
        documents=len(documents),
        tokenizer=tokenizer,
    )
    _built(kind, documents, screen).write(out, page, force=force)
    _print(out, page, screen, _sources(files))


@datastore.command()
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


@datastore.command("info")
def show(
    path: Annotated[Path, typer.Argument(help="Folder of a store.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the content of a datastore, and its tokenizer.

    For example:

      outrider datastore info store
    """
    from outrider.memories.store import read_page

    page = read_page(path)
    if json:
        print_json(facts(path, page))
    else:
        _print(path, page, Screen())


def facts(path: Path, page: "StorePage") -> dict[str, Any]:
    """Describe a store as plain data."""
    from outrider.memories.store import size_on_disk

    return {
        "path": str(path),
        "kind": page.kind,
        "tokens": page.tokens,
        "documents": page.documents,
        "bytes": size_on_disk(path),
        "vocab_size": page.vocab_size,
        "tokenizer": page.tokenizer,
        "fingerprint": page.fingerprint,
        "version": page.version,
    }


def _sources(files: CorpusFiles) -> dict[str, str]:
    """Summarize which files were read and which were skipped."""
    kinds = Counter(_ending(file) for file in files.read)
    read = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    sources = {"read": f"{len(files.read)} file{'s' * (len(files.read) > 1)} ({read})"}
    if files.passed_over:
        first = ", ".join(file.name for file in files.passed_over[:_NAMED])
        more = len(files.passed_over) - _NAMED
        sources["passed over"] = first + (f" and {more} more" if more > 0 else "")
    return sources


def _ending(file: Path) -> str:
    packed = "".join(file.suffixes[-2:]) if file.suffix == ".zst" else file.suffix
    return packed or "without an ending"


def _print(
    path: Path, page: "StorePage", screen: Screen, sources: "dict[str, str] | None" = None
) -> None:
    row = {name: str(value) for name, value in facts(path, page).items()}
    row["bytes"] = f"{int(row['bytes']) / 1e6:.1f} MB"
    row["fingerprint"] = row["fingerprint"][:12]
    row |= sources or {}
    screen.table("Datastore", [{"": name, "value": value} for name, value in row.items()], labels=2)


def _tokenizer(source: str) -> "Tokenizer":
    from outrider.models.loading import tokenizer_for
    from outrider.models.sources.families import families_folder, family

    shipped = not Path(source).exists() and (families_folder() / source / "target").is_dir()
    found = tokenizer_for(str(family(source)["target"]) if shipped else source)
    if found is None:
        raise CheckpointError(
            f"there is no tokenizer at {source}", hint="Give the target's folder or hub name"
        )
    return found


def _encoded(files: Sequence[Path], words: "Tokenizer", screen: Screen) -> "Iterator[Document]":
    """Yield the ids of each document that is not empty, with a progress bar."""
    import numpy as np
    from rich.progress import Progress

    with Progress(console=screen.err, transient=True, disable=not screen.err.is_terminal) as bar:
        task = bar.add_task("Reading", total=sum(file.stat().st_size for file in files))
        for file in files:
            for text in read_documents(file):
                ids = words.encode_plain(text)
                if ids:
                    yield np.array(ids, dtype=np.int32)
            bar.advance(task, file.stat().st_size)


def _built(kind: str, documents: "list[Document]", screen: Screen) -> "Corpus | FrozenAutomaton":
    """Build the store of this kind, with a progress bar."""
    from rich.progress import Progress

    from outrider.memories.corpus import Corpus
    from outrider.memories.frozen import FrozenAutomaton

    with Progress(console=screen.err, transient=True, disable=not screen.err.is_terminal) as bar:
        if kind == "sam":
            task = bar.add_task("Building", total=sum(map(len, documents)))
            return FrozenAutomaton.build(documents, progress=lambda n: bar.advance(task, n))
        task = bar.add_task("Sorting", total=None)
        return Corpus.build(
            documents, progress=lambda done, of: bar.update(task, completed=done, total=of)
        )
