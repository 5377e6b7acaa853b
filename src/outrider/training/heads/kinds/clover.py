"""Clover heads before training: layers of the target, and matrices fitted by ridge regression.

The fit takes the block for the identity, as its quiet layers almost are. The next final state
without the weights of its norm is first a linear map of the last one and of the token. Its part of
the token gives the values of the merge. Then each head gets the linear map that predicts the state
of its own place.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.core.types import IntArray
from outrider.models.heads.clover.config import (
    ENTER,
    FIRST,
    HEAD_NORM,
    LATER,
    CloverConfig,
    own_of,
)
from outrider.models.heads.clover.module import CloverModule
from outrider.models.heads.config import LAYER, HeadKind, HeadShape
from outrider.training.heads import start
from outrider.training.heads.config import HeadRecipe
from outrider.training.heads.data import RecordedTexts, TextPlace
from outrider.training.heads.start import Normal, Teacher, start_of, without_norm

_SMALL = 0.01
"""Spread of the values of a merge before training (the paper draws them below this number)."""
_PENALTY = 0.1
"""Penalty on the values of the fitted merge, relative to the mean square of what they pass."""
DECAY = 0.7
"""The weight of each head in the loss, relative to the head before (arXiv 2408.00264)."""
_ENDS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def fresh_clover(
    teacher: Teacher, last: int, ids: IntArray, recipe: HeadRecipe
) -> tuple[CloverConfig, dict[str, Tensor]]:
    """Return the configuration and the tensors of untrained heads.

    Without the ridge fit they start as in the paper: each layer is a copy of the target's last one,
    and queries, keys and the matrices of the heads are near the identity.

    Args:
        teacher: parts of the target.
        last: number of the last hidden state.
        ids: the draft vocabulary, ascending.
        recipe: the options.

    Raises:
        OptionError: the width of the target is no multiple of its number of attention heads.
    """
    whole, options = teacher.config, recipe.training
    if whole.hidden_size % whole.num_heads:
        raise OptionError(
            f"the target has width {whole.hidden_size} and {whole.num_heads} attention heads, and "
            "Clover merges a token into equal parts of the state",
            hint="Train another kind of head for this target",
        )
    config = CloverConfig(
        kind=HeadKind.CLOVER,
        layer=start.layer_of(whole, len(ids)),
        states=(last,),
        target_width=whole.hidden_size,
        target_vocab=whole.vocab_size,
        layers=recipe.layers,
        regressive=recipe.regressive,
        heads=options.steps,
    )
    tensors = {
        name: _first_value(name, shape, teacher, random=options.random, fitted=options.ridge)
        for name, shape in config.shapes().items()
        if name != "ids"
    }
    return config, tensors | {"ids": torch.from_numpy(ids)}


def further_clover(config: HeadShape, recipe: HeadRecipe) -> None:
    """Raise `OptionError` if heads that are trained further are Clover heads of another shape."""
    if not isinstance(config, CloverConfig):
        return
    heads = recipe.training.steps if not config.regressive else config.heads
    found = config.layers, config.regressive, config.heads
    expected = recipe.layers, recipe.regressive, heads
    if found != expected:
        names = ("layers", "regressive", "heads")
        shown = [
            ", ".join(f"{name} {one}" for name, one in zip(names, values, strict=True))
            for values in (found, expected)
        ]
        raise OptionError(
            f"training.start holds Clover heads with {shown[0]}, and the recipe has {shown[1]}",
            hint="Give heads that were trained with the same recipe, or leave out training.start",
        )


def _first_value(
    name: str, shape: tuple[int, ...], teacher: Teacher, *, random: bool, fitted: bool
) -> Tensor:
    """Return the first value of one tensor."""
    if name.startswith("layers."):
        return _of_layer(name, shape, teacher, random=random, fitted=fitted)
    if name == HEAD_NORM:
        return teacher.norm.clone()
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    noise = _SMALL * torch.randn(shape)
    return noise if name.endswith(".value.weight") else noise + torch.eye(*shape)


def _of_layer(
    name: str, shape: tuple[int, ...], teacher: Teacher, *, random: bool, fitted: bool
) -> Tensor:
    """Return the first value of a tensor of a layer, whose norms read final states."""
    theirs = LAYER + name.split(".", 2)[2]
    own = teacher.layer.get(theirs)
    if own is not None and not fitted and not random and name.endswith(_ENDS):
        return own.clone()
    value = start_of(theirs, shape, teacher, random=random)
    if name.endswith("layernorm.weight") and not random:
        return value * without_norm(teacher.norm) * teacher.norm.square().mean().sqrt()
    return value


@torch.no_grad()
def fit_clover(
    head: CloverModule, texts: RecordedTexts, places: Sequence[TextPlace], steps: int
) -> None:
    """Fit the values of the first merge and the matrices of all heads.

    Args:
        head: the heads.
        texts: the recorded texts.
        places: those that count.
        steps: number of heads that share the matrix of later ones.
    """
    width = head.config.width
    off = without_norm(head.part(HEAD_NORM))
    linear, gates = Normal(2 * width, width), torch.zeros(head.config.layer.num_heads)
    rows = 0
    for states, words, _ in _answers(head, texts, places):
        read = torch.cat((states[:-1], words[:-1]), dim=1)
        linear.add(read, states[1:] * off)
        gates += head.gates(ENTER, states[:-1], words[:-1]).sum(0)
        rows += len(read)
    both = linear.solve()
    values = _passed(both[:, :width], both[:, width:]).unflatten(0, (len(gates), -1))
    share = (gates / max(rows, 1)).clamp(min=0.1)
    head.part(f"{ENTER}.value.weight").copy_((values / share[:, None, None]).flatten(0, 1))
    _fit_heads(head, texts, places, steps)


def _fit_heads(
    head: CloverModule, texts: RecordedTexts, places: Sequence[TextPlace], steps: int
) -> None:
    width, regressive = head.config.width, head.config.regressive
    off = without_norm(head.part(HEAD_NORM))
    fits = {FIRST: Normal(width + 1, width)}
    if regressive:
        fits[LATER] = Normal(2 * width + 1, width)
    else:
        fits |= {own_of(k): Normal(width + 1, width) for k in range(1, head.config.heads)}
    for states, words, tokens in _answers(head, texts, places):
        draft = head.finish(head.enter(states, tokens))
        for step in range(steps if regressive else head.config.heads):
            ahead = 1 + step
            if len(states) <= ahead:
                break
            name = FIRST if not step else LATER if regressive else own_of(step)
            parts = [draft[:-ahead], torch.ones(len(states) - ahead, 1)]
            if step and regressive:
                parts.insert(1, words[step:-1])
            # each row of a later head counts as much as in the loss
            weight = DECAY ** (step / 2)
            fits[name].add(torch.cat(parts, dim=1) * weight, states[ahead:] * off * weight)
    for name, normal in fits.items():
        found = normal.solve()
        head.part(f"{name}.weight").copy_(found[:, :-1])
        head.part(f"{name}.bias").copy_(found[:, -1])


def _answers(
    head: CloverModule, texts: RecordedTexts, places: Sequence[TextPlace]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield final states of the answers, with embedding and id of the token after each of them."""
    for place in places:
        batch, first = texts.batch([place]), place.prompt - 1
        tokens = batch.tokens[0, first:]
        yield batch.states[0, first:, -1], head.embedding(tokens), tokens


def _passed(
    through: Float[Tensor, "outputs width"], wanted: Float[Tensor, "outputs words"]
) -> Float[Tensor, "width words"]:
    """Return the matrix V for which `through @ V` is close to `wanted`; it has a penalty."""
    gram = through.T @ through
    penalty = _PENALTY * gram.diagonal().mean() * torch.eye(len(gram))
    return torch.linalg.solve(gram + penalty, through.T @ wanted)
