"""Proxy tuning on the tiny family: how much of what tuning gains is gained without tuning.

    python -m benchmarks.guidance.proxy_tuning train FOLDER --data DIR --tier draft
    python -m benchmarks.guidance.proxy_tuning train FOLDER --data DIR --tier target
    python -m benchmarks.guidance.proxy_tuning measure FOLDER --data DIR

`train` trains a LoRA adapter of one tier on a data set, with peft; both tiers read the same windows
in the same order. `measure` computes losses on held-out documents, nats a token: the target, the
target steered by the draft model with and without its adapter (`proxy-tuning`, arXiv 2401.08565),
the tuned draft model alone, and the target with an adapter of its own, which is the most that can
be gained. The strength is chosen on one half of the documents and judged on the other. Intervals
draw documents.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.guidance.pairs import judged
from benchmarks.long_inputs.intervals import RESAMPLES, bootstrap
from benchmarks.search.intervals import difference, shown

from outrider import load
from outrider.core.types import Prompt
from outrider.guidance.proxy_tuning import ProxyTuning
from outrider.guidance.recipe import Parts
from outrider.models.loading import load_model
from outrider.models.sources.families import family
from outrider.protocols import LanguageModel
from outrider.training.core.corpus import read_records
from outrider.training.core.formats import FORMATS

SETS = {
    "code": ("python_code/train.jsonl.zst", "python_code/val.jsonl.zst", "code"),
    "dialogue": (
        "synthetic_persona_chat/train.jsonl.zst",
        "synthetic_persona_chat/test.jsonl.zst",
        "dialogue",
    ),
}
"""Files of training and of held-out documents, and their format."""
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def encoded(codec: Any, path: Path, kind: str) -> list[tuple[int, ...]]:
    """Return the documents of a file as tokens."""
    rng = random.Random(0)
    texts = [text for record in read_records(path) for text in FORMATS[kind](record, rng)]
    return [tuple(codec.encode(text)) for text in texts]


def windows(texts: Sequence[tuple[int, ...]], length: int, seed: int = 0) -> torch.Tensor:
    """Return all documents in random order, end to end, cut into `[windows, length]`."""
    order = list(texts)
    random.Random(seed).shuffle(order)
    joined = [token for text in order for token in (*text, 0)]
    count = len(joined) // length
    return torch.tensor(joined[: count * length]).view(count, length)


def train(given: argparse.Namespace) -> None:
    """Train the adapter of one tier."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder = family("tiny")[given.tier]
    codec = load(folder, mode="none", threads=1).tokenizer
    trained, _, kind = SETS[given.set]
    rows = windows(encoded(codec, given.data / trained, kind), given.length)
    steps = min(given.steps, len(rows) // given.rows)
    base = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(
        base, LoraConfig(r=given.rank, lora_alpha=2 * given.rank, target_modules=list(MATRICES))
    )
    weights = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=given.rate, weight_decay=0.0)
    warm = max(steps // 10, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / steps)
    )
    start, done = time.monotonic(), 0
    for step in range(steps):
        batch = rows[step * given.rows : (step + 1) * given.rows]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        done = step + 1
        if done % 10 == 0:
            print(f"step {done} of {steps}, loss {float(loss):.3f}", flush=True)
        if time.monotonic() - start > given.seconds:
            break
    out = given.folder / given.tier
    model.save_pretrained(out)
    about = {"steps": done, "tokens": done * given.rows * given.length, "set": given.set}
    about |= {"parameters": sum(map(torch.numel, weights)), "processor": time.process_time()}
    (out / "training.json").write_text(json.dumps(about))
    print(about)


def losses(
    model: LanguageModel, texts: Sequence[tuple[int, ...]]
) -> tuple[list[float], list[float]]:
    """Return the mean loss of each document, and the share of tokens that are the best ones."""
    seen = [judged(model, Prompt(token_ids=text[:1]), text[1:]) for text in texts]
    return [float(one.losses.mean()) for one in seen], [float(one.own.mean()) for one in seen]


def closed(plain: np.ndarray, ours: np.ndarray, best: np.ndarray) -> str:
    """Return the share of the gap between `plain` and `best` that `ours` closes."""
    picked = np.random.default_rng(0).integers(len(plain), size=(RESAMPLES, len(plain)))
    shares = (plain - ours)[picked].sum(axis=1) / (plain - best)[picked].sum(axis=1)
    low, high = np.quantile(shares, (0.025, 0.975))
    share = float((plain - ours).sum() / (plain - best).sum())
    return f"{share:.0%} [{low:.0%}, {high:.0%}]"


def measure(given: argparse.Namespace) -> None:
    """Print the table."""
    folders = family("tiny")

    def model(tier: str, adapter: bool = False) -> LanguageModel:
        own = given.folder / tier if adapter else None
        return load_model(folders[tier], dtype="float32", threads=1, adapter=own)

    large, small, tuned = model("target"), model("draft"), model("draft", adapter=True)
    codec = load(folders["target"], mode="none", threads=1).tokenizer
    _, held, kind = SETS[given.set]
    texts = [text[: given.longest + 1] for text in encoded(codec, given.data / held, kind)]
    texts = [text for text in texts if len(text) > 32][: given.number]
    chosen_on, judged_on = texts[::2], texts[1::2]

    def steered(alpha: float) -> LanguageModel:
        recipe = ProxyTuning(untuned=small, tuned=tuned, alpha=alpha)
        return recipe.build(Parts(target=large, models={"untuned": small, "tuned": tuned}))

    print("| strength | loss on the first half |\n|--:|---|")
    tried = {}
    for alpha in given.alphas:
        tried[alpha], _ = losses(steered(alpha), chosen_on)
        print(f"| {alpha:g} | {np.mean(tried[alpha]):.3f} |", flush=True)
    alpha = min(tried, key=lambda one: float(np.mean(tried[one])))
    arms = {
        "target": large,
        f"proxy-tuned, strength {alpha:g} (chosen)": steered(alpha),
        "proxy-tuned, strength 1 (the paper)": steered(1.0),
        "draft model": small,
        "draft model, tuned": tuned,
        "target, tuned": model("target", adapter=True),
    }
    found = {name: losses(one, judged_on) for name, one in arms.items()}
    plain, best = (np.array(found[name][0]) for name in ("target", "target, tuned"))
    print(
        "\n| | loss | less than the target | share of the gap | best token right |"
        "\n|---|---|---|---|--:|"
    )
    for name, (loss, own) in found.items():
        mean, low, high = bootstrap(loss)
        less = shown(difference(plain.tolist(), loss)) if name != "target" else ""
        share = closed(plain, np.array(loss), best) if name.startswith("proxy") else ""
        print(
            f"| {name} | {mean:.3f} [{low:.3f}, {high:.3f}] | {less} | {share} |"
            f" {np.mean(own):.1%} |",
            flush=True,
        )
    for tier in ("draft", "target"):
        print(tier, (given.folder / tier / "training.json").read_text())
    count = sum(map(len, judged_on))
    print(f"{len(judged_on)} documents, {count} tokens; load average {os.getloadavg()[0]:.1f}")


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("command", choices=("train", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, default="code")
    parser.add_argument("--tier", choices=("draft", "target"), default="draft")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--number", type=int, default=120)
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument("--alphas", type=float, nargs="+", default=(0.25, 0.5, 0.75, 1.0, 1.5))
    given = parser.parse_args()
    train(given) if given.command == "train" else measure(given)


if __name__ == "__main__":
    main()
