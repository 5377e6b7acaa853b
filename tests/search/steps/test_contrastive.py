"""Contrastive search."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from outrider.core.errors import OptionError
from outrider.core.types import Prompt
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.search import Limits
from outrider.search.steps.contrastive import Contrastive, _Seen
from outrider.testing.rigs import tabular_family
from outrider.testing.searches import END, check_search, searched
from tests.models.heads.setups import make_target, needs_kernels

pytestmark = pytest.mark.method("contrastive")

PROMPT = (3, 1, 4, 1, 5)
VOCAB = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"), vocab_size=VOCAB)


@pytest.fixture(scope="module")
def model(folder: Path) -> Decoder:
    return Decoder.load(folder, dtype=torch.float64)


@pytest.fixture(scope="module")
def reference(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64)


def read(reference: LlamaForCausalLM, text: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities after a text, and the last hidden states of its tokens."""
    with torch.no_grad():
        out = reference(torch.tensor([list(text)]), output_hidden_states=True)
    assert out.logits is not None and out.hidden_states is not None
    return torch.softmax(out.logits[0, -1], -1), out.hidden_states[-1][0]


def directly(
    reference: LlamaForCausalLM, prompt: Sequence[int], alpha: float, k: int, count: int
) -> tuple[list[int], float]:
    """The text by the formula of the paper, reading all of it again for each candidate, and how
    near the closest decision was."""
    text, nearest = list(prompt), 1.0
    while len(text) - len(prompt) < count and (text[-1] != END or len(text) == len(prompt)):
        probs, before = read(reference, text)
        scores: list[float] = []
        best = probs.argsort(descending=True)[:k].tolist()
        for token in best:
            _, states = read(reference, [*text, token])
            similar = max(float(torch.cosine_similarity(states[-1], one, dim=0)) for one in before)
            scores.append((1 - alpha) * float(probs[token]) - alpha * similar)
        ordered = sorted(scores, reverse=True)
        nearest = min(nearest, ordered[0] - ordered[1])
        text.append(best[scores.index(ordered[0])])
    return text[len(prompt) :], nearest


@pytest.mark.parametrize(("alpha", "k"), [(0.6, 4), (0.3, 6), (1.0, 3), (0.9, VOCAB)])
def test_the_text_is_that_of_the_formula(
    model: Decoder, reference: LlamaForCausalLM, alpha: float, k: int
) -> None:
    for prompt in (PROMPT, (7,)):
        text, nearest = directly(reference, prompt, alpha, k, 8)
        found = searched(Contrastive(alpha=alpha, top_k=k), model, prompt, max_new_tokens=8)
        assert list(found.best.token_ids) == text
        assert nearest > 1e-6  # else the states of the prompt, in float32, could decide otherwise


@needs_kernels()
def test_the_compiled_runner_writes_the_same(model: Decoder, folder: Path) -> None:
    native = NativeDecoder.load(folder, dtype=torch.float32, threads=1)
    for search in (Contrastive(), Contrastive(alpha=0.9, top_k=8)):
        found = searched(search, native, PROMPT, max_new_tokens=12)
        own = searched(search, model, PROMPT, max_new_tokens=12)
        assert found.best.token_ids == own.best.token_ids
        assert found.best.score == pytest.approx(own.best.score, abs=1e-4)


@pytest.mark.parametrize("search", [Contrastive(alpha=0.0), Contrastive(alpha=0.9, top_k=1)])
def test_without_a_penalty_or_a_choice_it_is_greedy_decoding(
    model: Decoder, reference: LlamaForCausalLM, search: Contrastive
) -> None:
    text: list[int] = [*PROMPT]
    while len(text) < len(PROMPT) + 15 and text[-1] != END:
        text.append(int(read(reference, text)[0].argmax()))
    found = searched(search, model, PROMPT, max_new_tokens=15)
    assert list(found.best.token_ids) == text[len(PROMPT) :]


def test_similarity_is_the_largest_cosine() -> None:
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    seen = _Seen(states[:2], room=1)
    seen.add(states[2])
    found = seen.similarity(states[3:])
    for one, own in zip(states[3:], found.tolist(), strict=True):
        every = [float(torch.cosine_similarity(one, other, dim=0)) for other in states[:3]]
        assert own == pytest.approx(max(every))


def test_all_candidates_of_a_step_are_read_in_one_forward(model: Decoder) -> None:
    search = Contrastive(top_k=5)
    found = searched(search, model, PROMPT, max_new_tokens=9, ignore_eos=True)
    assert found.forwards == 10  # the end of the prompt, then a forward a token
    assert found.tokens == 1 + 9 * 5
    assert found.cache_rows < len(PROMPT) + 9 + 16 + 2 * 5  # rows of other candidates are dropped


def test_banned_tokens_are_no_candidates(model: Decoder) -> None:
    kept = (2, 5)
    banned = tuple(token for token in range(VOCAB) if token not in kept)
    found = searched(Contrastive(), model, PROMPT, max_new_tokens=8, banned_tokens=banned)
    assert set(found.best.token_ids) <= set(kept)
    assert found.tokens == 1 + 8 * 2


def test_a_larger_weight_repeats_less(model: Decoder) -> None:
    def different(alpha: float) -> int:
        found = searched(Contrastive(alpha=alpha), model, PROMPT, max_new_tokens=40, **long)
        return len({found.best.token_ids[i : i + 3] for i in range(38)})

    long = {"ignore_eos": True}
    assert different(0.0) < different(0.9)


def test_the_score_is_the_mean_log_probability(model: Decoder, reference: LlamaForCausalLM) -> None:
    found = searched(Contrastive(), model, PROMPT, max_new_tokens=7).best
    own = [
        float(read(reference, (*PROMPT, *found.token_ids[:i]))[0][token].log())
        for i, token in enumerate(found.token_ids)
    ]
    assert found.logprob == pytest.approx(sum(own))
    assert found.score == pytest.approx(sum(own) / len(own))


def test_a_limit_keeps_the_beginning_of_the_text(model: Decoder) -> None:
    whole = searched(Contrastive(), model, PROMPT, max_new_tokens=10, ignore_eos=True).best
    limits = Limits(tokens=1 + 4 * 4)
    cut = searched(Contrastive(), model, PROMPT, limits=limits, ignore_eos=True)
    assert cut.best.token_ids == whole.token_ids[:4]
    assert cut.best.finish_reason == "unfinished" and "limit of 17" in cut.stopped


def test_the_window_limits_the_text(model: Decoder) -> None:
    room = model.start([Prompt(token_ids=PROMPT)])[0].remaining
    found = searched(Contrastive(top_k=2), model, PROMPT, max_new_tokens=500, ignore_eos=True)
    assert len(found.best.token_ids) == room


def test_a_model_without_hidden_states_is_refused() -> None:
    with pytest.raises(OptionError, match="compares hidden states, which tabular does not return"):
        searched(Contrastive(), tabular_family().target, PROMPT)


def test_the_contract(tmp_path: Path) -> None:
    def model_of(seed: int) -> Decoder:
        made = make_target(tmp_path / str(seed), vocab_size=7, seed=seed)
        return Decoder.load(made, dtype=torch.float64)

    check_search(Contrastive, model_of=model_of)


@pytest.mark.parametrize(
    ("options", "problem"),
    [({"alpha": 1.1}, "alpha is 1.1"), ({"alpha": -1}, "alpha"), ({"top_k": 0}, "top_k is 0")],
)
def test_options_out_of_range_are_refused(options: dict[str, float], problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        Contrastive(**options)  # type: ignore[arg-type]
