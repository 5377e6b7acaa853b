"""Windows of chats for training, with the teacher's most likely tokens, stored when first read."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from benchmarks.real_models.students.prompts import chats
from torch import Tensor
from transformers import LlamaForCausalLM

from outrider.models.checkpoints.tokenizer import Tokenizer

LENGTH = 256
KEPT = 32
"""Teacher probabilities stored for each position."""
_HELD_OUT = 48
"""Answers that only measure: the first two batches, one greedy and one sampled."""
_LONGEST_PROMPT = 260
_LONGEST_ANSWER = 160

Document = tuple[Sequence[int], Sequence[int]]


class Windows:
    """Rows of `LENGTH` tokens; only predictions inside of answers count.

    Attributes:
        ids: tokens [rows, LENGTH].
        counted: whether the next token belongs to an answer [rows, LENGTH].
        held_out: number of rows at the beginning that are never trained on.
        own: number of rows of the model's own answers, behind those held out.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.ids = torch.from_numpy(file["ids"].astype(np.int64))
            self.counted = torch.from_numpy(file["counted"])
            self.held_out, self.own = int(file["held_out"]), int(file["own"])
        shape = (*self.ids.shape, KEPT)
        self._tokens = _opened(path.with_name("taught_tokens.npy"), np.uint16, shape)
        self._probs = _opened(path.with_name("taught_probs.npy"), np.float16, shape)

    def taught(self, teacher: LlamaForCausalLM, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the teacher's best tokens and probabilities of counted positions [n, KEPT]."""
        index = list(rows)
        missing = [row for row in index if not self._probs[row].any()]
        if missing:
            self._read(teacher, missing)
        counted = self.counted[index]
        tokens = torch.from_numpy(self._tokens[index].astype(np.int64))[counted]
        return tokens, torch.from_numpy(self._probs[index].astype(np.float32))[counted]

    @torch.no_grad()
    def _read(self, teacher: LlamaForCausalLM, rows: list[int]) -> None:
        hidden = teacher.model(input_ids=self.ids[rows], use_cache=False).last_hidden_state
        for row, states, counted in zip(rows, hidden, self.counted[rows], strict=True):
            logits = (states[counted] @ teacher.lm_head.weight.T).float()
            best = logits.topk(KEPT, dim=-1)
            probs = (best.values - logits.logsumexp(dim=-1, keepdim=True)).exp()
            # Nothing is stored for prompts; one value marks a row without answers as read.
            self._probs[row, -1, 0] = 1
            self._tokens[row, counted.numpy()] = best.indices.numpy().astype(np.uint16)
            self._probs[row, counted.numpy()] = probs.numpy()


def _opened(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    if path.exists():
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def prepare(model: str, data: Path, folder: Path, texts: int) -> Path:
    """Write `windows.npz` from the answers, and from `texts` tokens of the sets' own answers."""
    path = folder / "windows.npz"
    if path.exists():
        return path
    codec = Tokenizer.load(model)
    lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    own = [(line["prompt"], line["answer"]) for line in map(json.loads, lines)]
    held = packed(own[:_HELD_OUT])
    # The prompts from the end on, so that few of them stand in both parts.
    written = packed(_texts(codec, islice(chats(data), len(own), None), texts))
    parts = [held, packed(own[_HELD_OUT:]), written]
    np.savez(
        path,
        ids=np.concatenate([ids for ids, _ in parts]),
        counted=np.concatenate([counted for _, counted in parts]),
        held_out=len(held[0]),
        own=len(parts[1][0]),
    )
    print("windows: held out, own answers, texts:", [len(ids) for ids, _ in parts], flush=True)
    return path


def _texts(codec: Tokenizer, pairs: Iterator[tuple[str, str]], tokens: int) -> Iterator[Document]:
    for prompt, answer in pairs:
        if tokens <= 0:
            return
        before = codec.chat([{"role": "user", "content": prompt}])
        ids = codec.encode_chat(answer + "<|im_end|>")[:_LONGEST_ANSWER]
        if len(before) <= _LONGEST_PROMPT:
            tokens -= len(before) + len(ids)
            yield before, ids


def packed(documents: Sequence[Document] | Iterator[Document]) -> tuple[np.ndarray, np.ndarray]:
    """One document behind the other; `counted` marks positions whose next token is answered."""
    ids: list[int] = []
    counted: list[bool] = []
    for prompt, answer in documents:
        if len(prompt) > _LONGEST_PROMPT:
            continue
        ids += [*prompt, *answer]
        counted += [False] * (len(prompt) - 1) + [True] * len(answer) + [False]
    rows = len(ids) // LENGTH
    shape = (rows, LENGTH)
    cut = rows * LENGTH
    return np.array(ids[:cut], np.uint16).reshape(shape), np.array(counted[:cut]).reshape(shape)
