"""OpenVINO GenAI: int8 weights; plain, a draft model, prompt lookup.

Settings are those of its documentation: five drafted tokens, lookups by up to three tokens.
"""

import ctypes
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outrider.bench.rivals.conversion import checkpoint_ends, converted, install_line
from outrider.bench.rivals.openvino_export import export_openvino
from outrider.bench.rivals.rival import RivalRequest, RivalText
from outrider.core.errors import CheckpointError

__all__ = ["OPENVINO", "OpenVino"]

_DRAFTED = 5
_NGRAM = 3
_STACK_T = 24
"""Size of the system's `stack_t` in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVino:
    """A setting of OpenVINO GenAI. Attributes: see `Rival`."""

    name: str
    method: str
    precision: str = "int8"

    def available(self) -> str | None:
        """See `Rival`."""
        return install_line(("openvino_genai", "gguf"))

    @contextmanager
    def open(
        self, target: Path, draft: Path | None, *, threads: int, dtype: str
    ) -> Iterator["OpenOpenVino"]:
        """See `Rival`; `dtype` is ignored."""
        with _own_signal_stack():
            session = self._load(target, draft, threads)
            try:
                yield session
            finally:
                session.close()

    def _load(self, target: Path, draft: Path | None, threads: int) -> "OpenOpenVino":
        import openvino_genai as genai  # pyright: ignore[reportMissingImports]

        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
        schedule = genai.SchedulerConfig()
        schedule.enable_prefix_caching = False
        more: dict[str, Any] = {"scheduler_config": schedule}
        if self.method == "lookup":
            more["prompt_lookup"] = True
        try:
            if self.method == "draft" and draft is not None:
                more["draft_model"] = genai.draft_model(_folder(draft), "CPU", **options)
            pipeline = genai.LLMPipeline(_folder(target), "CPU", **options, **more)
        except RuntimeError as error:
            raise CheckpointError(f"OpenVINO cannot run {target}: {_line(error)}") from None
        return OpenOpenVino(self.method, pipeline, checkpoint_ends(target))


@contextmanager
def _own_signal_stack() -> Iterator[None]:
    """Context manager: restore the stack on which the main thread's signal handlers run.

    OpenVINO sets another one and frees it with the pipeline; Ctrl-C would then end the process.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    kept = ctypes.create_string_buffer(_STACK_T)
    if libc is not None:
        libc.sigaltstack(None, kept)
    try:
        yield
    finally:
        if libc is not None:
            libc.sigaltstack(kept, None)


@dataclass(slots=True)
class OpenOpenVino:
    """See `OpenRival`."""

    method: str
    pipeline: Any
    ends: tuple[int, ...]

    def close(self) -> None:
        """Free the pipeline immediately instead of at garbage collection."""
        self.pipeline = None
        gc.collect()

    def generate(self, request: RivalRequest) -> RivalText:
        """See `OpenRival`."""
        import openvino  # pyright: ignore[reportMissingImports]
        import openvino_genai as genai  # pyright: ignore[reportMissingImports]

        config = self._config(request)
        ids = np.asarray([request.token_ids], dtype=np.int64)
        prompt = genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        start = time.perf_counter()
        written = self.pipeline.generate(prompt, config)
        new = tuple(int(token) for token in written.tokens[0])
        seconds = time.perf_counter() - start
        first = written.perf_metrics.get_ttft().mean / 1000
        return RivalText(new, min(first, seconds), seconds)

    def _config(self, request: RivalRequest) -> Any:
        import openvino_genai as genai  # pyright: ignore[reportMissingImports]

        config = genai.GenerationConfig()
        config.max_new_tokens = request.max_new_tokens
        config.ignore_eos = request.ignore_eos
        config.do_sample = request.temperature > 0
        if request.temperature > 0:
            config.temperature, config.top_p = request.temperature, request.top_p
            config.rng_seed = request.seed
        if self.ends and not request.ignore_eos:
            config.eos_token_id, config.stop_token_ids = self.ends[0], set(self.ends)
        if self.method != "plain":
            config.num_assistant_tokens = _DRAFTED
        if self.method == "lookup":
            config.max_ngram_size = _NGRAM
        return config


def _folder(checkpoint: Path) -> str:
    """Return the folder of the converted model. Raises `CheckpointError`."""
    return str(converted(checkpoint, "openvino-int8", lambda out: export_openvino(checkpoint, out)))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


OPENVINO = (
    OpenVino(name="openvino-int8", method="plain"),
    OpenVino(name="openvino-int8-draft", method="draft"),
    OpenVino(name="openvino-int8-lookup", method="lookup"),
)
