"""Texts with labels, and texts without, for the training of a memory."""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from outrider.core.errors import OptionError
from outrider.training.bottleneck.config import BottleneckRecipe, TextFile
from outrider.training.core.corpus import read_records


def texts_by_label(recipe: BottleneckRecipe, data: Path) -> Mapping[str, Sequence[str]]:
    """Return `per_label + held_out` different texts of each label, in random order.

    Raises:
        OptionError: no data, records without the fields, or fewer texts of a label.
    """
    wanted = recipe.per_label + recipe.held_out
    found: dict[str, dict[str, None]] = {label: {} for label in recipe.labels}
    for text, label in _records(recipe.labelled, data):
        if label in found:
            found[label][text] = None
    chosen: dict[str, Sequence[str]] = {}
    for label, texts in found.items():
        if len(texts) < wanted:
            raise OptionError(
                f"label {label!r} has {len(texts)} texts, and {wanted} are asked for",
                hint="Lower per_label or held_out, or correct the label",
            )
        chosen[label] = random.Random(f"{recipe.seed}/{label}").sample(list(texts), wanted)
    return chosen


def unlabelled_texts(recipe: BottleneckRecipe, data: Path) -> Sequence[str]:
    """Return at most `unlabelled_texts` different texts whose label is in no task.

    Raises:
        OptionError: no data, records without the fields, or fewer texts than keys of a book.
    """
    known = {*recipe.labels}
    texts = list(
        dict.fromkeys(
            text for text, label in _records(recipe.unlabelled, data) if label not in known
        )
    )
    if len(texts) < recipe.keys:
        raise OptionError(
            f"there are {len(texts)} unlabelled texts for {recipe.keys} keys",
            hint="Name another file, or lower keys",
        )
    count = min(len(texts), max(recipe.unlabelled_texts, recipe.keys))
    return random.Random(recipe.seed).sample(texts, count)


def _records(file: TextFile, data: Path) -> Iterator[tuple[str, str]]:
    """Yield text and label of each record; the label is empty without a field of labels."""
    names = [file.text, *([file.label] if file.label else [])]
    for record in read_records(data / file.file):
        for name in names:
            if not isinstance(record, dict) or not isinstance(record.get(name), str):
                raise OptionError(
                    f"a record of {file.file} has no text {name!r}", hint="Name another field"
                )
        yield record[file.text], record[file.label] if file.label else ""
