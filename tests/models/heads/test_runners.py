"""Heads in PyTorch and compiled give the same numbers, however their rows are read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outrider.core.errors import ContextError
from outrider.core.types import NO_IDS, as_ids
from outrider.models.heads.formats.own import is_matrix
from outrider.models.heads.native import NativeHead
from outrider.models.quantization.int4 import quantize_int4
from outrider.protocols import Segment
from tests.models.heads.setups import (
    HEADS,
    VOCAB,
    Rig,
    close,
    head_cases,
    last_row,
    make_rig,
    make_target,
    needs_kernels,
    random_text,
)

TEXT = random_text(24)
TREE = ((5, 6, 7, 8, 9, 5), (-1, -1, 0, 2, 0, 1))
"""Tokens and their parents."""
EXACT = 2e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module", params=head_cases(["torch", "native"]))
def rig(request: Any, folder: Path) -> Rig:
    return make_rig(folder, *request.param)


@pytest.fixture(scope="module", params=head_cases(["native"]))
def pair(request: Any, folder: Path) -> tuple[Rig, Rig]:
    name, _ = request.param
    return make_rig(folder, name, "native"), make_rig(folder, name, "torch")


def tree_rows(rig: Rig) -> torch.Tensor:
    return rig.rows(rig.follows(TEXT), *TREE)


def test_compiled_equals_readable(pair: tuple[Rig, Rig]) -> None:
    native, readable = pair
    close(tree_rows(native), tree_rows(readable), EXACT)
    chain = (5, 9, 1, 40)
    close(
        native.rows(native.follows(TEXT), chain),
        readable.rows(readable.follows(TEXT), chain),
        EXACT,
    )


def test_the_comparison_notices_a_changed_weight(pair: tuple[Rig, Rig]) -> None:
    """Every tensor of the head counts: a wrong one is seen."""
    native, readable = pair
    expected = tree_rows(native)
    for part in readable.module.parts.values():
        right = part.data
        part.data = right * 1.05 + 0.05
        with pytest.raises(AssertionError):
            close(tree_rows(readable), expected, EXACT)
        part.data = right
    close(tree_rows(readable), expected, EXACT)


def test_int8_is_near(pair: tuple[Rig, Rig], folder: Path) -> None:
    readable = pair[1]
    rough = make_rig(folder, readable.head.info.name, "int8")
    expected, found = tree_rows(readable), tree_rows(rough)
    finite = torch.isfinite(expected)
    assert torch.equal(torch.isfinite(found), finite)
    off = (found - expected)[finite].std() / expected[finite].std()
    assert 0 < off < 0.06


@pytest.mark.method("hinted")
@needs_kernels()
def test_matrices_of_four_bits_are_read_as_they_are_stored(folder: Path) -> None:
    """The compiled head is as near to a readable one with the rounded weights as with 8 bits."""
    rough, plain = make_rig(folder, "hinted", "int4"), make_rig(folder, "hinted", "torch")
    assert isinstance(rough.head, NativeHead) and rough.head.info.weight_bytes is not None
    eight = make_rig(folder, "hinted", "int8").head.info.weight_bytes
    assert rough.head.info.weight_bytes < 0.7 * (eight or 0)
    for name, part in plain.module.parts.items():
        if is_matrix(name.replace("/", "."), part):
            part.data = quantize_int4(part.data).dequantize()
    plain.module.lm_head = quantize_int4(plain.module.lm_head).dequantize()
    expected, found = tree_rows(plain), tree_rows(rough)
    drafted = plain.tensors["ids"].long()  # a hint beyond them is scored with rows of the target
    off = (found - expected)[:, drafted].std() / expected[:, drafted].std()
    assert 0 < off < 0.06


def test_rows_one_by_one_equal_rows_at_once(rig: Rig) -> None:
    """A tree, a chain, and a chain in two forwards, as after the tail of an inner round."""
    whole = tree_rows(rig)
    cache = rig.follows(TEXT)
    parts = [rig.rows(cache)]
    for token, parent in zip(*TREE, strict=True):
        parts.append(rig.rows(cache, [token], [parent]))
    close(torch.cat(parts), whole, EXACT)
    chain = rig.rows(rig.follows(TEXT), (5, 7, 8))
    close(chain, whole[[0, 1, 3, 4]], EXACT)
    cache = rig.follows(TEXT)
    close(torch.cat((rig.rows(cache, (5, 7)), rig.rows(cache, (8,)))), chain, EXACT)


def test_a_text_in_parts_equals_a_text_at_once(rig: Rig) -> None:
    whole = tree_rows(rig)
    for cuts in ((1, 2, 9, 24), (13, 24), (23, 24)):
        cache = rig.head.follow(rig.reads(TEXT))
        for first, last in zip((0, *cuts), cuts, strict=False):
            if first:
                rig.head.forward([Segment(cache, NO_IDS)], [NO_IDS])
            cache.commit(as_ids(TEXT[max(first, 1) : last]))
        close(rig.rows(cache, *TREE), whole, EXACT)


def test_rows_do_not_depend_on_the_batch(rig: Rig) -> None:
    """To the bit, also beside texts of other lengths."""
    texts = [TEXT[:n] for n in (2, 9, 24, 5)]
    alone = [rig.rows(rig.follows(text), *TREE) for text in texts]
    segments = [Segment(rig.follows(text), as_ids(TREE[0]), as_ids(TREE[1])) for text in texts]
    together = rig.head.forward(segments, [np.arange(-1, 6)] * 4)
    for rows, expected in zip(together, alone, strict=True):
        assert torch.equal(rows.logits, expected)
    if isinstance(rig.head, NativeHead):
        one = rig.rows(rig.follows(TEXT))
        assert torch.equal(one[0], alone[2][0])


def test_rows_are_given_in_the_order_wanted(rig: Rig) -> None:
    whole = tree_rows(rig)
    segment = Segment(rig.follows(TEXT), as_ids(TREE[0]), as_ids(TREE[1]))
    [rows] = rig.head.forward([segment], [as_ids([4, -1, 0])])
    assert torch.equal(rows.logits, whole[[5, 0, 1]])
    assert rows.hidden is not None and rows.hidden.shape == (3, rig.config.width)


def test_only_known_tokens_and_the_hint_are_drafted(rig: Rig) -> None:
    rows, ids = tree_rows(rig), set(rig.tensors["ids"].tolist())
    for row in rows:
        extra = {i for i, x in enumerate(row.tolist()) if np.isfinite(x)} - ids
        assert len(extra) <= (rig.config.kind == "hinted")
    assert torch.isfinite(rows[:, sorted(ids)]).all()


@pytest.mark.method("hinted")
def test_the_logit_of_a_hint_is_that_of_a_wider_head(folder: Path) -> None:
    """A hint outside the draft vocabulary gets the logit that a head with all tokens gives it."""
    narrow = make_rig(folder, "hinted", "torch")
    wide = make_rig(folder, "hinted", "torch")
    every = torch.arange(VOCAB)
    wide.module.lm_head, wide.head._ids = wide.teacher.lm_head, every
    seen = 0
    for seed in range(8):
        text = random_text(20, seed)
        ours, theirs = last_row(narrow, narrow.follows(text)), last_row(wide, wide.follows(text))
        known = torch.isfinite(ours)
        close(ours[known], theirs[known], EXACT)
        seen += int(known.sum()) > len(narrow.tensors["ids"])
    assert seen >= 2


def test_the_window_ends_both_ways(rig: Rig) -> None:
    long = random_text(64)
    cache = rig.follows(long[:63])
    rig.rows(cache, (1, 2))  # rows 61, 62 and 63 of a window of 64
    with pytest.raises(ContextError):
        rig.rows(cache, (3,))


def test_a_text_that_the_target_has_not_read(rig: Rig) -> None:
    cache = rig.head.follow(rig.reads(TEXT[:5]))
    cache.commit(as_ids(TEXT[1:9]))
    with pytest.raises(IndexError):
        rig.rows(cache)


def test_a_head_reads_no_text_alone(rig: Rig) -> None:
    with pytest.raises(Exception, match="reads hidden states of its target"):
        rig.head.start([])
    assert rig.head.info.vocab_size == VOCAB
    assert rig.head.draft_seconds() > 0


def test_a_token_that_does_not_exist(pair: tuple[Rig, Rig]) -> None:
    for rig in pair:
        with pytest.raises(IndexError):
            rig.rows(rig.follows(TEXT), (VOCAB,))


def test_all_flags_are_covered() -> None:
    """Each flag of a head is on in one case and off in another of the same kind."""
    eagles = [changes for kind, changes in HEADS.values() if kind == "eagle3"]
    for flag in ("norm_states", "norm_fused", "norm_before_residual", "norm_output"):
        assert {changes.get(flag, False) for changes in eagles} == {True, False}


@pytest.mark.method("eagle3")
def test_own_embeddings_and_output_rows(folder: Path) -> None:
    """A head with tables of its own reads those, in both runners."""
    plain = make_rig(folder, "eagle3", "torch")
    own = {
        "embed_tokens.weight": plain.teacher.embed.flip(0),
        "lm_head.weight": plain.teacher.lm_head[plain.tensors["ids"].long()] * 2,
    }
    readable = make_rig(folder, "eagle3", "torch", **own)
    native = make_rig(folder, "eagle3", "native", **own)
    close(tree_rows(native), tree_rows(readable), EXACT)
    with pytest.raises(AssertionError):
        close(tree_rows(readable), tree_rows(plain), 1e-2)
