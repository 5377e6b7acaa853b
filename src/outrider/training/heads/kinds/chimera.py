"""A head of Chimera before and during training: its start and its loss."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.core.types import IntArray
from outrider.models.heads.chimera.config import MIX, OUT, ChimeraConfig, squares_of
from outrider.models.heads.chimera.module import ChimeraModule, grams_of
from outrider.models.heads.config import LAYER, HeadKind, HeadShape
from outrider.models.llama.rope import RotaryTable
from outrider.training.heads.config import HeadRecipe
from outrider.training.heads.data import RecordedTexts, TextPlace
from outrider.training.heads.kinds.medusa import soften_heads
from outrider.training.heads.start import Normal, Teacher, layer_of, read_final_states, start_of
from outrider.training.heads.unroll import Texts, chimera_steps


def fresh_chimera(
    teacher: Teacher, last: int, ids: IntArray, recipe: HeadRecipe
) -> tuple[ChimeraConfig, dict[str, Tensor]]:
    """Return the configuration and the tensors of an untrained head.

    Every head gives the logits of the target's head for the sum of the last state and the output,
    as the published ones do. The matrix inside the encoder is zero.

    Args:
        teacher: parts of the target.
        last: number of the last hidden state.
        ids: the draft vocabulary, ascending.
        recipe: the number of heads, the parts, and whether the layer starts at random.
    """
    heads, random = recipe.heads, recipe.training.random
    config = ChimeraConfig(
        kind=HeadKind.CHIMERA,
        layer=layer_of(teacher.config, len(ids)),
        states=(last,),
        target_width=teacher.config.hidden_size,
        target_vocab=teacher.config.vocab_size,
        heads=heads,
        trigram=recipe.trigram,
        context=recipe.context,
    )
    tensors = {
        name: start_of(name, shape, teacher, random=random)
        for name, shape in config.shapes().items()
        if name != "ids"
    }
    tensors[MIX] = torch.zeros_like(tensors[MIX])
    for name in (name for head in range(heads) for name in squares_of(head)):
        tensors[name] = torch.eye(config.width)
    if recipe.context and not random:
        size = teacher.norm.square().mean().sqrt()
        tensors[f"{LAYER}input_layernorm.weight"] = read_final_states(teacher) * size
    return config, tensors | {"ids": torch.from_numpy(ids)}


def further_chimera(
    config: HeadShape, tensors: dict[str, Tensor], recipe: HeadRecipe
) -> tuple[HeadShape, dict[str, Tensor]]:
    """Return a trained head without what training measures again; other kinds as they are.

    Raises:
        OptionError: it has another number of heads or other parts than the recipe.
    """
    if not isinstance(config, ChimeraConfig):
        return config, tensors
    found = (config.heads, config.trigram, config.context)
    expected = (recipe.heads, recipe.trigram, recipe.context)
    if found != expected:
        raise OptionError(
            f"training.start has heads, trigram and context {found}, and the recipe {expected}",
            hint="Give a head that was trained with the same recipe, or leave out training.start",
        )
    return config, {name: tensor for name, tensor in tensors.items() if name != "accuracies"}


@torch.no_grad()
def fit_chimera(head: ChimeraModule, texts: RecordedTexts, places: Sequence[TextPlace]) -> None:
    """Fit the linear parts by ridge regression, before the layer adds anything.

    The encoder predicts the state of its token, for which it stands. The matrices of each head
    predict, from the last state and the encoder's output, the state in which the target chooses the
    token of that head.
    """
    config = head.config
    width, wide, heads = config.width, config.grams * config.width, range(config.heads)
    encoder, squares = Normal(wide, width), [Normal(2 * width, width) for _ in heads]
    for place in places:
        states, words = _answer(head, texts, place)
        encoder.add(words[:-1], states[1:])
    head.part(OUT).copy_(encoder.solve())
    for place in places:
        states, words = _answer(head, texts, place)
        outputs = F.linear(words, head.part(OUT))
        for ahead, normal in enumerate(squares):
            if (count := len(states) - 1 - ahead) > 0:
                both = torch.cat((states[:count], outputs[ahead:-1]), dim=1)
                normal.add(both, states[1 + ahead :])
    for number, normal in zip(heads, squares, strict=True):
        for name, part in zip(squares_of(number), normal.solve().split(width, 1), strict=True):
            head.part(name).copy_(part)


def _answer(
    head: ChimeraModule, texts: RecordedTexts, place: TextPlace
) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows wide"]]:
    """Return the final states of the rows of an answer, and what the encoder reads there."""
    batch, first = texts.batch([place]), place.prompt - 1
    tokens = grams_of(batch.tokens[0], head.config.grams)[first:]
    return batch.states[0, first:, -1], head.embedding(tokens).flatten(1)


@torch.no_grad()
def soften_chimera(
    head: ChimeraModule, rotary: RotaryTable, texts: Texts, ids: Tensor
) -> list[float]:
    """Scale the logits of fitted heads (`soften_heads`); return the factors."""
    steps = chimera_steps(head, rotary, texts, head.config.heads)
    return soften_heads(head, steps, texts, ids, squares_of)


def chimera_loss(
    head: ChimeraModule,
    rotary: RotaryTable,
    texts: Texts,
    teacher: Teacher,
    ids: Int[Tensor, " draft"],
    soft: float,
) -> Tensor:
    """Return the loss of a batch: the mean over heads of the cross-entropy of the true tokens, and
    of that of the target's distribution.

    Args:
        head: the head, whose rows are those of `ids`.
        rotary: its rotary embedding.
        texts: the batch.
        teacher: parts of the target.
        ids: `[draft]` ascending, with all tokens of the batch.
        soft: weight of the target's distribution beside the true tokens; 0: it is not computed.
    """
    labels = _soft_labels(texts, teacher, ids) if soft else None
    total = torch.zeros(())
    for number, step in enumerate(chimera_steps(head, rotary, texts, head.config.heads)):
        true = torch.searchsorted(ids, texts.targets(number)[step.valid])
        loss = F.cross_entropy(step.logits, true, reduction="sum")
        if labels is not None:
            row = (torch.arange(len(texts.rows))[:, None], texts.at(number + 1))
            loss = loss + soft * F.cross_entropy(
                step.logits, labels[row][step.valid], reduction="sum"
            )
        total = total + loss / max(len(step.logits), 1)
    return total / head.config.heads


@torch.no_grad()
def _soft_labels(
    texts: Texts, teacher: Teacher, ids: Int[Tensor, " draft"]
) -> Float[Tensor, "texts length draft"]:
    """Return the target's distribution over the draft vocabulary after each place."""
    return (
        teacher.logits(texts.states[:, :, -1].flatten(0, 1), ids)
        .softmax(-1)
        .view(*texts.tokens.shape, -1)
    )
