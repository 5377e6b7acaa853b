"""Turns training text into token files: reads, formats, mixes, tokenizes, cuts into windows."""

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from tokenizers import Tokenizer

from outrider.core.errors import OptionError, nearest
from outrider.inputs.lines import numbered_lines
from outrider.training.core.config import Corpus, FamilyConfig, Source
from outrider.training.core.copy_tasks import copy_task
from outrider.training.core.formats import END_OF_TEXT, FORMATS, Format, Record

_FORMATS: dict[str, Format] = {**FORMATS, "copy_task": copy_task}
_SHUFFLE_BLOCK = 2048


@runtime_checkable
class CorpusRecipe(Protocol):
    """A recipe of a training that reads a corpus."""

    @property
    def corpus(self) -> Corpus:
        """What it is made of."""
        ...

    @property
    def seed(self) -> int:
        """The seed of its order."""
        ...


def data_folder(folder: Path | None) -> Path:
    """Return the folder of the data sets. Raises `OptionError` if there is none."""
    if folder is None or not folder.is_dir():
        raise OptionError(f"no data directory at {folder}", hint="Give it with --data DIR")
    return folder


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a `.jsonl` or `.jsonl.zst` file.

    Raises `OptionError` if the file is missing, `MissingExtraError` without zstandard.
    """
    if not path.is_file():
        raise OptionError(f"no data file at {path}", hint="Give the data directory with --data")
    yield from (json.loads(line) for _, line in numbered_lines(path))


def documents(source: Source, data: Path, seed: int) -> list[str]:
    """Return all documents of a source, in file order; random choices depend only on `seed`."""
    if source.format not in _FORMATS:
        raise OptionError(
            f"source {source.name!r} has unknown format {source.format!r}",
            hint=nearest(source.format, _FORMATS),
        )
    rng = random.Random(f"{seed}/{source.name}")
    make = _FORMATS[source.format]
    found: list[str] = []
    for record in read_records(data / source.file):
        found += (document for document in make(record, rng) if document)
    return found


def sample_texts(config: FamilyConfig, data: Path) -> Iterator[str]:
    """Yield documents of the mix by weight, up to `sample_bytes` of the vocabulary."""
    total = sum(source.weight for source in config.corpus.sources)
    for source in config.corpus.sources:
        left = config.vocabulary.sample_bytes * source.weight / total
        found = documents(source, data, config.seed)
        random.Random(config.seed).shuffle(found)
        for document in found:
            if left <= 0:
                break
            left -= len(document)
            yield document


def build_corpus(config: CorpusRecipe, data: Path, tokenizer: Tokenizer, folder: Path) -> None:
    """Write `train.npy` (tokens of the mix) and `heldout.<domain>.npy` below `folder`.

    A source whose share of the corpus is p times its size is read p times (at most `passes`). Its
    documents are spread evenly, so that every part of the stream has the same mix.
    """
    total = sum(source.weight for source in config.corpus.sources)
    keys: list[np.ndarray] = []
    pieces: list[np.ndarray] = []
    for number, source in enumerate(config.corpus.sources):
        encoded = _encode(documents(source, data, config.seed), tokenizer)
        size = sum(map(len, encoded))
        wanted = config.corpus.tokens * source.weight / total
        passes = min(wanted / size, source.passes)
        rng = np.random.default_rng([config.seed, number])
        for round_number in range(math.ceil(passes)):
            key = (round_number + rng.random(len(encoded))) / passes
            chosen = np.flatnonzero(key < 1)
            keys.append(key[chosen])
            pieces += [encoded[index] for index in chosen]
        print(f"corpus: {source.name}: {size} tokens, {passes:.2f} passes", flush=True)
    order = np.argsort(np.concatenate(keys), kind="stable")
    stream = np.concatenate([pieces[index] for index in order])
    np.save(folder / "train.npy", stream)
    for source in config.corpus.heldout:
        _save_heldout(source, config, data, tokenizer, folder)


def _save_heldout(
    source: Source, config: CorpusRecipe, data: Path, tokenizer: Tokenizer, folder: Path
) -> None:
    encoded = _encode(documents(source, data, config.seed)[:2000], tokenizer)
    order = np.random.default_rng(config.seed).permutation(len(encoded))
    stream = np.concatenate([encoded[index] for index in order])
    np.save(folder / f"heldout.{source.name}.npy", stream[: config.corpus.heldout_tokens])


def _encode(texts: list[str], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Encode each text with the end-of-text token at its end; uint16 if ids fit."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    kind = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32
    encoded: list[np.ndarray] = []
    for start in range(0, len(texts), 1000):
        batch = tokenizer.encode_batch_fast(texts[start : start + 1000])
        encoded += [np.array([*item.ids, end], dtype=kind) for item in batch]
    return encoded


class Windows:
    """Fixed windows of a token stream, shuffled within blocks.

    The data of a batch depend only on its number. No random state is needed, so training can resume
    from a step number.
    """

    def __init__(self, stream: np.ndarray, length: int, part: tuple[float, ...], seed: int) -> None:
        begin, end = (int(fraction * len(stream)) for fraction in part)
        self._stream = stream
        self._begin = begin
        self._length = length
        self._seed = seed
        self.count = (end - begin) // length
        if self.count < 1:
            raise OptionError(
                f"{end - begin} corpus tokens are too few for a window of {length}",
                hint="Raise corpus.tokens or lower sequence_length",
            )

    def rows(self, first: int, number: int) -> np.ndarray:
        """Return windows `first` to `first + number` as int64 [number, length]; wraps at the
        end.
        """
        return np.stack([self._row(index % self.count) for index in range(first, first + number)])

    def _row(self, index: int) -> np.ndarray:
        block = index // _SHUFFLE_BLOCK
        size = min(_SHUFFLE_BLOCK, self.count - block * _SHUFFLE_BLOCK)
        order = np.random.default_rng([self._seed, block]).permutation(size)
        window = block * _SHUFFLE_BLOCK + int(order[index % _SHUFFLE_BLOCK])
        start = self._begin + window * self._length
        return self._stream[start : start + self._length].astype(np.int64)
