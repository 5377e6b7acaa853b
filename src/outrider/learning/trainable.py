"""A copy of a draft model that PyTorch can train: float32 weights of the same checkpoint."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from outrider.core.errors import CheckpointError, OptionError, writing
from outrider.learning.losses import Loss
from outrider.learning.records import Example, coarse
from outrider.models.checkpoints.checkpoint import Checkpoint, load_tensors
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.packing import NativeParts, pack_checkpoint
from outrider.models.llama.config import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "model.safetensors"
_COPIED = ("generation_config.json", "tokenizer.json", "tokenizer_config.json")
"""Files of a draft model that training does not change."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A tensor in memory in place of the one in a file (`models/checkpoints/tensors.Stored`)."""

    tensor: Tensor
    kind: str = "trained"
    packed_bytes: None = None

    def read(self) -> Float[Tensor, "..."]:
        return self.tensor

    def grouped(self) -> None:
        return None


class Trainable:
    """The float32 copy, its optimizer, and the way back to weights that the kernels read.

    Training takes 16 bytes for each parameter: weights, gradients and two averages of AdamW.
    """

    def __init__(self, checkpoint: Checkpoint, rate: float) -> None:
        """Load the copy.

        Args:
            checkpoint: the draft model.
            rate: learning rate.

        Raises:
            OptionError: PyTorch cannot run this architecture with the tensors of the checkpoint.
            CheckpointError: a tensor cannot be read.
        """
        self.checkpoint = checkpoint
        self._model = _built(checkpoint)
        self._tensors = _named(self._model, checkpoint)
        self._load(checkpoint)
        self._optimizer = torch.optim.AdamW(
            list(self._model.parameters()), lr=rate, weight_decay=0.0
        )

    def _load(self, source: Checkpoint) -> None:
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(load_tensors(source, [name], torch.float32)[name])

    def resume(self, folder: Path) -> None:
        """Continue with the weights that `save` wrote to `folder`.

        Raises:
            CheckpointError: there are none, or they are those of another draft model.
        """
        saved = open_checkpoint(folder)
        shapes = {name: info.shape for name, info in saved.tensors.items()}
        if shapes != {name: info.shape for name, info in self.checkpoint.tensors.items()}:
            raise CheckpointError(
                f"{folder} holds another model than the draft model {self.checkpoint.path}",
                hint="Give another folder, or the draft model that was trained there",
            )
        self._load(saved)

    def rows(self, example: Example) -> Float[Tensor, "corrections vocab"]:
        """Return the logits of the rows that an example compares."""
        out = self._model(
            input_ids=example.tokens[None], use_cache=False, logits_to_keep=example.rows
        )
        return out.logits[0].float()

    def update(self, examples: Sequence[Example], loss: Loss) -> Iterator[None]:
        """Take one step down the mean of `loss` over all corrections; pause after each example.

        An update whose gradient is not finite is dropped.
        """
        count = sum(len(example.rows) for example in examples)
        with torch.enable_grad():
            for example in examples:
                found = loss(example.logprobs, coarse(self.rows(example), example.ids))
                (found.sum() / count).backward()
                yield
        norm = torch.nn.utils.clip_grad_norm_(list(self._model.parameters()), 1.0)
        if bool(torch.isfinite(norm)):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def packed(self, dtype: torch.dtype | None) -> NativeParts:
        """Return the weights as the kernels read them; see `NativeDecoder.load` for `dtype`."""
        held = {
            name: replace(info, stored=_Held(self._tensors[name].detach()), change=None)
            for name, info in self.checkpoint.tensors.items()
        }
        trained = replace(self.checkpoint, tensors=held)
        return pack_checkpoint(trained, read_config(trained.config), dtype)

    def save(self, folder: Path) -> None:
        """Write the copy as a checkpoint, which can be loaded as any draft model.

        Raises:
            OptionError: the system refuses to write there.
        """
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in _COPIED:
                if (self.checkpoint.path / name).is_file():
                    shutil.copyfile(self.checkpoint.path / name, folder / name)
            config = {**self.checkpoint.config, "dtype": "float32"}
            (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
            tensors = {name: one.detach().contiguous() for name, one in self._tensors.items()}
            partial = folder / f"{WEIGHTS}.partial"
            try:
                save_file(tensors, partial, metadata={"format": "pt"})
            except SafetensorError as error:
                raise OSError(str(error)) from None
            os.replace(partial, folder / WEIGHTS)


def _built(checkpoint: Checkpoint) -> "PreTrainedModel":
    """Build the architecture of a checkpoint in float32, with weights that are not set yet."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict(checkpoint.config)
    try:
        config = AutoConfig.for_model(str(fields.pop("model_type", "")), **fields)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _untrainable(checkpoint, " ".join(str(error).split())[:120]) from error
    return model.eval()  # no dropout: the rows are to equal those of the drafts


def _named(model: "PreTrainedModel", checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """Return the parameters by the names of the checkpoint."""
    known = model.state_dict(keep_vars=True)
    wrong = [
        name
        for name, info in checkpoint.tensors.items()
        if name not in known or tuple(known[name].shape) != info.shape
    ]
    left = [
        name
        for name, parameter in model.named_parameters()
        if not any(known.get(other) is parameter for other in checkpoint.tensors)
    ]
    if wrong or left:
        raise _untrainable(checkpoint, f"its tensor {[*wrong, *left][0]} has no counterpart")
    return {name: known[name] for name in checkpoint.tensors}


def _untrainable(checkpoint: Checkpoint, reason: str) -> OptionError:
    return OptionError(
        f"the draft model {checkpoint.path} cannot be trained while it is used: {reason}",
        hint="Leave out learn, or give another draft model",
    )
