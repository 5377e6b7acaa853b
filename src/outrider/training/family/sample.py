"""Samples continuations of the target, on which the small models are distilled besides real
text.
"""

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from outrider.training.core.loop import TrainingStopped
from outrider.training.core.models import moved
from outrider.training.core.workspace import Workspace
from outrider.training.family.target import load_target

_SHORTEST_PROMPT = 16


@torch.no_grad()
def continuations(
    model: LlamaForCausalLM,
    prompts: Tensor,
    length: int,
    *,
    temperature: float,
    top_p: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Continue `prompts` int64 [rows, n] to [rows, length]; greedy at temperature 0.

    End tokens do not stop a row: after one, a new document follows, as in the training stream.
    """
    generator = torch.Generator(device=prompts.device).manual_seed(seed)
    cache = DynamicCache(config=model.config)
    rows, fed = prompts, prompts
    while rows.shape[1] < length:
        out = model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits = out.logits[:, -1].float()
        if temperature == 0:
            fed = logits.argmax(dim=-1, keepdim=True)
        else:
            probs = _nucleus(torch.softmax(logits / temperature, dim=-1), top_p)
            fed = torch.multinomial(probs, 1, generator=generator)
        rows = torch.cat((rows, fed), dim=1)
    return rows


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Keep the most likely tokens of each row up to a mass of `top_p`; not normalized."""
    if top_p >= 1:
        return probs
    ordered, index = probs.sort(dim=-1, descending=True)
    ordered[ordered.cumsum(dim=-1) - ordered >= top_p] = 0
    return torch.zeros_like(probs).scatter(-1, index, ordered)


def sample_corpus(work: Workspace) -> dict[str, int]:
    """Write `samples/<n>.npy`, chunks of sampled rows, until the tokens or minutes are used up.

    Prompts are random parts of the training text. Existing chunks are kept.
    """
    settings = work.config.sampling
    model = moved(load_target(work), torch.bfloat16)
    folder = work.folder / "samples"
    folder.mkdir(exist_ok=True)
    started, tokens, number = monotonic(), 0, 0
    while tokens < settings.tokens and not _late(started, settings.max_minutes, number):
        path = folder / f"{number}.npy"
        if not path.exists():
            _sample_chunk(work, model, number, path)
        if work.stop.asked:
            raise TrainingStopped("stopped while sampling", hint="Run again to resume")
        tokens += settings.batch * settings.length
        number += 1
        print(f"samples: {tokens} tokens, {monotonic() - started:.0f} s", flush=True)
    return {"tokens": tokens, "chunks": number}


def _late(started: float, minutes: float | None, number: int) -> bool:
    """Whether the time is up; at least one chunk is always written."""
    return number > 0 and minutes is not None and monotonic() - started >= 60 * minutes


def _sample_chunk(work: Workspace, model: LlamaForCausalLM, number: int, path: Path) -> None:
    settings = work.config.sampling
    rng = np.random.default_rng([work.config.seed, number, 7])
    length = int(rng.integers(_SHORTEST_PROMPT, settings.longest_prompt + 1))
    windows = work.windows(length, work.config.distill.stream, seed=number)
    first = int(rng.integers(windows.count))
    prompts = torch.from_numpy(windows.rows(first, settings.batch)).to(work.device)
    rows = continuations(
        model,
        prompts,
        settings.length,
        temperature=settings.temperatures[number % len(settings.temperatures)],
        seed=work.config.seed * 1000 + number,
    )
    partial = path.with_suffix(".partial.npy")
    np.save(partial, rows.cpu().numpy().astype(np.uint32))
    partial.replace(path)


def sample_stream(folder: Path) -> np.ndarray:
    """Return all sampled rows as one stream of tokens; empty if there are no samples."""
    rows = [np.load(path).reshape(-1) for path in _chunks(folder / "samples")]
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.uint32)


def _chunks(folder: Path) -> Iterator[Path]:
    found = [path for path in folder.glob("*.npy") if path.stem.isdigit()]
    yield from sorted(found, key=lambda path: int(path.stem))
