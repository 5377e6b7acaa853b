"""llama.cpp: float32 and q8_0; plain, prompt lookup, a draft model.

Prompt lookup is `LlamaPromptLookupDecoding` of the binding, with its default of ten tokens and with
the two that its README recommends for CPUs. The binding has no draft models: here the draft model
drafts while its best token has a probability of at least 0.75, as in `llama-speculative` of
llama.cpp. A token is accepted if the target samples it too.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from outrider.bench.rivals.conversion import checkpoint_ends, gguf_file, install_line
from outrider.bench.rivals.llamacpp_session import Session, open_session
from outrider.bench.rivals.rival import RivalRequest, RivalText

__all__ = ["LLAMA_CPP", "LlamaCpp"]

_SURE = 0.75
"""Probability below which a draft ends (llama.cpp's `--draft-p-min`)."""

_LONGEST_DRAFT = 16
"""Largest length of a draft (llama.cpp's `--draft-max`)."""

Propose = Callable[[list[int], int], list[int]]
"""Drafts at most a given number of tokens after a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCpp:
    """A setting of llama.cpp.

    Attributes:
        name: see `Rival`.
        precision: see `Rival`.
        method: see `Rival`.
        kind: kind of the GGUF file.
        lookup: tokens that prompt lookup drafts.
    """

    name: str
    precision: str
    method: str
    kind: str
    lookup: int = 10

    def available(self) -> str | None:
        """See `Rival`."""
        return install_line(("llama_cpp", "gguf"))

    @contextmanager
    def open(
        self, target: Path, draft: Path | None, *, threads: int, dtype: str
    ) -> Iterator["OpenLlamaCpp"]:
        """See `Rival`; `dtype` is ignored."""
        half = self.kind != "f32"
        with ExitStack() as stack:

            def load(folder: Path) -> Session:
                file = gguf_file(folder, self.kind)
                return stack.enter_context(open_session(file, threads=threads, half_cache=half))

            start: Callable[[], Propose] = _no_draft
            if self.method == "draft" and draft is not None:
                start = partial(_DraftModel, load(draft))
            elif self.method == "lookup":
                start = partial(_lookup, self.lookup)
            yield OpenLlamaCpp(load(target), start, checkpoint_ends(target))


@dataclass(frozen=True, slots=True)
class OpenLlamaCpp:
    """See `OpenRival`."""

    session: Session
    start: Callable[[], Propose]
    ends: tuple[int, ...]

    def generate(self, request: RivalRequest) -> RivalText:
        """See `OpenRival`."""
        ends = frozenset(() if request.ignore_eos else self.ends)
        prompt, start = list(request.token_ids), time.perf_counter()
        with self.session.sampling(request.temperature, request.top_p, request.seed) as sample:
            first, text = None, list(prompt)
            for _ in self._rounds(text, sample, len(prompt) + request.max_new_tokens, ends):
                first = first or time.perf_counter()
        end = time.perf_counter()
        return RivalText(tuple(text[len(prompt) :]), (first or end) - start, end - start)

    def _rounds(
        self, text: list[int], sample: Callable[[int], int], limit: int, ends: frozenset[int]
    ) -> Iterator[None]:
        """Extend `text`, one round at a time."""
        propose = self.start()
        self.session.keep(0)
        self.session.read(text, 0)
        text.append(sample(-1))
        yield
        while len(text) < limit and text[-1] not in ends:
            draft = propose(text, limit - len(text) - 1)
            self.session.read([text[-1], *draft], len(text) - 1, every=True)
            for row in range(len(draft) + 1):
                text.append(sample(row))
                refused = row < len(draft) and text[-1] != draft[row]
                if refused or text[-1] in ends:
                    break
            self.session.keep(len(text) - 1)
            yield


def _no_draft() -> Propose:
    return lambda text, most: []


def _lookup(length: int) -> Propose:
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding  # pyright: ignore[reportMissingImports]

    look = LlamaPromptLookupDecoding(num_pred_tokens=length)

    def propose(text: list[int], most: int) -> list[int]:
        return look(np.asarray(text, dtype=np.intc))[:most].tolist()

    return propose


class _DraftModel:
    """Greedy drafts of another model for one text that only grows."""

    def __init__(self, session: Session) -> None:
        session.keep(0)
        self._session = session
        self._seen: list[int] = []
        self._certain = 0

    def __call__(self, text: list[int], most: int) -> list[int]:
        """Draft after `text` while the probability is high enough."""
        most = min(most, _LONGEST_DRAFT)
        if most < 1:
            return []
        self._catch_up(text)
        draft: list[int] = []
        while True:
            logits = self._session.logits(-1)
            best = int(logits.argmax())
            if 1 / np.exp(logits - logits[best]).sum() < _SURE:
                return draft
            draft.append(best)
            if len(draft) == most:
                return draft
            self._session.read([best], len(self._seen))
            self._seen.append(best)

    def _catch_up(self, text: list[int]) -> None:
        """Read the new tokens of `text`, at least the last one, whose logits are needed."""
        shared, most = self._certain, min(len(self._seen), len(text) - 1)
        while shared < most and self._seen[shared] == text[shared]:
            shared += 1
        self._session.keep(shared)
        self._session.read(text[shared:], shared)
        self._seen[shared:] = text[shared:]
        self._certain = len(text) - 1


LLAMA_CPP = (
    LlamaCpp(name="llama.cpp-f32", precision="float32", method="plain", kind="f32"),
    LlamaCpp(name="llama.cpp-q8_0", precision="q8_0", method="plain", kind="q8_0"),
    LlamaCpp(name="llama.cpp-q8_0-draft", precision="q8_0", method="draft", kind="q8_0"),
    LlamaCpp(name="llama.cpp-q8_0-lookup", precision="q8_0", method="lookup", kind="q8_0"),
    LlamaCpp(
        name="llama.cpp-q8_0-lookup-2", precision="q8_0", method="lookup", kind="q8_0", lookup=2
    ),
)
