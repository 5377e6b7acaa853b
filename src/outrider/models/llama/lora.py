"""LoRA adapters (Hu et al. 2021) in peft's format, added to the weights of a decoder.

An adapter holds two thin matrices for each matrix it changes: `W + scale * B A`, with `scale` =
`lora_alpha / r`, or `lora_alpha / sqrt(r)` (Kalajdzievski 2023). They are added while weights load,
in float32 at least, so the adapter does not slow the model down. No pickle is opened, and peft is
not needed.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.fields import check_fields
from outrider.models.checkpoints.json_file import is_there, read_object
from outrider.models.checkpoints.patterns import matches
from outrider.models.checkpoints.safetensors.header import read_header
from outrider.models.checkpoints.tables import ADAPTER_TYPE, check_adapter
from outrider.models.checkpoints.tensors import check_finite
from outrider.models.llama.text_stack import is_tied, text_names, text_prefix

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
_TEXT = re.compile(
    r"(?:model\.language_model\.|model\.text_model\.|language_model\.model\.|text_model\.model\."
    r"|language_model\.|text_model\.|model\.)(layers\.\d+\..+)"
)
_HEAD = re.compile(r"(?:model\.|language_model\.|text_model\.)?(lm_head)")
_VISION = re.compile(r"visual|vision|image|connector|projector|merger|resampler")

_PLAIN: dict[str, tuple[Any, ...]] = {
    "use_dora": (None, False),
    "bias": (None, "none"),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "fan_in_fan_out": (None, False),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (None, False),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
}
"""Settings of peft, with their values in an adapter that only adds `B A` to matrices."""
_OTHER_BASE = ("pissa", "olora", "corda", "loftq")
"""Prefixes of initialization methods that also change the base model."""


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """The update of one matrix: `scale * up @ down`."""

    down: Float[Tensor, "rank inputs"]
    up: Float[Tensor, "outputs rank"]
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        return len(self.up), self.down.shape[1]

    def __call__(self, weight: Float[Tensor, "outputs inputs"]) -> Float[Tensor, "outputs inputs"]:
        """Add the update to `weight`; the result has the precision of `weight`."""
        return weight + (self.up.to(weight) @ self.down.to(weight)) * self.scale


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapter:
    """An adapter in memory.

    Attributes:
        path: its folder.
        updates: plain name of a matrix (`layers.0.self_attn.q_proj`, `lm_head`) -> its update.
        names: plain name -> its name in the adapter.
        fingerprint: a hash of its content.
    """

    path: Path
    updates: Mapping[str, Update]
    names: Mapping[str, str]
    fingerprint: str

    @classmethod
    def load(cls, path: str | Path) -> "Adapter":
        """Read the folder at `path` (`~` allowed).

        Raises:
            CheckpointError: files are missing or damaged; weights are pickled; it is not a LoRA
                adapter, changes more than matrices, or changes the vision tower.
        """
        folder = Path(path).expanduser()
        settings = _settings(folder)
        found = _pairs(folder, _tensors(folder))
        names = {_plain(folder, module): module for module in found}
        alphas = _alphas(folder / CONFIG, list(found), settings)
        updates = {
            plain: _update(folder, module, found[module], settings, alphas[module])
            for plain, module in names.items()
        }
        digest = hashlib.sha256()
        for plain, update in sorted(updates.items()):
            digest.update(f"{plain} {update.shape} {update.scale!r}".encode())
            for matrix in (update.down, update.up):
                digest.update(matrix.double().numpy().tobytes())
        return cls(path=folder, updates=updates, names=names, fingerprint=digest.hexdigest()[:16])

    def changed(self, fingerprint: str) -> str:
        """Return the fingerprint of a model with this adapter."""
        return hashlib.sha256(f"{fingerprint} {self.fingerprint}".encode()).hexdigest()[:16]


def with_adapter(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """Return a checkpoint that adds the adapter to the weights when they are loaded.

    For image-text models, pass the whole checkpoint, before `text_checkpoint`.

    Raises:
        CheckpointError: the adapter is for another model.
    """
    tensors = dict(checkpoint.tensors)
    prefix = text_prefix(tensors)
    if prefix is None:
        raise CheckpointError(f"{checkpoint.path} has no decoder that an adapter could change")
    names = {
        plain.removeprefix("model.").removesuffix(".weight"): name
        for name, plain in text_names(tensors, prefix).items()
    }
    shapes = {plain: tensors[name].shape for plain, name in names.items()}
    _check(adapter, shapes, str(checkpoint.path), tied=is_tied(checkpoint.config))
    for plain, update in adapter.updates.items():
        info = tensors[names[plain]]
        tensors[names[plain]] = replace(info, change=_after(info.change, update))
    return replace(checkpoint, tensors=tensors, fingerprint=adapter.changed(checkpoint.fingerprint))


def add_to_modules(model: torch.nn.Module, adapter: Adapter, name: str) -> None:
    """Add the adapter to the weights of a built model, called `name` in errors.

    Raises:
        CheckpointError: the adapter is for another model; the weights are then unchanged.
    """
    modules: dict[str, Any] = {}
    for path, module in model.named_modules():
        match = _TEXT.fullmatch(path) or _HEAD.fullmatch(path)
        if match and isinstance(getattr(module, "weight", None), Tensor):
            modules[match[1]] = module
    head, embed = modules.get("lm_head"), _embeddings(model)
    tied = head is not None and embed is not None and head.weight is embed.weight
    shapes = {plain: tuple(module.weight.shape) for plain, module in modules.items()}
    _check(adapter, shapes, name, tied=tied)
    with torch.no_grad():
        for plain, update in adapter.updates.items():
            weight = modules[plain].weight
            wide = torch.promote_types(weight.dtype, torch.float32)
            changed = update(weight.to(wide))
            check_finite(changed, adapter.names[plain], f"{name} with the adapter {adapter.path}")
            weight.copy_(changed)


def _embeddings(model: Any) -> Any:
    return model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None


def _after(change: Callable[[Tensor], Tensor] | None, update: Update) -> Callable[[Tensor], Tensor]:
    return update if change is None else lambda weight: update(change(weight))


def _check(
    adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], model: str, *, tied: bool
) -> None:
    """Raise `CheckpointError` for the first matrix that the model lacks or has in another shape."""
    hint = "Give the model that the adapter was trained on, or an adapter of this one"
    for plain, update in adapter.updates.items():
        what = f"the adapter at {adapter.path} is for another model: it changes"
        module = adapter.names[plain]
        if plain == "lm_head" and tied:
            raise CheckpointError(
                f"the adapter at {adapter.path} changes {module}, which {model} shares with its "
                "embeddings",
                hint="Train the adapter without the head",
            )
        if plain not in shapes:
            raise CheckpointError(f"{what} {module}; {model} has {_having(shapes)}", hint=hint)
        if shapes[plain] != update.shape:
            raise CheckpointError(
                f"{what} {module} of shape {list(update.shape)}; in {model} it has "
                f"{list(shapes[plain])}",
                hint=hint,
            )


def _having(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Summarize the matrices of a model in a few words."""
    found = [name.split(".") for name, shape in shapes.items() if len(shape) == 2 and "." in name]
    layers = len({parts[1] for parts in found})
    kinds = dict.fromkeys(parts[-1] for parts in found)
    return f"{layers} layers with {', '.join(kinds)}"


# -- files ---------------------------------------------------------------------------------------


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not folder.is_dir() or not is_there(file):
        raise CheckpointError(
            f"there is no adapter at {folder}", hint=f"Give a folder with {CONFIG} and {WEIGHTS}"
        )
    settings = read_object(file)
    check_fields(str(file), settings, ADAPTER_TYPE)
    kind = settings["peft_type"]
    if kind != "LORA":
        raise CheckpointError(
            f"{folder} holds an adapter of type {kind!r:.60}; only LORA is supported"
        )
    check_adapter(str(file), settings)
    for key, plain in _PLAIN.items():
        if settings.get(key) not in plain:
            raise CheckpointError(
                f"the adapter at {folder} has {key} {settings[key]!r:.100}, which is not supported",
                hint="Merge it into its base model with peft's merge_and_unload",
            )
    begin = str(settings.get("init_lora_weights", "")).lower()
    if begin.startswith(_OTHER_BASE):
        raise CheckpointError(
            f"the adapter at {folder} was initialized with {begin:.60}, which changes its base "
            "model",
            hint="Save it with path_initial_model_for_weight_conversion, as plain LoRA",
        )
    return settings


def _tensors(folder: Path) -> dict[str, Tensor]:
    file = folder / WEIGHTS
    if not is_there(file):
        if (folder / "adapter_model.bin").is_file():
            raise CheckpointError(
                f"{folder / 'adapter_model.bin'} is a pickle, which can run code and is refused",
                hint="Save the adapter again with safe_serialization=True",
            )
        raise CheckpointError(f"{folder} has no {WEIGHTS}", hint="Download it again")
    read_header(file)
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    for name, tensor in tensors.items():
        check_finite(tensor, name, file)
    return tensors


def _pairs(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the two matrices, `A` and `B`, of each module."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or tensor.ndim != 2:
            raise CheckpointError(
                f"the adapter at {folder} holds {key} of shape {list(tensor.shape)}, which is not "
                "a LoRA update of a matrix",
                hint="Train it on linear layers only",
            )
        found.setdefault(match[1], {})[match[2]] = tensor
    if not found:
        raise CheckpointError(f"the adapter at {folder} changes nothing")
    return found


def _plain(folder: Path, module: str) -> str:
    match = _TEXT.fullmatch(module) or _HEAD.fullmatch(module)
    if match:
        return match[1]
    if _VISION.search(module):
        raise CheckpointError(
            f"the adapter at {folder} changes the vision tower ({module}); only adapters of the "
            "language model are supported",
            hint="Train it with target_modules of the language model only",
        )
    raise CheckpointError(
        f"the adapter at {folder} changes {module}, which is not a part of a known decoder"
    )


def _alphas(file: Path, modules: list[str], settings: Mapping[str, Any]) -> dict[str, float]:
    """Return `alpha` of each module: that of the first pattern that matches, else `lora_alpha`.

    Raises:
        CheckpointError: a pattern is no regular expression, or takes too long.
    """
    given: dict[str, float] = settings.get("alpha_pattern") or {}
    found = matches(list(given), modules, file, around=r"(.*\.)?({})$")
    alphas = dict.fromkeys(modules, float(settings.get("lora_alpha", 8)))
    for alpha, fits in reversed(list(zip(given.values(), found, strict=True))):  # the first wins
        alphas |= {module: alpha for module, fit in zip(modules, fits, strict=True) if fit}
    return alphas


def _update(
    folder: Path,
    module: str,
    pair: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    alpha: float,
) -> Update:
    down, up = pair.get("A"), pair.get("B")
    if down is None or up is None or up.shape[1] != len(down) or not len(down):
        raise CheckpointError(
            f"the adapter at {folder} is damaged: {module} has no complete update"
        )
    rank = len(down)  # the shape counts, not rank_pattern
    return Update(down, up, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))
