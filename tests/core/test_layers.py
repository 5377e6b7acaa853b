"""Sets of layers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.core.layers import LayerSet


def test_even_sets_are_those_of_the_paper() -> None:
    def kept(count: int, speedup: float) -> tuple[int, ...]:
        return LayerSet.for_speedup(count, speedup).layers

    assert kept(30, 5) == (0, 6, 12, 18, 24, 29)
    assert kept(30, 10) == (0, 15, 29)
    assert kept(32, 5) == (0, 6, 12, 18, 24, 31)
    assert kept(40, 5) == (0, 5, 10, 15, 20, 25, 30, 39)


@given(st.integers(2, 80), st.data())
def test_even_sets_keep_both_ends_and_the_number(count: int, data: Any) -> None:
    keep = data.draw(st.integers(2, count))
    layers = LayerSet.evenly(count, keep).layers
    assert len(layers) == keep and layers[0] == 0 and layers[-1] == count - 1
    assert list(layers) == sorted(set(layers))
    assert LayerSet.for_speedup(count, 1).is_everything
    speedup = data.draw(st.floats(1, count / 2))
    assert len(LayerSet.for_speedup(count, speedup).layers) == int(count / speedup)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LayerSet.of_layers(4, []),
        lambda: LayerSet.of_layers(4, [4]),
        lambda: LayerSet.of_layers(4, [-1]),
        lambda: LayerSet.of_layers(0, [0]),
        lambda: LayerSet.skipping(4, attention=[7]),
        lambda: LayerSet.exit_at(4, 0),
        lambda: LayerSet.exit_at(4, 5),
        lambda: LayerSet.evenly(4, 1),
        lambda: LayerSet.evenly(4, 5),
        lambda: LayerSet.for_speedup(4, 0.5),
        lambda: LayerSet.for_speedup(4, 2.5),
        lambda: LayerSet.from_dict({"num_layers": 4}),
        lambda: LayerSet.from_dict({"num_layers": 4, "attention": ["x"], "mlp": []}),
    ],
)
def test_bad_sets_are_refused(make: Any) -> None:
    with pytest.raises(OptionError):
        make()


def test_sets_can_be_saved() -> None:
    layers = LayerSet.skipping(6, attention=[1, 3], mlp=[2])
    assert LayerSet.from_dict(layers.to_dict()) == layers
    assert layers.attention == (0, 2, 4, 5) and layers.mlp == (0, 1, 3, 4, 5)
    assert layers.num_halves == 9 and not layers.is_everything
    assert str(layers) == "9 halves in 6 of 6 layers"
    assert str(LayerSet.exit_at(6, 2)) == "2 of 6 layers"
