"""The head before training: a layer of the target, and matrices fitted by ridge regression.

The ridge fit predicts the final state of the next place (normed, in a hinted head) from the states
of this one, the token between them and its hint. It needs seconds and gives most of what the first
steps of training would give.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.core.types import IntArray
from outrider.models.checkpoints.checkpoint import Checkpoint, load_tensors
from outrider.models.heads.config import LAYER, LEVELS, HeadConfig, HeadKind, HeadShape
from outrider.models.heads.formats.layers import layer_settings
from outrider.models.heads.formats.reading import read_head
from outrider.models.heads.module import HeadModule
from outrider.models.llama.config import DecoderConfig, read_config
from outrider.models.llama.weights import EMBED, HEAD, NORM
from outrider.training.heads.data import RecordedTexts, TextPlace

_RIDGE = 30.0
_PART = 2048
"""Rows that are added to the normal equations at once."""
_QUIET_ATTENTION, _QUIET_MLP = 0.05, 0.02
"""Spread of the matrices that end attention and MLP, before they are divided by the root of their
inputs: the layer adds almost nothing at first."""
_RANDOM_END, _UNSURE = 0.3, 0.3
"""The same for a layer that starts at random, and the factor of its last norm."""
_SMALLEST = 0.1
"""Weights of the final norm below this part of their mean size are raised to it before they
divide."""
FACTORS = (1.0, 0.85, 0.7, 0.6, 0.5, 0.42, 0.35, 0.3, 0.25, 0.2, 0.15)
"""Factors of the logits of a fitted head, of which the one with the lowest loss is taken."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """What a head takes from its target.

    Attributes:
        config: shape of the target.
        embed: `[vocab, hidden]` embeddings.
        lm_head: `[vocab, hidden]` rows of the output head.
        norm: `[hidden]` weights of the final norm.
        layer: tensors of the last layer by their names in a head.
    """

    config: DecoderConfig
    embed: Float[Tensor, "vocab hidden"]
    lm_head: Float[Tensor, "vocab hidden"]
    norm: Float[Tensor, " hidden"]
    layer: dict[str, Tensor]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Teacher":
        """Read the parts of a checkpoint in float32.

        Raises:
            OptionError: its last layer has tensors that no head can start with, or a shape that no
                file of a head can state.
            UnsupportedCheckpointError: its last layer has a feature that heads lack.
        """
        config = read_config(checkpoint.config)
        prefix = f"model.layers.{config.num_layers - 1}."
        names = [name for name in checkpoint.tensors if name.startswith(prefix)]
        outer = [name for name in (EMBED, HEAD, NORM) if name in checkpoint.tensors]
        found = load_tensors(checkpoint, [*names, *outer], torch.float32)
        embed = found.get(EMBED, found.get(HEAD))
        if embed is None or config.experts is not None or config.head_order is not None:
            raise OptionError(
                f"heads cannot be trained for {checkpoint.path}",
                hint="Use a Llama-shaped model with dense layers and its own output head",
            )
        layer_settings(layer_of(config, 1), config.vocab_size, checkpoint.config)
        layer = {LAYER + name.removeprefix(prefix): found[name] for name in names}
        return cls(config, embed, found.get(HEAD, embed), found[NORM], layer)

    def logits(self, states: Float[Tensor, "rows hidden"], ids: Tensor) -> Tensor:
        """Return the target's logits of some tokens, given its normed final states."""
        return F.linear(states, self.lm_head[ids])


def fresh_head(
    teacher: Teacher,
    kind: HeadKind,
    states: Sequence[int],
    ids: IntArray,
    successors: np.ndarray,
    *,
    random: bool,
    sampling: bool = False,
    alignment: bool = False,
) -> tuple[HeadConfig, dict[str, Tensor]]:
    """Return the configuration and the tensors of an untrained head.

    Args:
        teacher: parts of the target.
        kind: the kind of the head.
        states: numbers of the states that it fuses.
        ids: the draft vocabulary, ascending.
        successors: the table of hints.
        random: start at random instead of with the target's last layer.
        sampling: FSPAD: mix the token into the state first.
        alignment: FSPAD: correct the logits.
    """
    whole = teacher.config
    predicts = kind in (HeadKind.EAGLE1, HeadKind.FSPAD)
    config = HeadConfig(
        kind=kind,
        layer=layer_of(whole, len(ids)),
        states=tuple(states),
        target_width=whole.hidden_size,
        target_vocab=whole.vocab_size,
        norm_states=not predicts,
        fuse_bias=predicts,
        sampling=sampling,
        alignment=alignment,
    )
    tensors = {
        name: start_of(name, shape, teacher, random=random)
        for name, shape in config.shapes().items()
        if name not in ("ids", "successors")
    }
    tensors["ids"] = torch.from_numpy(ids)
    if predicts and not random:
        _fold_norms(tensors, teacher)
    if kind is HeadKind.EAGLE3:
        tensors["fc_norm.weight"] = torch.ones(config.optional()["fc_norm.weight"])
    if kind is HeadKind.HINTED:
        tensors["successors"] = torch.from_numpy(successors.astype(np.int32))
    return config, tensors


def trained_head(
    folder: Path, kind: HeadKind, states: Sequence[int], teacher: Teacher
) -> tuple[HeadShape, dict[str, Tensor]]:
    """Return the configuration and the tensors of a head that is trained further.

    Args:
        folder: its files.
        kind: the kind that the recipe names.
        states: numbers of the states that the recipe names, without those that it does not fuse.
        teacher: parts of the target.

    Raises:
        OptionError: it is of another kind, reads other states, or has another width.
    """
    file = read_head(folder, layers=teacher.config.num_layers)
    found = file.config.kind, file.config.states, file.config.target_width
    expected = kind, tuple(states), teacher.config.hidden_size
    if found != expected:
        raise OptionError(
            f"training.start is a head of kind {found[0]} with states {list(found[1])} of width "
            f"{found[2]}, and the recipe has {expected[0]}, {list(expected[1])} and {expected[2]}",
            hint="Give a head that was trained with the same recipe, or leave out training.start",
        )
    return file.config, file.tensors


def without_norm(norm: Float[Tensor, " hidden"]) -> Float[Tensor, " hidden"]:
    """Return the factors that take the weights of a norm off its result; none of them is large."""
    least = _SMALLEST * norm.abs().mean()
    return 1 / torch.where(norm.abs() < least, least, norm)


def _fold_norms(tensors: dict[str, Tensor], teacher: Teacher) -> None:
    """Let attention read final states as the last layer of the target reads its normed input."""
    factors = read_final_states(teacher)
    for name in "qkv":
        tensors[f"{LAYER}self_attn.{name}_proj.weight"] *= factors


def read_final_states(teacher: Teacher) -> Float[Tensor, " hidden"]:
    """Return what turns final states to the normed input of the target's last layer, but for the
    layer itself; ones where that layer has no norm."""
    theirs = teacher.layer.get(f"{LAYER}input_layernorm.weight")
    return torch.ones_like(teacher.norm) if theirs is None else theirs * without_norm(teacher.norm)


def layer_of(whole: DecoderConfig, drafts: int) -> DecoderConfig:
    """Return the shape of the last layer of a decoder, as the layer of a head."""
    return replace(
        whole,
        vocab_size=drafts,
        num_layers=1,
        windows=whole.windows[-1:],
        rotary=whole.rotary[-1:],
        tied=False,
    )


def start_of(name: str, shape: tuple[int, ...], teacher: Teacher, *, random: bool) -> Tensor:
    """Return the first value of one tensor."""
    own = teacher.layer.get(name)
    if name == "fc.bias" or name.endswith(("sampling.down.weight", "alignment.up.weight")):
        return torch.zeros(shape)  # a head of FSPAD begins as one of EAGLE
    if name == "norm.weight":
        return teacher.norm * _UNSURE if random else teacher.norm.clone()
    if len(shape) == 1:
        return torch.ones(shape) if own is None or random else own.clone()
    if name == "levels":
        return torch.zeros(LEVELS, shape[1])
    fresh = torch.randn(shape) * shape[1] ** -0.5
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        if random:
            return fresh * _RANDOM_END
        return fresh * (_QUIET_ATTENTION if "o_proj" in name else _QUIET_MLP)
    if own is None or random or own.shape != shape:
        return fresh
    return own.clone()


@torch.no_grad()
def fit_ridge(head: HeadModule, texts: RecordedTexts, places: Sequence[TextPlace]) -> None:
    """Fit the matrices that enter the stream of a hinted head, whose last state is the final one.

    Token, hint and the final state give the next final state; then all states give what token and
    hint leave.
    """
    width = head.config.width
    final, wide = Normal(3 * width, width), Normal(len(head.config.states) * width, width)
    gain = head.part("norm.weight")
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for place in places:
        batch = texts.batch([place])
        first = place.prompt - 1
        states = batch.states[0, first:]
        read = _entries(
            head, batch.tokens[0, first:], batch.hints[0, first:, 0], batch.levels[0, first:, 0]
        )[:-1]
        target = states[1:, -1] / gain
        final.add(torch.cat((states[:-1, -1], read), dim=1), target)
        flat = F.rms_norm(states[:-1], states.shape[-1:], eps=head.config.layer.norm_eps)
        rows.append((flat.flatten(1).half(), read.half(), target.half()))
    found = final.solve()
    head.part("recur.weight").copy_(found[:, :width])
    token, hint = found[:, width : 2 * width], found[:, 2 * width :]
    head.part("token.weight").copy_(token)
    head.part("hint.weight").copy_(hint)
    for flat, read, target in rows:
        left = target.float() - F.linear(read.float(), found[:, width:])
        wide.add(flat.float(), left)
    head.part("fc.weight").copy_(wide.solve())


@torch.no_grad()
def fit_states(head: HeadModule, texts: RecordedTexts, places: Sequence[TextPlace]) -> None:
    """Fit the matrix that fuses token and final state, and its bias, to the next final state.

    For heads that predict states (`HeadConfig.predicts_states`).
    """
    width = head.config.width
    normal = Normal(2 * width + 1, width)
    for place in places:
        batch, first = texts.batch([place]), place.prompt - 1
        states = batch.states[0, first:, -1]
        word = head.embedding(batch.tokens[0, first:-1])
        ones = torch.ones(len(word), 1)
        normal.add(torch.cat((word, states[:-1], ones), dim=1), states[1:])
    found = normal.solve()
    head.part("fc.weight").copy_(found[:, :-1])
    head.part("fc.bias").copy_(found[:, -1])


def _entries(head: HeadModule, tokens: Tensor, hints: Tensor, levels: Tensor) -> Tensor:
    """Return the normed embeddings of tokens and hints side by side, `[rows, 2 * width]`."""
    token, hint = head.normed_embedding(tokens), head.normed_embedding(hints)
    return torch.cat((token, hint * (levels > 0)[:, None]), dim=1)


class Normal:
    """The normal equations of a linear fit; rows are added in large parts, which is faster."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self._gram, self._cross = torch.zeros(inputs, inputs), torch.zeros(inputs, outputs)
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, inputs: Float[Tensor, "rows inputs"], outputs: Tensor) -> None:
        """Add rows."""
        self._waiting.append((inputs, outputs))
        if sum(len(rows) for rows, _ in self._waiting) >= _PART:
            self._sum_up()

    def _sum_up(self) -> None:
        inputs, outputs = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._gram.addmm_(inputs.T, inputs)
        self._cross.addmm_(inputs.T, outputs)
        self._waiting = []

    def solve(self) -> Float[Tensor, "outputs inputs"]:
        """Return the matrix with a penalty on its size."""
        if self._waiting:
            self._sum_up()
        penalty = _RIDGE * torch.eye(len(self._gram))
        return torch.linalg.solve(self._gram + penalty, self._cross).T.contiguous()
