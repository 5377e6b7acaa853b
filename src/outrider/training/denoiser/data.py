"""Prompts and answers of a denoiser: generated tasks, and turns of chats and texts."""

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from outrider.core.errors import OptionError
from outrider.core.types import IntArray
from outrider.diffusion.parallel.catalogue import TASKS
from outrider.diffusion.parallel.item import TRAIN, draw
from outrider.training.core.config import Source
from outrider.training.core.copy_tasks import copy_task
from outrider.training.core.corpus import read_records
from outrider.training.core.formats import ASSISTANT, END_OF_TURN, FORMATS, USER
from outrider.training.denoiser.config import DenoiserRecipe

SLOT = 8
"""Answers are padded with end tokens to a multiple of this."""
_BLOCK = 32
"""Batches that are cut from one list of texts, sorted by length."""
_SENTENCE = re.compile(r"(?<=[.!?])[\"']?\s+(?=[A-Z\"'])")
_TURN = f"{ASSISTANT}\n"


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A prompt and its answer.

    Attributes:
        kind: the task or the source.
        prompt: its ids, with the marker of the assistant's turn.
        answer: its ids, ended by one or more end tokens.
    """

    kind: str
    prompt: IntArray
    answer: IntArray

    @property
    def size(self) -> int:
        """The number of tokens."""
        return len(self.prompt) + len(self.answer)


def end_id(tokenizer: Tokenizer) -> int:
    """Return the id of the end of a turn. Raises `OptionError` if the vocabulary has none."""
    found = tokenizer.token_to_id(END_OF_TURN)
    if found is None:
        raise OptionError(f"the vocabulary has no {END_OF_TURN}", hint="Start from another model")
    return found


def chat_prompt(text: str) -> str:
    """Return the prompt of one user turn, up to the assistant's answer."""
    return f"{USER}\n{text}{END_OF_TURN}\n{_TURN}"


def answers_of(document: str) -> Iterator[tuple[str, str]]:
    """Yield each answer of a chat with what stands before it; of a text, a continuation.

    A continuation is one or two sentences after two or three, in one paragraph.
    """
    if ASSISTANT in document:
        start = document.find(_TURN)
        while start >= 0:
            begin = start + len(_TURN)
            end = document.find(END_OF_TURN, begin)
            yield document[:begin], document[begin:end]
            start = document.find(_TURN, begin)
        return
    for paragraph in document.split("\n\n"):
        sentences = _SENTENCE.split(paragraph.replace("\n", " "))
        for at in range(0, len(sentences) - 3, 4):
            told = " ".join(sentences[at : at + 2])
            yield (
                chat_prompt(f"Continue the story: {told}"),
                " ".join(sentences[at + 2 : at + 4]),
            )


def source_pairs(
    source: Source, data: Path, tokenizer: Tokenizer, recipe: DenoiserRecipe
) -> list[tuple[IntArray, IntArray]]:
    """Return prompts and answers of a source that are short enough, in file order."""
    make = copy_task if source.format == "copy_task" else FORMATS[source.format]
    rng = random.Random(f"{recipe.seed}/{source.name}")
    documents = (text for record in read_records(data / source.file) for text in make(record, rng))
    found: list[tuple[IntArray, IntArray]] = []
    texts = (pair for document in documents for pair in answers_of(document))
    # Six bytes a token is more than this vocabulary has: longer texts need no encoding.
    short = (
        pair
        for pair in texts
        if len(pair[0]) < 6 * recipe.longest_prompt and 0 < len(pair[1]) < 6 * recipe.longest_answer
    )
    while chunk := list(itertools.islice(short, 1000)):
        prompts = tokenizer.encode_batch_fast([prompt for prompt, _ in chunk])
        answers = tokenizer.encode_batch_fast([answer for _, answer in chunk])
        for prompt, answer in zip(prompts, answers, strict=True):
            fits = len(prompt.ids) <= recipe.longest_prompt
            if fits and 0 < len(answer.ids) < recipe.longest_answer:
                found.append((np.array(prompt.ids), np.array(answer.ids)))
        if len(found) >= recipe.source_pairs:
            break
    return found[: recipe.source_pairs]


def padded(answer: Sequence[int] | IntArray, end: int, extra: int) -> IntArray:
    """Return the answer with end tokens up to a multiple of `SLOT`, and `extra` times `SLOT`."""
    size = -(-(len(answer) + 1) // SLOT) * SLOT + extra * SLOT
    return np.concatenate((answer, np.full(size - len(answer), end))).astype(np.int64)


class Pairs:
    """The texts of a training by number: a number alone decides its text, so training resumes.

    Args:
        recipe: the mixture.
        data: folder of the data sets.
        tokenizer: the tokenizer of the model.
    """

    def __init__(self, recipe: DenoiserRecipe, data: Path, tokenizer: Tokenizer) -> None:
        self._recipe, self._tokenizer = recipe, tokenizer
        self._end = end_id(tokenizer)
        self._block, self._cut = -1, list[list[Pair]]()
        self._sources = {
            source.name: source_pairs(source, data, tokenizer, recipe) for source in recipe.sources
        }
        shares = {task.name: task.weight for task in recipe.tasks}
        shares |= {one.name: one.weight for one in recipe.sources if self._sources[one.name]}
        self._names, self._weights = list(shares), list(shares.values())

    def counts(self) -> dict[str, int]:
        """Return how many prompts and answers each source has."""
        return {name: len(found) for name, found in self._sources.items()}

    def __getitem__(self, number: int) -> Pair:
        rng = random.Random(f"{self._recipe.seed}/{number}")
        (name,) = rng.choices(self._names, self._weights)
        if name in self._sources:
            prompt, answer = rng.choice(self._sources[name])
        else:
            item = draw(TASKS[name], rng, TRAIN)
            prompt = np.array(self._tokenizer.encode(chat_prompt(item.prompt)).ids)
            answer = np.array(self._tokenizer.encode(item.answer(rng)).ids)
        # Half of the slots are longer than the answer needs, so that its length is learned.
        extra = rng.choice((0, 0, 0, 0, 1, 1, 2, 3))
        return Pair(name, prompt, padded(answer, self._end, extra))

    def batch(self, step: int) -> list[Pair]:
        """Return the texts of a step: of similar lengths, from a block of `_BLOCK` steps."""
        block, place = divmod(step, _BLOCK)
        if self._block != block:
            size = self._recipe.batch * _BLOCK
            pairs = sorted((self[block * size + i] for i in range(size)), key=lambda one: one.size)
            order = np.random.default_rng((self._recipe.seed, block)).permutation(_BLOCK)
            self._block, self._cut = (
                block,
                [pairs[at * self._recipe.batch : (at + 1) * self._recipe.batch] for at in order],
            )
        return self._cut[place]
