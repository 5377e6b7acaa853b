"""Layers with experts: a row goes through a few of many gated MLPs, which a router chooses.

Mixtral (Jiang et al. 2024) and Qwen3-MoE. The router is a matrix with an output for each expert.
The softmax of its outputs gives each expert a probability; the most probable experts are run, and
their results are added, weighted with the probabilities.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.fields import Field, check_fields
from outrider.models.checkpoints.safetensors.experts import EXPERT_NAMES, ExpertNames

Projection = Callable[[Tensor], Tensor]
"""`[tokens, inputs] -> [tokens, outputs]`; quantized projections have the same type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The shape of the layers with experts.

    Attributes:
        count: experts of a layer.
        chosen: experts that a row goes through.
        inner: numbers between the matrices of an expert.
        normalized: whether the probabilities of the chosen experts are divided by their sum.
        layers: for each layer of the model whether it has experts; others have one MLP.
        names: names of the tensors.
    """

    count: int
    chosen: int
    inner: int
    normalized: bool
    layers: tuple[bool, ...]
    names: ExpertNames

    @property
    def num_matrices(self) -> int:
        """Number of tensors of all experts and routers."""
        return sum(self.layers) * (3 * self.count + 1)

    def unread(self, hidden: int) -> int:
        """Return the number of weights that a forward of one row leaves out, in all layers."""
        return sum(self.layers) * (self.count - self.chosen) * 3 * self.inner * hidden

    def shapes(self, hidden: int) -> dict[str, tuple[int, int]]:
        """Return names and shapes of the tensors of one layer with experts."""
        shapes = {f"{self.names.router}.weight": (self.count, hidden)}
        for expert in range(self.count):
            gate, up, down = self.names.of(expert)
            shapes[f"{gate}.weight"] = shapes[f"{up}.weight"] = (self.inner, hidden)
            shapes[f"{down}.weight"] = (hidden, self.inner)
        return shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """Defaults of one `model_type`.

    `size` names the setting with the inner size of an expert.
    """

    count: int
    chosen: int
    size: str
    inner: int
    least: int = 1
    normalized: bool | None = None


_FAMILIES: dict[str, _Family] = {
    "mixtral": _Family(
        count=8,
        chosen=2,
        size="intermediate_size",
        inner=14_336,
        normalized=True,
    ),
    "qwen3_moe": _Family(
        count=128,
        chosen=8,
        size="moe_intermediate_size",
        inner=768,
        least=0,
    ),
}

_ROUTERS = tuple(f".{names.router}.weight" for names in EXPERT_NAMES.values())
_COUNTS = ("num_local_experts", "num_experts")


def is_router(name: str) -> bool:
    """Whether a tensor is the matrix of a router, which all runners keep in float32."""
    return name.endswith(_ROUTERS)


def read_experts(config: Mapping[str, JsonValue], num_layers: int) -> Experts | None:
    """Read the experts from config.json; None for models without experts.

    Raises:
        CheckpointError: a setting is wrong, or does not fit the others.
    """
    family = _FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return None
    check_fields("config.json", config, _fields(family))
    given = [name for name in _COUNTS if name in config]
    count = config[given[0]] if given else family.count
    layers = _layers(config, family, num_layers)
    if not count or not any(layers):
        return None
    chosen = config.get("num_experts_per_tok", family.chosen)
    if chosen > count:
        raise CheckpointError(
            f"config.json has num_experts_per_tok {chosen}, but {count} experts",
            hint="Correct the file, or download it again",
        )
    normalized = family.normalized
    return Experts(
        count=count,
        chosen=chosen,
        inner=config.get(family.size, family.inner),
        normalized=bool(config.get("norm_topk_prob")) if normalized is None else normalized,
        layers=layers,
        names=EXPERT_NAMES[config["model_type"]],
    )


def _fields(family: _Family) -> tuple[Field, ...]:
    def whole(name: str, most: float | str, least: int = 1) -> Field:
        return Field(name, ("whole number",), least=least, most=most, null=False)

    return (
        *(whole(name, "experts", family.least) for name in _COUNTS),
        whole("num_experts_per_tok", "experts"),
        whole(family.size, "inner"),
        whole("decoder_sparse_step", float("inf")),
        Field("mlp_only_layers", ("whole number",), levels=(1,)),
        Field("norm_topk_prob", ("true or false",)),
    )


def _layers(config: Mapping[str, JsonValue], family: _Family, num_layers: int) -> tuple[bool, ...]:
    """Return which layers have experts: all of Mixtral; every n-th one of others, with
    exceptions.
    """
    if family.normalized:
        return (True,) * num_layers
    step, dense = config.get("decoder_sparse_step", 1), set(config.get("mlp_only_layers") or ())
    return tuple(i not in dense and (i + 1) % step == 0 for i in range(num_layers))


@dataclass(slots=True, kw_only=True)
class Mixture:
    """The experts of one layer in PyTorch.

    Attributes:
        router: in float32 at least.
        experts: the fused matrices gate and up, and the matrix down, of each expert.
        chosen: experts that a row goes through.
        normalized: see `Experts`.
    """

    router: Float[Tensor, "experts hidden"]
    experts: Sequence[tuple[Projection, Projection]]
    chosen: int
    normalized: bool

    def __call__(
        self, x: Float[Tensor, "rows hidden"], activation: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "rows hidden"]:
        """Return the weighted sum of the chosen experts of each row, in the order of experts."""
        weights, chosen = self.route(x)
        out = torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            rows, ranks = torch.where(chosen == expert)
            gate_up, down = self.experts[expert]
            gate, up = gate_up(x[rows]).chunk(2, dim=-1)
            part = down(activation(gate) * up) * weights[rows, ranks, None]
            out.index_add_(0, rows, part.to(x.dtype))
        return out

    def route(
        self, x: Float[Tensor, "rows hidden"]
    ) -> tuple[Float[Tensor, "rows chosen"], Int[Tensor, "rows chosen"]]:
        """Return the weights and the numbers of the experts of each row, most probable first."""
        probs = F.linear(x.to(self.router.dtype), self.router).softmax(dim=-1)
        weights, chosen = probs.topk(self.chosen, dim=-1)
        if self.normalized:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights, chosen
