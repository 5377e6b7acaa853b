"""Equal pictures of several prompts are found, and their features are computed once."""

from typing import Any

import pytest
import torch

from outrider.models.vision.sharing import rounds, shared_features


def pictures(*values: float) -> list[dict[str, torch.Tensor]]:
    return [{"pixel_values": torch.full((1, 3), value)} for value in values]


def test_rounds_hold_equal_pictures_in_equal_order() -> None:
    assert rounds(pictures(1, 2, 1, 3, 2)) == [[3], [0, 1], [2, 4]]
    assert rounds(pictures(1, 2, 3)) == [[0, 1, 2]]
    assert rounds(pictures(5)) == [[0]]
    assert rounds([]) == [[]]


def test_prompts_without_pictures_are_read_together() -> None:
    assert rounds([{}, {}, *pictures(1)]) == [[0, 1, 2]]


def test_pictures_differ_by_shape_dtype_and_name() -> None:
    zeros = torch.zeros(1, 4)
    several = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.view(2, 2)},
        {"a": zeros.to(torch.int32)},
        {"a": zeros.bfloat16(), "c": zeros},
    ]
    assert rounds(several) == [[0, 1, 2, 3, 4]]


class Model(torch.nn.Module):
    """Notes what it has encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def get_image_features(self, pixels: torch.Tensor, **settings: Any) -> torch.Tensor:
        self.seen.append(float(pixels.sum()))
        return 2 * pixels


def test_equal_calls_are_answered_once_and_the_model_is_left_as_it_was() -> None:
    model, one, two = Model(), torch.ones(2), torch.full((2,), 2.0)
    with pytest.raises(KeyError), shared_features(model):
        first = model.get_image_features(one, sizes=[(1, one)])
        assert model.get_image_features(one.clone(), sizes=[(1, one.clone())]) is first
        assert torch.equal(model.get_image_features(two, sizes=[(1, one)]), 2 * two)
        model.get_image_features(one, sizes=[(2, one)])
        model.get_image_features(one, sizes=[(1, two)])
        model.get_image_features(one)
        model.get_image_features(one, sizes=[(1, one), (1, one)])
        assert model.seen == [2.0, 4.0, 2.0, 2.0, 2.0, 2.0]
        raise KeyError
    model.get_image_features(one)
    model.get_image_features(one)
    assert len(model.seen) == 8 and "get_image_features" not in vars(model)


def test_a_model_without_features_of_its_own_is_left_alone() -> None:
    plain = torch.nn.Module()
    with shared_features(plain):
        assert "get_image_features" not in vars(plain)
