"""Ids from llama.cpp. `python -m` on this module writes them for the fast tests.

The module `llama_cpp` is needed for this only.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from outrider.core.values import JsonValue
from outrider.models.checkpoints.gguf_tokens.expressions import SPLITTINGS
from tests.models.checkpoints.gguf_tokens.lines import draw_lines
from tests.models.checkpoints.gguf_tokens.toys import MARKS, SENTENCE_PIECES, toy, write_vocabulary

FILE = Path(__file__).with_name("llama_cpp_ids.json")
NAMES = (*SENTENCE_PIECES, *SPLITTINGS)
SHOWN = ("llama", "smollm")
"""Names whose first ids are in the file; of the others it holds a hash of all ids only."""

Encode = Callable[[str, bool], list[int]]
"""Encodes a text, with special tokens found in it or with their texts read as plain text."""


def lines() -> list[str]:
    """Return the lines of the fast tests."""
    return draw_lines(80, MARKS, seed=11)


def hash_of(ids: Sequence[Sequence[int]]) -> str:
    """Return a short hash of the ids of all lines."""
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:10]


def open_llama_cpp(file: Path) -> Encode:
    """Return the tokenizer of llama.cpp, with BOS and EOS as the file says.

    Without special tokens, there is neither BOS nor EOS.
    """
    import llama_cpp

    model = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    return lambda text, special: model.tokenize(text.encode(), add_bos=special, special=special)


def of_metadata(metadata: Mapping[str, JsonValue]) -> Encode:
    """Return the tokenizer of llama.cpp for a vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocabulary.gguf"
        write_vocabulary(metadata, file)
        return open_llama_cpp(file)


def main() -> None:
    """Write the file."""
    found: dict[str, JsonValue] = {}
    for name in NAMES:
        encode = of_metadata(toy(name))
        ids = [encode(line, True) for line in lines()]
        found[name] = {"hash": hash_of(ids)} | ({"first": ids[:20]} if name in SHOWN else {})
    rows = (f'"{name}": {json.dumps(one, separators=(",", ":"))}' for name, one in found.items())
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
