"""Encodes images once that several prompts of a batch ask about."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def rounds(pictures: Sequence[Mapping[str, Tensor]]) -> list[list[int]]:
    """Return which prompts to read together, round after round.

    Prompts with equal pictures are in different rounds, and the rounds of pictures that are equally
    frequent hold the same pictures in the same order: after the first of them, `shared_features`
    knows their features.

    Args:
        pictures: the inputs of each prompt that depend on its images alone.
    """
    if len(pictures) < 2:
        return [list(range(len(pictures)))]
    same: dict[bytes, list[int]] = {}
    for number, inputs in enumerate(pictures):
        key = _digest(inputs) if inputs else b"%d" % number  # texts alone are read together
        same.setdefault(key, []).append(number)
    found: list[list[int]] = []
    for count in sorted({len(numbers) for numbers in same.values()}):
        alike = [numbers for numbers in same.values() if len(numbers) == count]
        found += [[numbers[i] for numbers in alike] for i in range(count)]
    return found


def _digest(inputs: Mapping[str, Tensor]) -> bytes:
    found = hashlib.blake2b()
    for name, tensor in sorted(inputs.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.digest()


@contextmanager
def shared_features(model: torch.nn.Module) -> Iterator[None]:
    """Context manager: `model` computes the features of equal images once.

    Args:
        model: a model of `transformers`, whose forward takes features from its
            `get_image_features`; one without this method encodes all images.
    """
    untyped: Any = model
    own: Callable[..., Any] | None = getattr(untyped, "get_image_features", None)
    if own is None:
        yield
        return
    known: list[tuple[Any, Any]] = []

    def features(*args: Any, **kwargs: Any) -> Any:
        for given, found in known:
            if _equal(given, (args, kwargs)):
                return found
        found = own(*args, **kwargs)
        known.append(((args, kwargs), found))
        return found

    untyped.get_image_features = features
    try:
        yield
    finally:
        del untyped.get_image_features


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return type(one) is type(other) and bool(one == other)
