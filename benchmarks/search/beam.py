"""Beam search beside that of `transformers`, with the same float32 weights and one thread.

    python -m benchmarks.search.beam smollm2 --prompts question.jsonl.zst --of-each 1

Both search every prompt in turn, first one and then the other. Seconds are those of the processor,
which other programs on the machine change little. A step is what lies between two looks at the
logits, the first one left out; the whole search includes reading the prompt. Rows are those of the
cache after each step: all that it holds, beside the prompt and the running branches, from step 16
on. A line is printed for each prompt, and the summary at the end. After `--seconds` of the clock no
other prompt is begun.

    python -m benchmarks.search.beam smollm2 --prompts question.jsonl.zst --lengths 50 500 1500

Prompts of exactly these lengths are parts of the joined questions. A third system searches beside
the two: Outrider with a cache for each beam, which holds a copy of the rows of the prompt, and all
else equal. Its step beside that of Outrider says what the shared cache saves; that of
`transformers` beside it, what the rest does.
"""

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
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
from outrider.core.types import NO_IDS, as_ids
from outrider.models.checkpoints.checkpoint import load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.sources.known import known_model
from outrider.protocols import Cache, Segment
from outrider.search.task import Task
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


@dataclass(slots=True)
class Apart(TokenTree):
    """Branches that have a cache each. A beam that several continue is copied, the prompt included;
    a beam that one continues is not."""

    caches: dict[Node, Cache] = field(default_factory=dict[Node, Cache])

    @torch.inference_mode()
    def extend(
        self, steps: Sequence[tuple[Node, int]], prompts: torch.Tensor | None = None
    ) -> tuple[list[Node], torch.Tensor]:
        """Append a token to each of these nodes, in one forward."""
        self.account.check()
        left = Counter(node for node, _ in steps)
        added: dict[Node, Cache] = {}
        for node, token in steps:
            left[node] -= 1
            own = self.caches.get(node, self.cache)
            cache = own.fork() if left[node] else own
            cache.commit([token])
            added[Node(token=token, parent=node, row=0, depth=node.depth + 1)] = cache
        segments = [Segment(cache, NO_IDS) for cache in added.values()]
        rows = self.model.forward(segments, [as_ids([-1])] * len(segments))
        self.account.forward(len(segments))
        self.caches = added
        return list(added), torch.cat([one.logits for one in rows])

    def keep(self, leaves: Iterable[Node]) -> None:
        """Give up the other branches."""
        self.caches = {leaf: self.caches[leaf] for leaf in leaves}


def apart(model: Generator, prompt: list[int], beams: int, most: int) -> Found:
    """Search with Outrider and a cache for each beam."""
    shared = Task.tree
    Task.tree = lambda task: Apart(task.stage.model, task.cache.fork(), task.account)
    try:
        return ours(model, prompt, beams, most)
    finally:
        Task.tree = shared


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


def by_length(model: Generator, rival: Any, given: argparse.Namespace) -> None:
    """Search with all three systems after prompts of each length in turn, and print their steps."""
    begun = perf_counter()
    texts = by_category(given.prompts, 1000, given.characters)
    ids = [int(t) for t in model.prompt("\n".join(text for _, text in texts)).token_ids]
    ends = sorted(model.generation(model.prompt("a"), model.params()).request.sampler.end_ids)
    beams, most = given.beams, given.max_new_tokens
    systems: dict[str, Callable[[list[int]], Found]] = {
        "Outrider": lambda prompt: ours(model, prompt, beams, most),
        "a cache for each beam": lambda prompt: apart(model, prompt, beams, most),
        "transformers": lambda prompt: theirs(rival, ends, prompt, beams, most),
    }
    steps: dict[int, list[dict[str, float]]] = {length: [] for length in given.lengths}
    same, count, at = 0, 0, 0
    for number in range(given.of_each):
        for length in given.lengths:
            if perf_counter() - begun > given.seconds:
                break
            prompt, at = ids[at : at + length], at + length
            names = list(systems)[number % 3 :] + list(systems)[: number % 3]
            found = {name: systems[name](prompt) for name in names}
            steps[length].append({name: mean(one.steps) for name, one in found.items()})
            equal = all(one.equals(found["Outrider"]) for one in found.values())
            same, count = same + equal, count + 1
            shown_steps = ", ".join(f"{n} {1000 * s:.0f}" for n, s in steps[length][-1].items())
            whole = ", ".join(f"{one.seconds:.1f}" for one in found.values())
            print(f"{length}: ms of a step: {shown_steps}; s: {whole}; equal {equal}", flush=True)
    print("| prompt | " + " | ".join(systems) + " | for each beam / Outrider | transformers / it |")
    print("|--:|--:|--:|--:|---|---|")
    for length, rows in steps.items():
        if not rows:
            continue
        own, copied, other = ([row[name] for row in rows] for name in systems)
        means = " | ".join(f"{1000 * mean(values):.0f}" for values in (own, copied, other))
        shares = shown([b / a for a, b in zip(own, copied, strict=True)])
        rest = shown([b / a for a, b in zip(copied, other, strict=True)])
        print(f"| {length} ({len(rows)}) | {means} | {shares} | {rest} |")
    print(f"{same} of {count} prompts: same texts, scores within {_DIGITS}")
    print(f"load average {os.getloadavg()[0]:.1f}")


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
    parser.add_argument("--lengths", type=int, nargs="*", default=())
    given = parser.parse_args()
    begun = perf_counter()
    torch.set_num_threads(1)
    rival = opened(given.model)
    model = load(given.model, dtype="float32", drafter="none", threads=1)
    if given.lengths:
        by_length(model, rival, given)
        return
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
