"""One real model that reads everything or a selection, and the clock of each answer."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import outrider
from outrider.context.config import ContextConfig
from outrider.core.types import Prompt
from outrider.models.checkpoints.tokenizer import Tokenizer

DENSE = "dense"
"""The setting that reads everything."""


@dataclass(frozen=True, slots=True)
class Readers:
    """Generators of one model, by setting: `dense`, or a keep ratio. They share the weights.

    Attributes:
        by: the generators.
        tokenizer: that of the model.
        load: the load average of one minute before the model was loaded.
    """

    by: dict[str, outrider.Generator]
    tokenizer: Tokenizer
    load: float

    @classmethod
    def open(
        cls, model: str, ratios: Sequence[float], *, threads: int, context: dict[str, Any]
    ) -> "Readers":
        """Load the model once, undrafted, with its default dtypes.

        Args:
            model: a file, a folder, or a name.
            ratios: keep ratios besides `dense`.
            threads: of the processor.
            context: further settings of `ContextConfig`.
        """
        load = os.getloadavg()[0]
        dense = outrider.load(model, mode="none", threads=threads)
        tokenizer = Tokenizer.load(model)
        by = {DENSE: dense}
        for ratio in ratios:
            by[f"{ratio:g}"] = outrider.load(
                dense.strategy.target,
                tokenizer=tokenizer,
                mode="none",
                selection=ContextConfig(keep_ratio=ratio, **context),
            )
        return cls(by, tokenizer, load)

    def answer(
        self,
        setting: str,
        instruction: str | list[dict[str, Any]],
        document: str,
        *,
        max_new_tokens: int,
        fresh: bool,
    ) -> dict[str, Any]:
        """Read a document, write an answer, and return the text with figures.

        `ttft` and `total` are seconds from the call, which cuts and encodes the document, to the
        first and to the last token; `ttft_cpu` and `total_cpu` are seconds of the processor, which
        other work on the machine changes less.

        Args:
            setting: one of `by`.
            instruction: plain text, or messages.
            document: the long input.
            max_new_tokens: of the answer; it is greedy.
            fresh: whether the rows of the answer before are dropped. If not, the rows of the common
                prefix are used again: the text has the same bits, and the times mean nothing.
        """
        generator = self.by[setting]
        if fresh:
            generator.reset()
        begun, begun_cpu = perf_counter(), process_time()
        prompt = generator.prompt(instruction, documents=document)
        generation, rounds = generator.start(prompt, max_new_tokens=max_new_tokens, temperature=0.0)
        first_cpu: float | None = None
        for _ in rounds:
            if first_cpu is None and generation.output:
                first_cpu = process_time()
        ended, ended_cpu = perf_counter(), process_time()
        result = generator.result(generation, generator.strategy)
        if result.error:
            raise RuntimeError(f"{setting}: {result.error}")
        figures = result.context or {}
        return {
            "text": result.text,
            "prompt_tokens": len(prompt),
            "kept_tokens": figures["kept_tokens"],
            "new_tokens": result.completion_tokens,
            "finish": result.finish_reason,
            "ttft": result.token_times[0] - begun,
            "total": ended - begun,
            "ttft_cpu": (first_cpu or ended_cpu) - begun_cpu,
            "total_cpu": ended_cpu - begun_cpu,
            "select": figures["select_seconds"],
            "refresh": figures["refresh_seconds"],
            "swaps": figures["swaps"],
            "read": _first_read(prompt, result),
            "load": os.getloadavg()[0],
        }


def _first_read(prompt: Prompt, result: outrider.Result) -> tuple[str, ...]:
    """Return the texts of the chunks that were read before the answer began."""
    assert prompt.context is not None
    chunks = prompt.context.chunks
    if result.reading is None:
        return tuple(chunk.text for chunk in chunks)
    return tuple(chunks[i].text for i in result.reading.selection.decisions[0].chosen)


def cut_to(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    """Cut a text after at most so many tokens, at the end of a line if there is one."""
    ids, ends = tokenizer.encode_spans(text)
    if len(ids) <= tokens:
        return text
    short = text[: ends[tokens - 1]]
    return short[: short.rfind("\n") + 1].rstrip() or short
