import numpy as np
import pytest
import torch

from outrider.core.errors import OptionError
from outrider.core.types import as_ids
from outrider.memories.adjacency import LARGEST_VOCABULARY, Adjacency


def test_a_row_is_the_top_k_of_its_logits() -> None:
    memory, logits = Adjacency(), torch.randn(3, 40)
    memory.learn(as_ids([5, 39, 0]), logits)
    for row, token in enumerate([5, 39, 0]):
        assert memory.successors(token) == logits[row].topk(8).indices.tolist()
    assert memory.successors(7) == []


def test_duplicates_are_deterministic() -> None:
    """The last of equal tokens wins; accepted rows win over all others."""
    memory, logits = Adjacency(k=2), torch.randn(4, 40)
    tops = logits.topk(2).indices.tolist()
    memory.learn(as_ids([5, 5, 6, 5]), logits, accepted=())
    assert memory.successors(5) == tops[3]
    memory.learn(as_ids([5, 5, 6, 5]), logits, accepted=(0, 1))
    assert memory.successors(5) == tops[1]
    memory.learn(as_ids([5, 5, 6, 5]), logits)
    assert memory.successors(5) == tops[0]


@pytest.mark.parametrize("vocab", [7, 4096, 32_000, 152_064, 256_000])
def test_storage_is_vocab_times_k_ids_of_32_bits(vocab: int) -> None:
    memory = Adjacency()
    memory.learn(as_ids([vocab - 1]), torch.randn(1, vocab))
    assert memory.vocab_size == vocab
    assert memory.nbytes == (vocab + 1) * 8 * 4  # a row of blanks stands behind the last
    assert memory.flat.dtype == np.int32
    assert len(memory.successors(vocab - 1)) == min(8, vocab)


def test_rows_that_are_not_finite_are_not_learnt() -> None:
    memory, logits = Adjacency(), torch.randn(3, 40)
    memory.learn(as_ids([1, 2, 3]), logits)
    known = [memory.successors(t) for t in (1, 2, 3)]
    broken = torch.randn(3, 40)
    broken[0, 4], broken[2, 0] = torch.nan, torch.inf
    memory.learn(as_ids([1, 2, 3]), broken, accepted=(0, 2))
    assert [memory.successors(t) for t in (1, 3)] == [known[0], known[2]]
    assert memory.successors(2) == broken[1].topk(8).indices.tolist()


def test_ids_outside_the_vocabulary_are_passed_over() -> None:
    memory = Adjacency()
    memory.learn(as_ids([10**12, -1, 4]), torch.randn(3, 40), accepted=(0, 1, 2))
    assert memory.vocab_size == 40 and len(memory.successors(4)) == 8
    memory.learn_text(as_ids([3, 10**12, 5, 6]))
    assert memory.vocab_size == 40 and memory.successors(5)[0] == 6
    assert memory.successors(10**12) == [] and memory.successors(-1) == []
    memory.learn_text(as_ids([LARGEST_VOCABULARY - 1, LARGEST_VOCABULARY]))
    assert memory.vocab_size == 40


def test_text_puts_what_followed_in_front() -> None:
    memory = Adjacency(k=3)
    memory.learn_text(as_ids([1, 2, 1, 3, 1, 3, 1, 4, 1, 5]))
    assert memory.successors(1) == [3, 5, 4]  # twice; then the newest
    memory.learn_text(as_ids([1, 2]))
    assert memory.successors(1) == [2, 3, 5]
    memory.learn_text(as_ids([1, 3, 9]))
    assert memory.successors(1) == [3, 2, 5]
    assert memory.successors(3) == [9, 1]


def test_a_wider_row_makes_room_and_keeps_what_is_known() -> None:
    memory = Adjacency()
    memory.learn_text(as_ids([1, 2, 3]))
    memory.learn(as_ids([1]), torch.randn(1, 100))
    assert memory.vocab_size == 100 and memory.successors(2) == [3]
    assert (memory.flat[-8:] == -1).all()
    memory.learn(as_ids([50]), torch.randn(1, 60))  # a narrower row changes no width
    assert memory.vocab_size == 100 and len(memory.successors(50)) == 8


def test_settings_out_of_range() -> None:
    with pytest.raises(OptionError, match="k is 0"):
        Adjacency(k=0)


def test_rows_that_wait_are_learned_before_anybody_looks() -> None:
    now, later = Adjacency(k=3), Adjacency(k=3)
    rows = torch.randn(200, 17, generator=torch.Generator().manual_seed(3))
    tokens = [int(t) for t in np.random.default_rng(3).integers(0, 17, 200)]
    for token, row in zip(tokens, rows, strict=True):
        now.learn(np.array([token]), row[None])
        later.learn_later(token, row[None])
        assert later.nbytes <= now.nbytes + 64 * 17 * 4
    assert [later.successors(t) for t in range(17)] == [now.successors(t) for t in range(17)]


def test_few_wide_rows_wait() -> None:
    memory = Adjacency()
    for token in range(20):
        memory.learn_later(token, torch.randn(1, 256_000))
        assert memory.nbytes <= 256_001 * 8 * 4 + (4 << 20)


def test_rows_wider_than_the_largest_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """No id is remembered that cannot be looked up."""
    monkeypatch.setattr("outrider.memories.adjacency.LARGEST_VOCABULARY", 10)
    memory = Adjacency(k=2)
    memory.learn(np.array([3, 12]), torch.arange(40.0).reshape(2, 20))
    assert memory.vocab_size == 10 and memory.successors(3) == [9, 8]
    assert memory.flat.max() < 10


def test_a_waiting_row_does_not_keep_its_forward_alive() -> None:
    """A batch in which others draft trees has many rows beside the one that waits."""
    memory = Adjacency()
    for token in range(20):
        rows = torch.randn(80, 4096)
        memory.learn_later(token, rows[79:])
        held = sum(row.untyped_storage().nbytes() for _, row in memory._waiting)
        assert held == sum(row.nbytes for _, row in memory._waiting) == (token + 1) * 4096 * 4


def test_a_waiting_row_that_is_not_finite_is_passed_over() -> None:
    memory = Adjacency(k=2)
    memory.learn_later(1, torch.tensor([[0.0, 1.0, 2.0]]))
    memory.learn_later(1, torch.full((1, 3), torch.nan))
    assert memory.successors(1) == [2, 1]
