"""The tensors that store one quantised matrix, and how a format declares them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int32, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.fields import Field, FieldError
from outrider.models.checkpoints.json_file import unreadable
from outrider.models.checkpoints.tensors import Stored, TensorInfo, check_finite

Settings = Mapping[str, JsonValue]
"""The object `quantization_config` of config.json."""

FLOATS = ("F16", "BF16", "F32")
DOWNLOAD = "Download the checkpoint again, or quantise it again"
_SMALL = 1 << 16


@dataclass(frozen=True, slots=True)
class Parts:
    """The tensors of one module, by the name that follows the module's.

    Attributes:
        module: name of the module, such as `model.layers.0.mlp.up_proj`.
        infos: `qweight`, `scales`, ... -> where the tensor is.
    """

    module: str
    infos: Mapping[str, TensorInfo]

    def __contains__(self, part: str) -> bool:
        """Whether the checkpoint holds a part."""
        return part in self.infos

    def __getitem__(self, part: str) -> TensorInfo:
        """Return where a part is. Raises `CheckpointError` if it is missing."""
        if part in self.infos:
            return self.infos[part]
        known = next(iter(self.infos.values()))
        raise CheckpointError(
            f"{known.file} holds {known.name}, but the checkpoint lacks tensor "
            f"{self.module}.{part}",
            hint=DOWNLOAD,
        )

    def check(self, part: str, dtypes: Collection[str], *shapes: Sequence[int]) -> None:
        """Check dtype and shape of a part without reading it.

        Args:
            part: its name.
            dtypes: the dtypes that it may have.
            shapes: the shapes that it may have; none given for any.

        Raises:
            CheckpointError: it is missing, or has another dtype or shape.
        """
        info = self[part]
        if info.dtype not in dtypes:
            raise self.unfit(part, f"has dtype {info.dtype}, expected {' or '.join(dtypes)}")
        if shapes and info.shape not in [tuple(shape) for shape in shapes]:
            known = " or ".join(str(list(shape)) for shape in shapes)
            raise self.unfit(part, f"has shape {list(info.shape)!r:.60}, expected {known}")

    def matrix(self, part: str, dtypes: Collection[str]) -> tuple[int, int]:
        """Check that a part is a matrix that is not empty; return its shape."""
        self.check(part, dtypes)
        shape = self[part].shape
        if len(shape) != 2 or not all(shape):
            raise self.unfit(part, f"has shape {list(shape)!r:.60}, expected two axes")
        return shape[0], shape[1]

    def unfit(self, part: str, problem: str) -> CheckpointError:
        """Return the error for a part with a wrong value."""
        info = self[part]
        return CheckpointError(f"{info.file}: tensor {info.name} {problem}", hint=DOWNLOAD)

    def read(self, part: str) -> Tensor:
        """Read a part. Raises `CheckpointError` if it holds NaN, or the file has changed."""
        tensor = self._read(part)
        check_finite(tensor, self[part].name, self[part].file)
        return tensor

    def read_octets(self, part: str) -> UInt8[Tensor, " octets"]:
        """Read the bytes of a part, whose dtype means nothing. Raises `CheckpointError`."""
        return self._read(part).flatten().view(torch.uint8)

    def _read(self, part: str) -> Tensor:
        info = self[part]
        try:
            with safe_open(str(info.file), framework="pt", device="cpu") as opened:
                tensor: Tensor = opened.get_tensor(info.name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{info.file} cannot be read: {error}") from error
        if tuple(tensor.shape) != info.shape:
            raise self.unfit(part, "has changed since the checkpoint was opened")
        return tensor

    def read_order(self, part: str, groups: int) -> Int32[Tensor, " inputs"] | None:
        """Read the group of each input; None without this part.

        Raises:
            CheckpointError: a group that does not exist.
        """
        if part not in self:
            return None
        order = self.read(part)
        least, most = (int(one) for one in torch.aminmax(order))
        if least < 0 or most >= groups:
            wrong = least if least < 0 else most
            raise self.unfit(part, f"names group {wrong}, expected 0 to {groups - 1}")
        return order.int()

    def read_small(self, part: str) -> bytes:
        """Return the bytes of a part that describes others. Raises `CheckpointError`."""
        info = self[part]
        if info.nbytes > _SMALL:
            raise self.unfit(part, f"has {info.nbytes:,} bytes, expected at most {_SMALL:,}")
        try:
            with info.file.open("rb") as stream:
                stream.seek(info.offset)
                return stream.read(info.nbytes)
        except OSError as error:
            raise unreadable(info.file, error) from None

    def finite(self, weights: Tensor) -> Tensor:
        """Return decoded weights. Raises `CheckpointError` if some are infinite."""
        file = next(iter(self.infos.values())).file
        check_finite(weights, f"{self.module}.weight", file)
        return weights

    def stored_as(self, main: str, shape: tuple[int, int], stored: Stored) -> TensorInfo:
        """Return the one tensor that stands for all parts.

        Args:
            main: the part that holds the integers.
            shape: outputs and inputs of the matrix.
            stored: reads it.
        """
        return TensorInfo(
            file=self[main].file,
            name=f"{self.module}.weight",
            dtype=stored.kind,
            shape=shape,
            offset=self[main].offset,
            nbytes=sum(info.nbytes for info in self.infos.values()),
            stored=stored,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way to store quantised matrices.

    Attributes:
        parts: names of tensors that only quantised modules have, after the module's name and a dot.
        dropped: names of tensors about activations or caches, which are not read.
        fields: the fields of `quantization_config` that are read.
        refusal: returns why settings are not supported; None if they are.
        reader: returns the function that makes one tensor of the parts of a module. It gets the
            settings, the names of the quantised modules, and config.json's name for messages.
    """

    parts: tuple[str, ...]
    fields: tuple[Field, ...]
    refusal: Callable[[Settings], str | None]
    reader: Callable[[Settings, Sequence[str], str], Callable[[Parts], TensorInfo]]
    dropped: tuple[str, ...] = ()


def check_group(settings: Settings, name: str) -> None:
    """Raise `FieldError` for groups of 0 inputs."""
    if settings.get(name) == 0:
        raise FieldError(
            f"config.json has quantization_config.{name} 0, expected -1 or a whole number from 1",
            hint="Correct the file, or download it again",
        )
