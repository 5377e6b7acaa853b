"""Writes answers of the target to prompts, and stores them with its hidden states.

The states are recorded while the answers are written (`HiddenStates.keeping`), so they take no
second forward. A file is written whenever `SHARD` texts have ended; an interrupted run continues
with the prompts that no file holds.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from outrider.core.errors import ContextError, StrategyError
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.protocols import Cache, HiddenStates, LanguageModel, Segment
from outrider.sampling import Sampler, SamplingParams
from outrider.training.core.loop import StopSignal, TrainingStopped
from outrider.training.core.state import save_tensors
from outrider.training.heads.prompts import TrainingPrompt

SHARD = 48
"""Texts of one file."""
_LARGEST = 6e4
"""States are stored as float16; the first token of a text can have larger ones."""
_REPORTED_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerSettings:
    """How answers are written.

    Attributes:
        tokens: number of answer tokens after which no further file is begun.
        longest: largest number of tokens of an answer.
        longest_prompt: prompts with more tokens are left out.
        temperatures: answers take these in turn; see `SamplingParams.temperature`.
        batch: number of texts that are written at once.
        seed: seed of the prompts and of sampled answers.
    """

    tokens: int = 1_500_000
    longest: int = 160
    longest_prompt: int = 320
    temperatures: tuple[float, ...] = (0.0, 0.8)
    batch: int = 24
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt and the target's answer to it.

    Attributes:
        number: number of the prompt in the run.
        kind: name of the prompt's file.
        ids: `[prompt + answer]` token ids.
        prompt: number of ids of the prompt.
        states: `[prompt + answer - 1, layers, hidden]` float16: of all ids but the last one.
    """

    number: int
    kind: str
    ids: Tensor
    prompt: int
    states: Tensor


@dataclass(slots=True)
class _Open:
    """A text that is being written."""

    number: int
    kind: str
    cache: Cache
    sampler: Sampler
    prompt: int
    output: list[int]


@dataclass(slots=True)
class Recorder:
    """Writes answers of `model`, which keeps the states of `layers`."""

    model: LanguageModel
    states: HiddenStates
    tokenizer: Tokenizer
    settings: AnswerSettings

    @classmethod
    def of(
        cls,
        target: LanguageModel,
        tokenizer: Tokenizer,
        layers: Sequence[int],
        settings: AnswerSettings,
    ) -> "Recorder":
        """Make a recorder for `target`.

        Raises:
            StrategyError: the target cannot keep hidden states.
            OptionError: it has no such layers.
        """
        if target.hidden_states is None:
            raise StrategyError(f"{target.info.name} does not return hidden states")
        model = target.hidden_states.keeping(layers)
        assert model.hidden_states is not None  # `keeping` returns the same kind of model
        return cls(model, model.hidden_states, tokenizer, settings)

    def texts(self, prompts: Iterator[tuple[int, TrainingPrompt]]) -> Iterator[Text]:
        """Yield texts as they end; each prompt comes with its number."""
        running: list[_Open] = []
        while True:
            for number, prompt in islice(prompts, self.settings.batch - len(running)):
                if (text := self._opened(number, prompt)) is not None:
                    running.append(text)
            if not running:
                return
            self._advance(running)
            for text in [t for t in running if self._has_ended(t)]:
                running.remove(text)
                yield self._finished(text)

    def _opened(self, number: int, prompt: TrainingPrompt) -> _Open | None:
        """Read a prompt; None if it is too long."""
        settings = self.settings
        ids = self.tokenizer.chat(prompt.messages)
        if len(ids) > settings.longest_prompt:
            return None
        temperature = settings.temperatures[number % len(settings.temperatures)]
        params = SamplingParams(temperature=temperature, seed=settings.seed)
        sampler = Sampler(params, end_ids=self.model.info.end_ids, sample=number)
        try:
            [cache] = self.model.start([Prompt(token_ids=ids)])
        except ContextError:
            return None
        return _Open(number, prompt.kind, cache, sampler, len(ids), [])

    def _advance(self, running: Sequence[_Open]) -> None:
        """Write one token of each text."""
        last = as_ids([-1])
        segments = [Segment(text.cache, NO_IDS) for text in running]
        rows = self.model.forward(segments, [last] * len(running))
        for text, row in zip(running, rows, strict=True):
            token = text.sampler.choose(row.logits[0], text.output)
            text.output.append(token)
            text.cache.commit(as_ids([token]))

    def _has_ended(self, text: _Open) -> bool:
        ended = text.output[-1] in text.sampler.end_ids
        return ended or len(text.output) >= self.settings.longest or not text.cache.remaining

    def _finished(self, text: _Open) -> Text:
        ids = torch.tensor([*text.cache.text], dtype=torch.int32)
        kept = self.states.kept(text.cache, 0, len(ids) - 1)
        return Text(
            text.number, text.kind, ids, text.prompt, kept.clamp(-_LARGEST, _LARGEST).half()
        )


def record(
    recorder: Recorder,
    prompts: Iterator[TrainingPrompt],
    folder: Path,
    report: Callable[[str], None],
    stop: StopSignal | None = None,
) -> int:
    """Write files of texts to `folder` until there are enough tokens; return their number.

    Args:
        recorder: writes the answers.
        prompts: all prompts of the run, from the first one on.
        folder: holds the files; prompts whose texts are already there are skipped.
        report: called with lines about the progress.
        stop: whether to stop after the next file.

    Raises:
        TrainingStopped: `stop` asked for it.
    """
    files = sorted(folder.glob("texts-*.safetensors"))
    done = {number for file in files for number in read_numbers(file)}
    tokens, shards = sum(map(count_tokens, files)), len(files)
    begun, written, told = time.monotonic(), 0, 0.0
    left = ((number, prompt) for number, prompt in enumerate(prompts) if number not in done)
    texts = recorder.texts(left)
    while tokens < recorder.settings.tokens and (part := list(islice(texts, SHARD))):
        fresh = save_texts(folder / f"texts-{shards:05d}.safetensors", part)
        tokens, written, shards = tokens + fresh, written + fresh, shards + 1
        if stop is not None and stop.asked:
            raise TrainingStopped(
                f"{tokens:,} tokens of answers are recorded", hint="Run again to resume"
            )
        if (seconds := time.monotonic() - begun) - told > _REPORTED_SECONDS:
            told = seconds
            report(
                f"answers: {tokens:,} of {recorder.settings.tokens:,} tokens in {shards} files, "
                f"{written / seconds:.0f} tokens/s"
            )
    return tokens


def save_texts(file: Path, texts: Sequence[Text]) -> int:
    """Write one file of texts; return the number of its answer tokens."""
    lengths = torch.tensor([[text.prompt, len(text.ids)] for text in texts], dtype=torch.int32)
    tensors = {
        "lengths": lengths.reshape(-1, 2),
        "numbers": torch.tensor([text.number for text in texts], dtype=torch.int32),
        "ids": torch.cat([text.ids for text in texts]),
        "states": torch.cat([text.states for text in texts]),
    }
    fresh = int((lengths[:, 1] - lengths[:, 0]).sum())
    metadata = {"kinds": "\n".join(text.kind for text in texts), "tokens": str(fresh)}
    save_tensors(file, tensors, metadata)
    return fresh


def count_tokens(file: Path) -> int:
    """Return the number of answer tokens in a file of `save_texts`."""
    with safe_open(file, framework="pt") as opened:
        return int(opened.metadata()["tokens"])


def read_numbers(file: Path) -> list[int]:
    """Return the numbers of the prompts in a file of `save_texts`."""
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor("numbers").tolist()
