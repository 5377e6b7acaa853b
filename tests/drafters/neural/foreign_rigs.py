"""Two vocabularies over the same texts: letters for the target, letters and pairs for the draft."""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import torch
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from outrider.drafters import Universal
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.tabular import TabularModel
from outrider.models.wrappers.foreign import ForeignModel
from outrider.protocols import LanguageModel
from outrider.testing.rigs import Family

LETTERS = "abcdefg"
PAIRS = ("bc", "de", "fg", "cc", "ea", "bcde", "gf")
"""Tokens of the draft model beside single letters, each made of two earlier ones."""

_BOOST = 1.5
"""Added to the logits of pairs, so that they are often the best."""

CORPUS = [
    "Once upon a time there was a little girl named Lily. She loved to play outside.",
    "The children's garden was full of flowers, and it's raining: don't go out!\n\nOne day...",
    "Straße, Čeština, naïve café, 日本語のテキスト, Ελληνικά, emoji 🙂🙃 and 1234567890.",
    "def f(x):\n    return x + 1\n\n\tprint(f(3))  # three",
]


@cache
def letters(size: int = 7) -> Tokenizer:
    """The target's tokenizer: token i is the letter of `testing.rigs.letter`."""
    return _spelled(LETTERS[:size], (), "letters")


@cache
def pairs(size: int = 7) -> Tokenizer:
    """The draft model's tokenizer: the same letters in another order, and pairs of them."""
    known = LETTERS[:size]
    more = PAIRS if size == len(LETTERS) else ("bc", "ab")
    return _spelled(known[::-1], more, "pairs")


def _spelled(first: str, more: Sequence[str], name: str) -> Tokenizer:
    vocab = {piece: i for i, piece in enumerate([*first, *more])}
    merges = [next(_halves(piece, vocab)) for piece in more]
    core = Core(models.BPE(vocab=vocab, merges=merges))
    core.decoder = decoders.Fuse()
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=core), name=name)


def _halves(piece: str, vocab: dict[str, int]) -> Iterator[tuple[str, str]]:
    for at in range(1, len(piece)):
        if piece[:at] in vocab and piece[at:] in vocab:
            yield piece[:at], piece[at:]


@cache
def _table(near: TabularModel) -> Tensor:
    """The logits of the tokens that are letters and pairs, after each two of them."""
    logs = near.table.log_softmax(-1).tolist()
    own = pairs(near.info.vocab_size)
    spelled = [[LETTERS.index(c) for c in own.decode([t])] for t in range(len(own.table))]

    def chance(before: Sequence[int], written: Sequence[int]) -> float:
        whole = [*before, *written]
        steps = (logs[whole[i]][whole[i + 1]][whole[i + 2]] for i in range(len(written)))
        return sum(steps) + _BOOST * (len(written) - 1)

    def row(first: Sequence[int], second: Sequence[int]) -> list[float]:
        return [chance((*first, *second)[-2:], written) for written in spelled]

    rows = [[row(first, second) for second in spelled] for first in spelled]
    return torch.tensor(rows, dtype=torch.float64)


def pair_model(near: LanguageModel, *, context_length: int = 1 << 20) -> TabularModel:
    """The probabilities of a table of letters, for tokens that are letters and pairs."""
    assert isinstance(near, TabularModel)
    return TabularModel(_table(near).clone(), name="pairs", context_length=context_length)


def foreign(model: LanguageModel, *, own: Tokenizer, target: Tokenizer) -> ForeignModel:
    return ForeignModel(model, own=own, target=target, target_size=len(target.table))


def paired(family: Family, *, context_length: int = 1 << 20, **options: object) -> Universal:
    """The drafter of a family of tables of letters."""
    model = pair_model(family.draft, context_length=context_length)
    size = family.draft.info.vocab_size
    return Universal(model=foreign(model, own=pairs(size), target=letters(size)), **options)  # pyright: ignore


@cache
def byte_level(size: int, *, texts: int = 4) -> Tokenizer:
    """A byte-level vocabulary that is trained on the first of `CORPUS`, with an end token."""
    core = Core(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<end>", "<mark>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS[:texts] * 2, trainer)
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>"))


@cache
def sentence_piece() -> Tokenizer:
    """Words with a mark for the space before them, a space before every text, and bytes."""
    words = sorted({word for text in CORPUS[:2] for word in text.split()})
    pieces = [f"\u2581{word}" for word in words]
    symbols = sorted({letter for piece in pieces for letter in piece})
    names = ["<end>", *(f"<0x{byte:02X}>" for byte in range(256)), *symbols]
    vocab = {name: i for i, name in enumerate(names)}
    merges: list[tuple[str, str]] = []
    for piece in pieces:
        grown = piece[0]
        for _, letter in pairwise(piece):
            if grown + letter not in vocab:
                vocab[grown + letter] = len(vocab)
                merges.append((grown, letter))
            grown += letter
    core = Core(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token=None))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    core.add_special_tokens(["<end>"])
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>"))
