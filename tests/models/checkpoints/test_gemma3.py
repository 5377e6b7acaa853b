"""Gemma 3 270M from its GGUF file: a real model of another architecture than Llama."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import outrider
from outrider import kernels
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.cpu.native import NativeDecoder
from tests.models.checkpoints.gguf_tokens import oracle
from tests.models.checkpoints.gguf_tokens.lines import draw_lines
from tests.models.setups.reference import all_logits, close

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing()),
]

TEXT = """The river Rhine begins in the Swiss Alps and flows through six countries before it
reaches the North Sea. Two thousand years ago it was the border of the Roman Empire, and the towns
of Cologne, Bonn and Mainz began as Roman camps. Today ships carry coal, ore and grain on it, and
more than thirty million people drink its water. In summer the water is low, and ships can carry
only half of their load; in spring, when the snow melts, it may flood the old towns on its banks."""


@pytest.fixture(scope="module")
def ids(gemma3: Path) -> list[int]:
    return list(Tokenizer.load(gemma3).encode(TEXT))


def surprise(logits: Tensor, ids: list[int]) -> float:
    """Nats for each token of the text."""
    following = torch.tensor(ids[1:])[:, None]
    return float(-logits[:-1].log_softmax(-1).gather(1, following).mean())


def divergence(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """The KL divergence in nats for each token, and the share of equal best tokens."""
    p, q = (logits.double().log_softmax(-1) for logits in (theirs, ours))
    same = (ours.argmax(-1) == theirs.argmax(-1)).double().mean()
    return float((p.exp() * (p - q)).sum(-1).mean()), float(same)


@pytest.fixture(scope="module")
def exact(gemma3: Path, ids: list[int]) -> Tensor:
    """Logits in float32."""
    return all_logits(NativeDecoder.load(gemma3, dtype=torch.float32, threads=2), ids)


def test_it_knows_english(exact: Tensor, ids: list[int]) -> None:
    assert surprise(exact, ids) < 3.3


def test_stored_weights_and_any_width(gemma3: Path, exact: Tensor, ids: list[int]) -> None:
    model = NativeDecoder.load(gemma3, dtype=None, threads=2)
    stored = all_logits(model, ids)
    kl, same = divergence(stored, exact)
    assert kl < 0.01 and same > 0.9, (kl, same)
    for width in (1, 3, 8):
        close(all_logits(model, ids[:width]), stored[:width], 0.0)


WRONG: dict[str, dict[str, Any]] = {
    "norms with 1 added twice": {"rms_norm_offset": 1.0},
    "one rotary base": {"rope_local_base_freq": 1e6},
    "another factor of scores": {"query_pre_attn_scalar": 64},
    "all layers local": {"sliding_window": 16, "sliding_window_pattern": 100},
    "another activation": {"hidden_activation": "relu"},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_surprises_it(
    name: str, gemma3: Path, exact: Tensor, ids: list[int]
) -> None:
    sound = open_checkpoint(gemma3)
    wrong: Checkpoint = replace(sound, config=sound.config | WRONG[name])
    logits = all_logits(NativeDecoder.load(wrong, dtype=None, threads=2), ids)
    assert surprise(logits, ids) > surprise(exact, ids) + 0.1


def test_drafted_text_is_the_plain_text(gemma3: Path) -> None:
    options: dict[str, Any] = {"dtype": "stored", "threads": 2}
    prompt = "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, Monday, Tuesday,"
    plain = outrider.load(gemma3, mode="none", **options).generate(prompt, max_new_tokens=24)
    drafted = outrider.load(gemma3, drafter="lookup", **options).generate(prompt, max_new_tokens=24)
    assert drafted.token_ids == plain.token_ids and "Wednesday" in plain.text


def test_ids_are_those_of_llama_cpp(gemma3: Path) -> None:
    pytest.importorskip("llama_cpp")
    tokenizer, encode = Tokenizer.load(gemma3), oracle.open_llama_cpp(gemma3)
    for line in (TEXT, *draw_lines(500, ("<start_of_turn>", "<end_of_turn>", "<bos>"))):
        assert tokenizer.tokenizer.encode(line) == encode(line, True)


def test_logits_are_close_to_those_of_llama_cpp(
    gemma3: Path, exact: Tensor, ids: list[int]
) -> None:
    """llama.cpp rounds the inputs of its matrices to 8 bits."""
    llama_cpp: Any = pytest.importorskip("llama_cpp")
    theirs = llama_cpp.Llama(str(gemma3), n_ctx=256, logits_all=True, verbose=False, n_threads=2)
    theirs.eval(ids)
    kl, same = divergence(exact, torch.tensor(theirs.scores[: len(ids)]))
    assert kl < 0.01 and same > 0.9, (kl, same)
