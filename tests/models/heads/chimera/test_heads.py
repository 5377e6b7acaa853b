"""What must hold of a head of Chimera (arXiv 2402.15758), against a layer of transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from outrider.core.errors import CheckpointError, ContextError
from outrider.core.types import as_ids
from outrider.models.heads.chimera import model as running
from outrider.models.heads.chimera.config import MIX, OUT, squares_of
from outrider.models.heads.chimera.model import ChimeraModel
from outrider.models.heads.config import LAYER
from tests.models.heads.chimera.setups import HEADS, PARTS, chimera_rig
from tests.models.heads.rounds import after_a_round, after_one_token, in_parts
from tests.models.heads.setups import VOCAB, Rig, close, make_target, random_text

pytestmark = pytest.mark.method("chimera")

TEXT = random_text(14)
EXACT, QUERIES = 2e-5, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module", params=PARTS)
def rig(request: Any, folder: Path) -> Rig:
    return chimera_rig(folder, **PARTS[request.param])


@pytest.fixture(scope="module")
def whole(folder: Path) -> Rig:
    return chimera_rig(folder)


class Published:
    """One step after the other as the paper has it, on whole sequences.

    The sequence is the states of the target, the outputs of earlier steps in place of the missing
    ones, and the encoded last tokens; attention is causal and places count from 0.
    """

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig, self.config = rig, rig.config
        settings = LlamaConfig.from_pretrained(folder, attn_implementation="eager")
        self.turn = LlamaRotaryEmbedding(settings)
        self.layer = LlamaDecoderLayer(settings, 0).eval()
        if self.config.context:  # pyright: ignore[reportAttributeAccessIssue]
            self.layer.load_state_dict(
                {n.removeprefix(LAYER): t for n, t in rig.tensors.items() if n.startswith(LAYER)}
            )

    def encoded(self, tokens: list[int]) -> Tensor:
        trigram = self.config.trigram  # pyright: ignore[reportAttributeAccessIssue]
        words = self.rig.teacher.embed[tokens[-3:] if trigram else tokens[-1:]].flatten()
        mixed = self.rig.tensors[MIX] @ words
        return self.rig.tensors[OUT] @ (words + mixed * torch.sigmoid(mixed))

    @torch.no_grad()
    def logits(self, text: list[int], chain: list[int]) -> Tensor:
        """The logits of each head along a chain of tokens."""
        cache = self.rig.reads(text)
        states = self.rig.head._states.kept(cache, 0, len(text) - 1)[:, -1]
        rows = self.rig.teacher.lm_head[self.rig.tensors["ids"].long()]
        sequence, found = states, list[Tensor]()
        for number in range(len(chain) + 1):
            output = self.encoded([*text, *chain[:number]])
            if self.config.context:  # pyright: ignore[reportAttributeAccessIssue]
                given = torch.cat((sequence, output[None]))[None]
                places = torch.arange(given.shape[1])[None]
                mask = torch.full((given.shape[1], given.shape[1]), -torch.inf).triu(1)
                turned = self.turn(given, places)
                out: Any = self.layer(
                    given, attention_mask=mask[None, None], position_embeddings=turned
                )
                output = (out[0] if isinstance(out, tuple) else out).reshape(-1, len(output))[-1]
            first, second = (self.rig.tensors[name] for name in squares_of(number))
            found.append(rows @ (first @ states[-1] + second @ output))
            sequence = torch.cat((sequence, output[None]))
        return torch.stack(found)


def drafted(rig: Rig, *arguments: Any) -> Tensor:
    return rig.rows(rig.follows(TEXT), *arguments)[:, rig.tensors["ids"].long()]


def test_a_chain_is_that_of_the_paper(rig: Rig, folder: Path) -> None:
    """Rows see all states and the outputs of their branch, and head k drafts after k tokens."""
    expected = Published(rig, folder).logits(list(TEXT), [5, 9])
    found = rig.rows(rig.follows(TEXT), (5, 9))
    assert found.shape == (HEADS, VOCAB)
    close(found[:, rig.tensors["ids"].long()], expected, EXACT)
    assert int(torch.isfinite(found[0]).sum()) == len(rig.tensors["ids"])


def test_a_row_sees_its_own_branch_and_no_other(rig: Rig) -> None:
    """Rows of a tree, read at once or level by level, are those of the chain to each of them."""
    chains = [drafted(rig, one) for one in ((5, 6), (5, 7), (8, 6))]
    tree = drafted(rig, (5, 8, 6, 7, 6), (-1, -1, 0, 0, 1))
    expected = [chains[0][0], chains[0][1], chains[2][1]]
    expected += [chains[0][2], chains[1][2], chains[2][2]]
    close(tree, torch.stack(expected), EXACT)
    cache = rig.follows(TEXT)
    parts = [
        rig.rows(cache),
        rig.rows(cache, (5, 8), (-1, -1)),
        rig.rows(cache, (6, 7, 6), (0, 0, 1)),
    ]
    close(torch.cat(parts)[:, rig.tensors["ids"].long()], tree, EXACT)


def test_a_row_sees_every_state_and_the_short_head_the_last_one(rig: Rig) -> None:
    """The first token of the text is in no trigram, and reaches all states of the target."""
    before = drafted(rig, (5,))
    cache = rig.reads(TEXT)
    for place in range(len(TEXT) - 1):
        head = rig.head.follow(cache)
        kept = rig.head._states.kept

        def changed(
            source: Any, start: int, stop: int, at: int = place, kept: Any = kept
        ) -> Tensor:
            states = kept(source, start, stop).clone()
            if start <= at < stop:
                states[at - start] += 1
            return states

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(rig.head._states), "kept", lambda _, *given: changed(*given))
            head.commit(as_ids(TEXT[1:]))
            found = rig.rows(head, (5,))[:, rig.tensors["ids"].long()]
        off = (found - before).abs().amax(-1)
        last = place == len(TEXT) - 2
        assert bool((off > 1e-4).all()) is (rig.config.context or last), place  # pyright: ignore[reportAttributeAccessIssue]
        assert rig.config.context or last or not off.any()  # pyright: ignore[reportAttributeAccessIssue]


def test_equal_trigrams_give_equal_vectors_that_are_computed_once(
    whole: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In other branches, at other places and in other texts."""
    head = whole.head
    assert isinstance(head, ChimeraModel)
    asked: list[list[int]] = []
    right = head._network.encoded

    def counted(tokens: Tensor) -> Tensor:
        asked.extend(tokens.tolist())
        return right(tokens)

    monkeypatch.setattr(head._network, "encoded", counted)
    head._encoded.clear()
    cache = whole.follows((*TEXT, 1, 2))
    whole.rows(cache, (3, 4), (-1, -1))
    assert asked == [[TEXT[-1], 1, 2], [1, 2, 3], [1, 2, 4]]
    kept = dict(head._encoded)
    other = whole.follows((*TEXT[:3], 7, 1))
    whole.rows(other, (2, 3), (-1, 0))  # [TEXT[2], 7, 1], [7, 1, 2], and [1, 2, 3] again
    assert asked[3:] == [[TEXT[2], 7, 1], [7, 1, 2]]
    assert all(torch.equal(head._encoded[gram], one) for gram, one in kept.items())
    fresh = right(torch.tensor([[1, 2, 3]]))[0]
    assert torch.allclose(fresh, kept[1, 2, 3], atol=1e-6)
    assert not torch.allclose(fresh, kept[1, 2, 4], atol=1e-2)
    monkeypatch.setattr(running, "_KNOWN", 6)
    expected = whole.rows(whole.follows(TEXT), (9, 9))
    assert len(head._encoded) <= 6
    close(whole.rows(whole.follows(TEXT), (9, 9)), expected, EXACT)


def test_the_first_tokens_of_a_text_repeat_the_first(whole: Rig) -> None:
    """The token before the first row, whose state that row reads, is in no trigram."""
    grams = [whole.head._gram(cache, _Fed(row), 0) for cache, row in _begun(whole)]  # pyright: ignore
    assert grams == [(9, 9, 9), (9, 9, 4), (9, 4, 2)]


class _Fed:
    """A feed of one row of the text."""

    def __init__(self, start: int) -> None:
        self.start = start


def _begun(rig: Rig) -> list[tuple[Any, int]]:
    texts = ((5, 9), (5, 9, 4), (5, 9, 4, 2))
    return [(rig.follows(text), len(text) - 2) for text in texts]


def test_untrained_heads_give_the_logits_of_the_lm_head_for_both(folder: Path) -> None:
    """The published start: [h; s] times twice the rows of the target's head."""
    plain = chimera_rig(folder, context=False)
    eye = {name: torch.eye(32) for head in range(HEADS) for name in squares_of(head)}
    zero = {MIX: torch.zeros_like(plain.tensors[MIX])}
    rig = chimera_rig(folder, context=False, **eye, **zero)
    words = rig.teacher.embed[list(TEXT[-3:])].flatten()
    state = rig.head._states.kept(rig.reads(TEXT), len(TEXT) - 2, len(TEXT) - 1)[0, -1]
    rows = rig.teacher.lm_head[rig.tensors["ids"].long()]
    close(drafted(rig)[0], rows @ state + rows @ (rig.tensors[OUT] @ words), 1e-4)


def test_no_more_tokens_than_heads(rig: Rig) -> None:
    cache = rig.follows(TEXT)
    rig.rows(cache, (1, 2))
    with pytest.raises(ContextError, match="drafts at most 3 tokens after a text, and token 4"):
        rig.rows(cache, (3,))
    assert rig.head.follow(rig.reads(TEXT)).longest == HEADS
    assert rig.head.draft_seconds() > 0


def test_the_step_of_one_head_can_be_measured(folder: Path) -> None:
    assert chimera_rig(folder, heads=1).head.draft_seconds() > 0


def test_a_text_in_parts_and_after_a_round(rig: Rig) -> None:
    """Rows of accepted tokens are made again from true states."""
    expected = rig.rows(rig.follows(TEXT), (5,))
    close(rig.rows(in_parts(rig, TEXT), (5,)), expected, EXACT)
    cache = after_a_round(rig, TEXT, (TEXT[-2], 9))
    close(rig.rows(cache, (5,)), expected, EXACT)
    again = rig.head.follow(rig.reads(TEXT), TEXT[1:], cache)
    assert again is cache
    again.commit(as_ids(TEXT[1 + len(again.text) :]))
    close(rig.rows(again, (5,)), expected, EXACT)


def test_a_prompt_of_one_token_waits_for_the_second(rig: Rig) -> None:
    close(rig.rows(after_one_token(rig, 5, 9)), rig.rows(rig.follows((5, 9))), EXACT)


def test_a_head_of_another_width_is_refused(whole: Rig) -> None:
    wrong = replace(whole.config, states=(1, 4))
    with pytest.raises(CheckpointError, match=r"states \[1, 4\], expected 32 and the last state"):
        wrong.check(whole.tensors, "of a test")


def _moved(right: Any) -> Any:
    """Queries are not rotated."""
    return lambda x, *turns: x if x.shape[1] == QUERIES else right(x, *turns)


def _blind(right: Any) -> Any:
    """Rows do not see themselves."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
        mask = mask.clone()
        mask[:, -len(mask) :].fill_diagonal_(-torch.inf)
        return right(q, k, v, mask, scale)

    return attend


def _early(right: Any) -> Any:
    """The state before the one that is asked for alone."""
    return lambda _, cache, first, end: right(cache, first - (end - first == 1), end)[: end - first]


BROKEN: dict[str, tuple[Any, str, Any]] = {
    "places": (lambda _: running, "rotate", _moved),
    "own row": (lambda _: running, "attend", _blind),
    "norm": (lambda head: type(head._network), "_entry", lambda _: lambda _, stream: stream),
    "heads": (
        lambda _: running,
        "heads_of_rows",
        lambda _: lambda cache, feed, rows, *_: [0] * len(rows),
    ),
    "bend": (lambda _: F, "silu", lambda _: torch.tanh),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_copy_is_seen(
    whole: Rig, folder: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(whole.head, ChimeraModel)
    expected = Published(whole, folder).logits(list(TEXT), [5, 9])
    where, name, change = BROKEN[broken]
    place = where(whole.head)
    monkeypatch.setattr(place, name, change(getattr(place, name)))
    monkeypatch.setattr(whole.head, "_encoded", {})
    assert float((drafted(whole, (5, 9)) - expected).abs().max()) > 50 * EXACT


def test_a_state_of_another_place_is_seen(
    whole: Rig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Published(whole, folder).logits(list(TEXT), [5])
    kept = whole.head._states.kept
    monkeypatch.setattr(type(whole.head._states), "kept", _early(kept))
    assert float((drafted(whole, (5,)) - expected).abs().max()) > 50 * EXACT
