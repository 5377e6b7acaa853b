"""The file of an unmasking filter, and what it computes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from outrider.core.errors import CheckpointError, OptionError
from outrider.models.denoisers.filter import FILE, FORMAT, UnmaskingFilter
from outrider.models.denoisers.loading import load_denoiser

BLOCK = 5


def layers() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(BLOCK, BLOCK), nn.ReLU(), nn.Linear(BLOCK, BLOCK), nn.Sigmoid())


def made() -> UnmaskingFilter:
    names = {"0": "inner", "2": "outer"}
    weights = {
        f"{names[name[0]]}.{name[2:]}": tensor.clone()
        for name, tensor in layers().state_dict().items()
    }
    return UnmaskingFilter(weights, "abc")


def test_it_is_two_layers() -> None:
    rows = torch.rand(7, BLOCK, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made()(rows), layers()(rows).detach())
    assert made().block == BLOCK
    with pytest.raises(ValueError, match="rows of 4 for blocks of 5"):
        made()(rows[:, :4])


def test_a_file_holds_it(tmp_path: Path) -> None:
    one, rows = made(), torch.rand(3, BLOCK)
    one.save(tmp_path / FILE)
    for source in (tmp_path, tmp_path / FILE, str(tmp_path)):
        found = UnmaskingFilter.load(source)
        assert torch.equal(found(rows), one(rows))
        assert (found.fingerprint, found.block) == ("abc", BLOCK)
    with pytest.raises(OptionError, match="cannot be written"):
        one.save(tmp_path / "nothing" / FILE)


def test_it_is_for_one_model_and_one_length() -> None:
    made().check("abc", BLOCK)
    with pytest.raises(OptionError, match="blocks of 5 positions, not 8"):
        made().check("abc", 8)
    with pytest.raises(OptionError, match="trained for another model"):
        made().check("abd", BLOCK)


def edited(folder: Path, **tensors: Tensor | None) -> Path:
    """A file with other tensors; None removes one."""
    made().save(folder / "whole")
    own = load_file(folder / "whole") | {n.replace("_", "."): t for n, t in tensors.items()}
    kept = {name: tensor for name, tensor in own.items() if tensor is not None}
    save_file(kept, folder / FILE, metadata={"format": FORMAT})
    return folder


DAMAGED: list[tuple[dict[str, Tensor | None], str]] = [
    ({"inner_weight": None}, "there is no tensor 'inner.weight'"),
    ({"inner_weight": torch.zeros(BLOCK, 4)}, r"tensor 'inner.weight' has shape \[5, 4\]"),
    ({"outer_bias": torch.zeros(0)}, r"has shape"),
    ({"inner_bias": torch.full((BLOCK,), torch.nan)}, "not finite"),
]


@pytest.mark.parametrize(("tensors", "message"), DAMAGED)
def test_damaged_files_are_refused(
    tmp_path: Path, tensors: dict[str, Tensor | None], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        UnmaskingFilter.load(edited(tmp_path, **tensors))
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no unmasking filter"):
        UnmaskingFilter.load(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(CheckpointError, match="its format is None"):
        UnmaskingFilter.load(tmp_path)
    (tmp_path / FILE).write_bytes(b"12345678901234567")
    with pytest.raises(CheckpointError, match="cannot be used"):
        UnmaskingFilter.load(tmp_path)


def test_the_filter_of_a_family_fits_its_model() -> None:
    found = UnmaskingFilter.load("tiny-diffusion")
    found.check(load_denoiser("tiny-diffusion").info.fingerprint, found.block)
