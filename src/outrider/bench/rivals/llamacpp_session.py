"""llama.cpp through the low-level functions of llama-cpp-python: one text, one context.

`Llama.generate` of the binding copies logits and rebuilds arrays in Python for each token; these
calls have the least overhead over llama.cpp itself.
"""

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider.core.errors import CheckpointError, ContextError

__all__ = ["Session", "llama_cpp_forward_ms", "open_session"]

_LONGEST = 8192
"""Context length for models that support more tokens."""

_CHUNK = 512
_IN_A_ROW = 5
"""Consecutive forwards with one number of rows before the next width."""


@cache
def _library() -> tuple[Any, Any]:
    """Load the binding without log output; return it with the callback, which must outlive it."""
    import llama_cpp  # pyright: ignore[reportMissingImports]

    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp, silent


class Session:
    """A model and the cache of one text. `open_session` creates it."""

    def __init__(self, model: Any, context: Any, batch: Any) -> None:
        self._lib, _ = _library()
        self._context, self._batch = context, batch
        self._memory = self._lib.llama_get_memory(context)
        self.length = int(self._lib.llama_n_ctx(context))
        vocab = self._lib.llama_model_get_vocab(model)
        self.vocab_size = int(self._lib.llama_vocab_n_tokens(vocab))
        view = np.ctypeslib.as_array
        self._tokens = view(batch.token, (_CHUNK,))
        self._positions = view(batch.pos, (_CHUNK,))
        self._wanted = view(batch.logits, (_CHUNK,))
        view(batch.n_seq_id, (_CHUNK,))[:] = 1
        for row in range(_CHUNK):
            batch.seq_id[row][0] = 0

    def read(self, tokens: Sequence[int], start: int, *, every: bool = False) -> None:
        """Feed `tokens` at position `start`; compute logits of the last row, or of `every` row.

        Raises:
            ContextError: the tokens do not fit.
        """
        if start + len(tokens) > self.length:
            raise ContextError(
                f"llama.cpp's context holds {self.length} tokens, not {start + len(tokens)}"
            )
        for first in range(0, len(tokens), _CHUNK):
            part = tokens[first : first + _CHUNK]
            count = len(part)
            self._tokens[:count] = part
            self._positions[:count] = np.arange(start + first, start + first + count)
            self._wanted[:count] = every
            self._wanted[count - 1] = 1
            self._batch.n_tokens = count
            if self._lib.llama_decode(self._context, self._batch):
                raise CheckpointError("llama.cpp cannot decode the tokens")

    def logits(self, row: int) -> NDArray[np.float32]:
        """Return `[vocab]` logits of a row of the last call; valid until the next call."""
        found = self._lib.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(found, (self.vocab_size,))

    def keep(self, length: int) -> None:
        """Drop all but the first `length` tokens."""
        self._lib.llama_memory_seq_rm(self._memory, 0, length, -1)

    @contextmanager
    def sampling(
        self, temperature: float, top_p: float, seed: int
    ) -> Iterator[Callable[[int], int]]:
        """Context manager: sample the token of a row of the last call with llama.cpp's own
        samplers.
        """
        lib = self._lib
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        if temperature == 0:
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
        else:
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(temperature))
            if top_p < 1:
                lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_p(top_p, 1))
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(seed & 0xFFFFFFFF))
        try:
            yield lambda row: int(lib.llama_sampler_sample(chain, self._context, row))
        finally:
            lib.llama_sampler_free(chain)


@contextmanager
def open_session(
    file: Path, *, threads: int, half_cache: bool = True, flash: bool | None = None
) -> Iterator[Session]:
    """Load a GGUF file.

    Args:
        file: the model.
        threads: number of threads for one row and for many.
        half_cache: whether keys and values are float16, llama.cpp's default, or float32.
        flash: flash attention; None uses the faster setting of a short measurement.

    Raises:
        CheckpointError: llama.cpp cannot load the file.
    """
    lib, _ = _library()
    with ExitStack() as stack:
        settings = lib.llama_model_default_params()
        settings.n_gpu_layers = 0
        model = lib.llama_model_load_from_file(str(file).encode(), settings)
        if not model:
            raise CheckpointError(f"llama.cpp cannot load {file}")
        stack.callback(lib.llama_model_free, model)
        if flash is None:
            flash = _flash_is_faster(model, threads, half_cache)
        yield stack.enter_context(_session(model, threads, half_cache, flash))


@contextmanager
def _session(model: Any, threads: int, half_cache: bool, flash: bool) -> Iterator[Session]:
    lib, _ = _library()
    settings = lib.llama_context_default_params()
    settings.n_ctx = min(int(lib.llama_model_n_ctx_train(model)), _LONGEST)
    settings.n_batch = settings.n_ubatch = _CHUNK
    settings.n_threads = settings.n_threads_batch = threads
    settings.type_k = settings.type_v = lib.GGML_TYPE_F16 if half_cache else lib.GGML_TYPE_F32
    on, off = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED, lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.flash_attn_type = on if flash else off
    settings.no_perf = True
    with ExitStack() as stack:
        context = lib.llama_init_from_model(model, settings)
        if not context:
            raise CheckpointError("llama.cpp cannot create a context")
        stack.callback(lib.llama_free, context)
        batch = lib.llama_batch_init(_CHUNK, 0, 1)
        stack.callback(lib.llama_batch_free, batch)
        yield Session(model, context, batch)


def _flash_is_faster(model: Any, threads: int, half_cache: bool) -> bool:
    """Compare forwards over one, four and eight rows, with equal weights."""
    spent: list[float] = []
    for flash in (False, True):
        with _session(model, threads, half_cache, flash) as session:
            spent.append(prod(forward_ms(session, (1, 4, 8), context=128, repeats=10).values()))
    return spent[1] < spent[0]


def forward_ms(
    session: Session, widths: Sequence[int], *, context: int, repeats: int
) -> dict[int, float]:
    """Measure the median milliseconds of a forward with all its logits, by number of rows.

    Forwards over equally many rows follow each other, because llama.cpp then reuses its graph.
    """
    random = np.random.default_rng(0)

    def some(count: int) -> list[int]:
        return random.integers(session.vocab_size, size=count).tolist()

    session.keep(0)
    session.read(some(context), 0)

    def forward(width: int) -> float:
        tokens = some(width)
        start = time.perf_counter()
        session.read(tokens, context, every=True)
        session.logits(width - 1)
        spent = time.perf_counter() - start
        session.keep(context)
        return 1000 * spent

    times: dict[int, list[float]] = {width: [] for width in widths}
    for _ in range(-(-repeats // _IN_A_ROW)):
        for width, spent in times.items():
            forward(width)
            spent += [forward(width) for _ in range(_IN_A_ROW)]
    session.keep(0)
    return {width: median(spent) for width, spent in times.items()}


def llama_cpp_forward_ms(
    gguf: Path,
    widths: Sequence[int] = (1, 2, 4, 8, 16, 32),
    *,
    context: int = 200,
    threads: int = 1,
    repeats: int = 15,
) -> dict[int, float]:
    """Measure the median milliseconds of one llama.cpp forward for each number of rows of one text.

    Args:
        gguf: the model's file, written by `export_gguf`.
        widths: numbers of rows, each with its logits.
        context: cached tokens before the rows.
        threads: CPU threads.
        repeats: minimum number of forwards of each width; widths alternate after five forwards.

    Raises:
        CheckpointError: llama.cpp does not load the file.
        ContextError: context and rows do not fit into the model's context window.
    """
    with open_session(Path(gguf), threads=threads) as session:
        return forward_ms(session, widths, context=context, repeats=repeats)
