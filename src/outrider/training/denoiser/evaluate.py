"""Scores of a denoiser on test items: greedy, one token a round, the surest position first."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer

from outrider.core.types import IntArray
from outrider.diffusion.parallel.catalogue import TASKS, items
from outrider.diffusion.parallel.item import Item
from outrider.training.denoiser.data import chat_prompt, end_id
from outrider.training.denoiser.model import DenoisingModel

_SEED = 1
_BATCH = 32


@torch.no_grad()
def write(model: DenoisingModel, prompts: Sequence[IntArray], slot: int) -> IntArray:
    """Return answers `[prompts, slot]`, of which one position is written in each round."""
    ids = np.zeros((len(prompts), max(map(len, prompts)) + slot), dtype=np.int64)
    seen = np.zeros(ids.shape, dtype=np.bool_)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
        ids[row, len(prompt) : len(prompt) + slot] = model.mask_id
        seen[row, : len(prompt) + slot] = True
    text, known = torch.from_numpy(ids), torch.from_numpy(seen)
    rows = torch.arange(len(prompts))
    places = torch.tensor([len(prompt) for prompt in prompts])[:, None] + torch.arange(slot)
    for _ in range(slot):
        hidden = model.hidden(text, known)[rows[:, None], places]
        best = model.logits(hidden.flatten(0, 1)).softmax(-1).max(-1)
        sure, chosen = (part.view(len(prompts), slot) for part in best)
        masked = text[rows[:, None], places] == model.mask_id
        at = sure.masked_fill(~masked, -1).argmax(1)
        text[rows, places[rows, at]] = chosen[rows, at]
    return text[rows[:, None], places].numpy()


def answer_text(ids: IntArray, tokenizer: Tokenizer) -> str:
    """Return the text before the first end token."""
    end = end_id(tokenizer)
    kept = list(itertools.takewhile(lambda token: token != end, ids.tolist()))
    return tokenizer.decode(kept, skip_special_tokens=False)


def task_scores(
    model: DenoisingModel, tokenizer: Tokenizer, names: Sequence[str], count: int
) -> dict[str, float]:
    """Return the mean score of each task over `count` test items."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for slot in sorted({TASKS[name].slot for name in names}):
        chosen = [
            (n, one) for n in names if TASKS[n].slot == slot for one in items(n, count, seed=_SEED)
        ]
        for part in _batched(chosen):
            prompts = [np.array(tokenizer.encode(chat_prompt(item.prompt)).ids) for _, item in part]
            for (name, item), ids in zip(part, write(model, prompts, slot), strict=True):
                found[name].append(item.score(answer_text(ids, tokenizer)))
    return {name: sum(scores) / len(scores) for name, scores in found.items()}


def _batched(chosen: list[tuple[str, Item]]) -> list[list[tuple[str, Item]]]:
    return [chosen[at : at + _BATCH] for at in range(0, len(chosen), _BATCH)]
