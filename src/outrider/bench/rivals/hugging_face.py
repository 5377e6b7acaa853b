"""`generate` of transformers: plain, with a draft model, or with prompt lookup.

Settings are those of its documentation: the draft length that follows the draft model's
confidence (its default), a constant one of five, and lookups of ten tokens.
"""

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from outrider.bench.rivals.conversion import checkpoint_ends
from outrider.bench.rivals.rival import RivalRequest, RivalText
from outrider.models.devices import DTYPES, resolve_device
from outrider.models.transformers.pretrained import load_pretrained

__all__ = ["HUGGING_FACE", "HuggingFace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFace:
    """A setting of `transformers`, in float32 unless the run is in half precision.

    Attributes:
        name: see `Rival`.
        method: see `Rival`.
        precision: see `Rival`.
        assistant: fields of the draft model's generation configuration.
        lookup: tokens that prompt lookup drafts; None disables it.
    """

    name: str
    method: str
    precision: str = "float32"
    assistant: Mapping[str, Any] = field(default_factory=dict)
    lookup: int | None = None

    def available(self) -> str | None:
        """Return None: Outrider itself requires transformers."""
        return None

    @contextmanager
    def open(
        self, target: Path, draft: Path | None, *, threads: int, dtype: str, device: str = "auto"
    ) -> Iterator["OpenHuggingFace"]:
        """See `Rival`; `device` as for `outrider.load`."""
        from transformers import GenerationConfig

        kind = DTYPES[dtype] if dtype in ("bfloat16", "float16") else torch.float32
        place, before = resolve_device(device), torch.get_num_threads()

        def load(folder: Path) -> Any:
            model, _ = load_pretrained(
                folder, name=folder.name, dtype=kind, device=place, trust_remote_code=False
            )
            model.generation_config = GenerationConfig()
            return model.eval()

        torch.set_num_threads(threads)
        try:
            drafting = load(draft) if self.method == "draft" and draft else None
            yield OpenHuggingFace(self, load(target), drafting, checkpoint_ends(target))
        finally:
            torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager: suppress the many warnings of `generate`."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)


@dataclass(frozen=True, slots=True)
class OpenHuggingFace:
    """See `OpenRival`."""

    setting: HuggingFace
    model: Any
    draft: Any
    ends: tuple[int, ...]

    def generate(self, request: RivalRequest) -> RivalText:
        """See `OpenRival`."""
        prompt = torch.tensor([list(request.token_ids)], device=self.model.device)
        ends = None if request.ignore_eos or not self.ends else list(self.ends)
        options: dict[str, Any] = {"eos_token_id": ends, "pad_token_id": (self.ends or (0,))[0]}
        options |= {"do_sample": request.temperature > 0, "max_new_tokens": request.max_new_tokens}
        if request.temperature > 0:
            options |= {"temperature": request.temperature, "top_p": request.top_p, "top_k": 0}
        if self.draft is not None:
            # otherwise lengths and confidences would continue from the previous text
            self.draft.generation_config.update(**self.setting.assistant, eos_token_id=ends)
            options["assistant_model"] = self.draft
        if self.setting.lookup is not None:
            options["prompt_lookup_num_tokens"] = self.setting.lookup
        clock = _Clock()
        torch.manual_seed(request.seed)
        with torch.inference_mode(), _quiet():
            start = time.perf_counter()
            mask = torch.ones_like(prompt)
            written = self.model.generate(prompt, attention_mask=mask, streamer=clock, **options)
            new = written[0, prompt.shape[1] :].tolist()
            end = time.perf_counter()
        return RivalText(tuple(new), (clock.first or end) - start, end - start)


class _Clock:
    """A streamer that records the time of the first token; the prompt is streamed before it."""

    def __init__(self) -> None:
        self.calls = 0
        self.first: float | None = None

    def put(self, _tokens: Any) -> None:
        """Record the first new tokens; the first call passes the prompt."""
        self.calls += 1
        if self.calls == 2:
            self.first = time.perf_counter()

    def end(self) -> None:
        """Do nothing; called after the last token."""


_CONFIDENT = {
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
}
_FIVE = {
    "num_assistant_tokens": 5,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.0,
}

HUGGING_FACE = (
    HuggingFace(name="transformers", method="plain"),
    HuggingFace(name="transformers-draft", method="draft", assistant=_CONFIDENT),
    HuggingFace(name="transformers-draft-5", method="draft", assistant=_FIVE),
    HuggingFace(name="transformers-lookup", method="lookup", lookup=10),
)
