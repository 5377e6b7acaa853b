"""Beam search beside that of `transformers`, with the same float32 weights and one thread.

    python -m benchmarks.search.beam smollm2 --prompts question.jsonl.zst --of-each 1

Both search every prompt in turn, first one and then the other. Seconds are those of the processor,
which other programs on the machine change little. A step is what lies between two looks at the
logits, the first one left out; the whole search includes reading the prompt. Rows are those of the
cache after each step: all that it holds, beside the prompt and the running branches, from step 16
on. A line is printed for each prompt, and the summary at the end. After `--seconds` of the clock no
other prompt is begun.
"""

import argparse
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean
from time import perf_counter, process_time
from typing import Any

import torch
from benchmarks.real_models.prompts import by_category

from outrider import Generator, load
from outrider.bench.statistics import Ratio
from outrider.models.checkpoints.checkpoint import load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.sources.known import known_model
from outrider.search.tree import Node, TokenTree

_WARM = 16
_DIGITS = 1e-3


@dataclass
class Found:
    """Texts with their scores, and CPU seconds."""

    texts: list[tuple[tuple[int, ...], float]]
    seconds: float
    steps: list[float] = field(default_factory=list)

    def equals(self, other: "Found") -> bool:
        """Whether texts are the same and scores nearly so."""
        return all(
            a == b and abs(x - y) < _DIGITS
            for (a, x), (b, y) in zip(self.texts, other.texts, strict=True)
        )


@dataclass
class Rows:
    """Rows of the caches of a search, after each step."""

    held: list[int] = field(default_factory=list)
    needed: list[int] = field(default_factory=list)
    apart: list[int] = field(default_factory=list)

    def watch(self) -> None:
        """Note the rows of every tree from here on."""
        keep = TokenTree.keep

        def watched(tree: TokenTree, leaves: Iterable[Node]) -> None:
            ends = list(leaves)
            keep(tree, ends)
            live: set[int] = set()
            for leaf in ends:
                node: Node | None = leaf
                while node is not None and node.row >= 0:
                    live.add(node.row)
                    node = node.parent
            text = len(tree.cache.text)
            self.held.append(text + tree.cache.num_speculative)
            self.needed.append(text + len(live))
            self.apart.append(sum(text + leaf.depth for leaf in ends))

        TokenTree.keep = watched  # pyright: ignore[reportAttributeAccessIssue]

    def clear(self) -> None:
        """Forget all rows."""
        for own in (self.held, self.needed, self.apart):
            own.clear()


def gaps(times: list[float]) -> list[float]:
    """Return the seconds between times, without the first."""
    return [b - a for a, b in pairwise(times[1:])]


def ours(model: Generator, prompt: list[int], beams: int, most: int) -> Found:
    """Search with Outrider."""
    times: list[float] = []

    def look() -> bool:
        times.append(process_time())
        return False

    begun = process_time()
    found = model.search(
        f"beam(num_beams={beams})", prompt, cancelled=look, max_new_tokens=most, temperature=0.0
    )
    seconds = process_time() - begun
    return Found([(one.token_ids, one.score) for one in found.candidates], seconds, gaps(times))


def theirs(model: Any, ends: list[int], prompt: list[int], beams: int, most: int) -> Found:
    """Search with `transformers`."""
    times: list[float] = []

    def look(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        times.append(process_time())
        return scores

    ids = torch.tensor([prompt])
    begun = process_time()
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=most,
            eos_token_id=ends,
            pad_token_id=ends[0],
            logits_processor=[look],
            output_scores=True,
            return_dict_in_generate=True,
        )
    seconds = process_time() - begun
    rows = out.sequences[:, len(prompt) :].tolist()
    texts = [
        tuple(row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))])
        for row in rows
    ]
    return Found(list(zip(texts, out.sequences_scores.tolist(), strict=True)), seconds, gaps(times))


def opened(name: str) -> Any:
    """Return the model in `transformers`, from the tensors that Outrider reads."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    known = known_model(name)
    file = Path(name) if known is None else known.installed
    if file is None:
        raise SystemExit(f"{name} is not installed")
    checkpoint = open_checkpoint(file)
    model: Any = LlamaForCausalLM(LlamaConfig(**checkpoint.config)).eval()
    tensors = load_tensors(checkpoint, list(checkpoint.tensors), torch.float32)
    left = model.load_state_dict(tensors, strict=False, assign=True)
    if left.unexpected_keys or set(left.missing_keys) - {"lm_head.weight"}:
        raise SystemExit(f"transformers does not read {left}")
    model.tie_weights()
    model.generation_config = GenerationConfig()
    return model


def shown(ratios: list[float]) -> str:
    """Return a ratio with its interval."""
    ratio = Ratio.of(ratios)
    return "" if ratio is None else f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def main() -> None:
    """Search after all prompts and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--of-each", type=int, default=1)
    parser.add_argument("--characters", type=int, default=300)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=480.0)
    given = parser.parse_args()
    begun = perf_counter()
    torch.set_num_threads(1)
    rival = opened(given.model)
    model = load(given.model, dtype="float32", drafter="none", threads=1)
    rows = Rows()
    rows.watch()
    whole: list[float] = []
    step: list[float] = []
    worst: list[float] = []
    apart: list[float] = []
    same = 0
    for number, (kind, text) in enumerate(
        by_category(given.prompts, given.of_each, given.characters)
    ):
        if perf_counter() - begun > given.seconds:
            break
        read = model.prompt([{"role": "user", "content": text}])
        prompt = [int(token) for token in read.token_ids]
        params = model.params(max_new_tokens=1)
        ends = sorted(model.generation(read, params).request.sampler.end_ids)
        rows.clear()

        def mine(prompt: list[int] = prompt) -> Found:
            return ours(model, prompt, given.beams, given.max_new_tokens)

        def other(prompt: list[int] = prompt, ends: list[int] = ends) -> Found:
            return theirs(rival, ends, prompt, given.beams, given.max_new_tokens)

        if number % 2:
            b, a = other(), mine()
        else:
            a, b = mine(), other()
        whole.append(b.seconds / a.seconds)
        step.append(mean(b.steps) / mean(a.steps))
        shares = [h / n for h, n in zip(rows.held, rows.needed, strict=True)]
        worst += [max(shares[_WARM:], default=1.0)]
        apart.append(max(rows.apart) / max(rows.held))
        same += a.equals(b)
        print(
            f"{kind}: prompt {len(prompt)}, search {whole[-1]:.2f}, step {step[-1]:.2f} "
            f"({1000 * mean(a.steps):.0f} ms), rows {max(rows.held)}, over live {worst[-1]:.3f}, "
            f"equal {a.equals(b)}",
            flush=True,
        )
    count = len(whole)
    print("| transformers / Outrider | ratio |\n|---|---|")
    print(
        f"| CPU seconds of a search | {shown(whole)} |\n| CPU seconds of a step | {shown(step)} |"
    )
    print(f"| rows with a cache for each beam / rows held | {shown(apart)} |")
    print(f"rows held / rows of the prompt and live branches: at most {max(worst):.3f}")
    print(f"{same} of {count} prompts: same texts, scores within {_DIGITS}")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
