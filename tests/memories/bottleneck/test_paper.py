"""The promises of Discrete Key-Value Bottleneck (arXiv 2207.11240)."""

import pytest
import torch
import torch.nn.functional as F

from outrider.memories.bottleneck import Bottleneck, Keys, KeySettings, fit_keys, random_keys
from outrider.memories.bottleneck.keys import RunningMeans

BOOKS, COUNT, SIZE, WIDTH = 5, 16, 3, 12
LABELS = ("a", "b", "c", "d")


def states(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


def keys() -> Keys:
    settings = KeySettings(books=BOOKS, keys=COUNT, size=SIZE, epochs=2, batch=32)
    return fit_keys(states(200, 9), settings)


def memory() -> Bottleneck:
    return Bottleneck.empty(keys(), LABELS)


def labels(rows: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(len(LABELS), (rows,), generator=torch.Generator().manual_seed(seed))


def test_the_scores_are_the_mean_of_the_values_of_the_nearest_keys() -> None:
    """Written out: standardise, project, least squared distance, one value of each book."""
    own = memory()
    own.values.copy_(torch.randn(own.values.shape))
    state = states(1)[0]
    total = torch.zeros(len(LABELS))
    for book in range(BOOKS):
        projected = ((state - own.keys.mean) / own.keys.scale) @ own.keys.projections[book]
        distances = [float(((projected - key) ** 2).sum()) for key in own.keys.keys[book]]
        total += own.values[book, distances.index(min(distances))]
    found = own.chances(state[None])[0]
    torch.testing.assert_close(found, (total / BOOKS).softmax(0))
    assert own.classify(state[None]) == [LABELS[int(total.argmax())]]


def test_a_step_is_that_of_gradient_descent_on_the_cross_entropy() -> None:
    own, rows, truth = memory(), states(40), labels(40)
    own.values.copy_(torch.randn(own.values.shape))
    fetched = own.keys.fetch(rows)
    values = own.values.clone().requires_grad_()
    picked = values[torch.arange(BOOKS), fetched]
    loss = F.cross_entropy(picked.mean(1), truth)
    loss.backward()
    told = own.learn(fetched, truth, 0.7)
    assert told == pytest.approx(float(loss.detach()))
    assert values.grad is not None
    torch.testing.assert_close(own.values, values.detach() - 0.7 * values.grad)


def test_the_gradient_is_not_zero_only_for_fetched_book_and_index() -> None:
    own, rows = memory(), states(6)
    own.values.copy_(torch.randn(own.values.shape))
    before = own.values.clone()
    fetched = own.keys.fetch(rows)
    own.learn(fetched, labels(6), 1.0)
    own.learn(fetched, labels(6), 1.0)  # momentum or decay would show in a second step
    touched = torch.zeros(BOOKS, COUNT, dtype=torch.bool)
    for book in range(BOOKS):
        touched[book, fetched[:, book]] = True
    assert 0 < int(touched.sum()) < touched.numel()
    changed = (own.values != before).any(2)
    assert torch.equal(changed, touched) and torch.equal(own.used, touched)


def test_frozen_keys_are_bit_stable_across_tasks() -> None:
    own, fresh = memory(), keys()
    for task in range(3):
        own.learn(own.keys.fetch(states(50, task)), labels(50, task), 5.0)
        own.classify(states(50, task), used_only=True)
    for name in ("projections", "keys", "mean", "scale"):
        assert torch.equal(getattr(own.keys, name), getattr(fresh, name))


def disjoint(own: Bottleneck) -> tuple[torch.Tensor, torch.Tensor]:
    """States of two tasks that share no key of any book, as keys that they fetch."""
    return torch.arange(8)[:, None].repeat(1, BOOKS), torch.arange(8, 16)[:, None].repeat(1, BOOKS)


def test_permuting_the_order_of_disjoint_keys_gives_the_same_values() -> None:
    forward, backward, together = memory(), memory(), memory()
    first, second = disjoint(forward)
    for own, tasks in ((forward, (0, 1)), (backward, (1, 0))):
        for task in tasks:
            for _ in range(3):
                own.learn((first, second)[task], labels(8, task), 2.0)
    assert torch.equal(forward.values, backward.values)
    assert not torch.equal(forward.values, together.values)
    alone = memory()
    for _ in range(3):
        alone.learn(first, labels(8, 0), 2.0)
    # What was learned first is still there, bit by bit: nothing of it is forgotten.
    assert torch.equal(alone.values[:, :8], forward.values[:, :8])


def test_shared_keys_do_depend_on_the_order() -> None:
    """The counterpart: without disjoint keys, the last task counts more."""
    found = []
    for order in ((0, 1), (1, 0)):
        own = memory()
        for task in order:
            for _ in range(20):
                own.learn(disjoint(own)[0], torch.full((8,), task), 5.0)
        found.append(own.scores(disjoint(own)[0])[0].argmax().item())
    assert found == [1, 0]


def test_unused_keys_can_be_excluded_at_test() -> None:
    own, rows, truth = memory(), states(20), labels(20)
    fetched = own.keys.fetch(rows)
    for _ in range(50):
        own.learn(fetched, truth, 5.0)
    # All keys of learned states are used, so that nothing changes for them.
    assert torch.equal(own.chances(rows, used_only=True), own.chances(rows))
    others = states(200, 7)
    near = own.keys.fetch(others)
    near_used = own.keys.fetch(others, own.used)
    books = torch.arange(BOOKS)
    assert not bool(own.used[books, near].all()) and bool(own.used[books, near_used].all())
    assert torch.equal(near[own.used[books, near]], near_used[own.used[books, near]])
    # Values of keys that are left out have no effect any more.
    own.values[~own.used] = 1e6
    expected = own.scores(near_used).softmax(1)
    assert torch.equal(own.chances(others, used_only=True), expected)


def test_keys_are_running_means_of_what_is_nearest() -> None:
    """Two clusters, two keys: they end in the middles; a key that is never nearest stays."""
    generator = torch.Generator().manual_seed(0)
    middle = torch.tensor([[8.0, 0.0], [-8.0, 0.0]])
    rows = torch.cat([m + 0.5 * torch.randn(300, 2, generator=generator) for m in middle])
    means = RunningMeans(torch.tensor([[5.0, 5.0], [-3.0, 1.0], [0.0, 99.0]]), 0.9)
    for _ in range(20):
        for part in rows[torch.randperm(600, generator=generator)].split(50):
            means.step(part)
    torch.testing.assert_close(means.keys[:2], middle, atol=0.2, rtol=0.0)
    assert torch.equal(means.keys[2], torch.tensor([0.0, 99.0]))


def test_one_step_of_the_running_mean_is_that_of_the_paper() -> None:
    """N = 0.95 N + 0.05 n, m = 0.95 m + 0.05 sum, key = m / N, with N = 1 and m = key first."""
    start = torch.tensor([[1.0], [10.0], [50.0]])
    means = RunningMeans(start, 0.95)
    means.step(torch.tensor([[2.0], [4.0], [40.0], [3.0]]))
    three, one = (0.95 * 1.0 + 0.05 * 9.0) / (0.95 + 0.05 * 3), 0.95 * 50.0 + 0.05 * 40.0
    torch.testing.assert_close(means.keys, torch.tensor([[three], [10.0], [one]]))
    assert torch.equal(start, torch.tensor([[1.0], [10.0], [50.0]]))


def test_initialised_keys_are_nearer_and_more_of_them_are_used() -> None:
    settings = KeySettings(books=4, keys=32, size=3, epochs=5, batch=32)
    seen, others = 3.0 + states(300, 1) * 7.0, 3.0 + states(300, 2) * 7.0
    made, drawn = fit_keys(seen, settings), random_keys(seen, settings)
    first = fit_keys(seen, KeySettings(books=4, keys=32, size=3, epochs=0))

    def distance(own: Keys) -> float:
        projected, fetched = own.project(others), own.fetch(others)
        near = own.keys[torch.arange(4), fetched].transpose(0, 1)
        return float((projected - near).square().sum(2).mean())

    assert distance(made) < 0.95 * distance(first)
    assert distance(made) < distance(drawn)
    assert torch.equal(made.projections, drawn.projections)


def test_the_same_seed_makes_the_same_keys() -> None:
    def made(seed: int) -> Keys:
        return fit_keys(states(60), KeySettings(books=2, keys=8, size=3, epochs=2, seed=seed))

    one, same, other = made(1), made(1), made(2)
    assert torch.equal(one.keys, same.keys) and torch.equal(one.projections, same.projections)
    assert not torch.equal(one.keys, other.keys)
